"""Our models with public tensors: they agree with the packages that published them."""

import json

import jax
import numpy as np
import pytest
from public_models import FIXTURES, SINGLE, assert_same, jitted, outputs, read_fixture
from safetensors.numpy import load_file

from jvflow import networks, pretrained
from jvflow.codecs import tiny
from jvflow.flow import ddim
from jvflow.flow.field import Condition

# --- DiT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["dit_two_layers", "dit_wide_patch"])
def test_dit_gives_what_diffusers_gives(name, scan):
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    assert_same(outputs(pretrained.import_checkpoint("dit", config, tensors, scan=scan), io), io["output"])


def test_dit_gives_the_golden_output(shared):
    config, tensors, io = read_fixture(shared / "golden" / "dit_tiny.safetensors")
    assert_same(outputs(pretrained.import_checkpoint("dit", config, tensors), io), io["output"])


def original(tensors, hidden, timestep, labels, heads):
    """Computes DiT as its authors define it, one example after the other, in NumPy."""
    silu = lambda a: a / (1 + np.exp(-a))
    gelu = lambda a: 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    norm = lambda a: (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6)
    w = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    affine = lambda a, name: a @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    kernel = w["x_embedder.proj.weight"]
    d, c, p, _ = kernel.shape
    made = []
    for x, t, label in zip(np.asarray(hidden, np.float64), timestep, labels):
        side = x.shape[-1] // p
        patches = [x[:, i * p : (i + 1) * p, j * p : (j + 1) * p] for i in range(side) for j in range(side)]
        tokens = (
            np.stack([np.einsum("dcpq,cpq->d", kernel, patch) for patch in patches])
            + w["x_embedder.proj.bias"]
            + w["pos_embed"][0]
        )
        angles = t * np.exp(-np.log(10000) * np.arange(128) / 128)
        e = affine(
            silu(affine(np.concatenate([np.cos(angles), np.sin(angles)]), "t_embedder.mlp.0")), "t_embedder.mlp.2"
        )
        e = silu(e + w["y_embedder.embedding_table.weight"][label])
        for i in range(sum(name.endswith("attn.qkv.weight") for name in w)):
            shift, scale, gate, shift_m, scale_m, gate_m = np.split(affine(e, f"blocks.{i}.adaLN_modulation.1"), 6)
            q, k, v = (
                affine(norm(tokens) * (1 + scale) + shift, f"blocks.{i}.attn.qkv")
                .reshape(-1, 3, heads, d // heads)
                .transpose(1, 2, 0, 3)
            )
            scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(d // heads))
            attended = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, d)
            tokens = tokens + gate * affine(attended, f"blocks.{i}.attn.proj")
            hidden_layer = gelu(affine(norm(tokens) * (1 + scale_m) + shift_m, f"blocks.{i}.mlp.fc1"))
            tokens = tokens + gate_m * affine(hidden_layer, f"blocks.{i}.mlp.fc2")
        shift, scale = np.split(affine(e, "final_layer.adaLN_modulation.1"), 2)
        out = affine(norm(tokens) * (1 + scale) + shift, "final_layer.linear").reshape(side, side, p, p, -1)
        made.append(np.einsum("hwpqc->chpwq", out).reshape(-1, side * p, side * p))
    return np.stack(made)


def test_dit_as_its_authors_name_it(tmp_path):
    """Compares one embedding for all blocks, q, k and v in one tensor, and other frequencies with the formulas."""
    from jvflow.networks.layers import position_table

    config, _, io = read_fixture(FIXTURES / "dit_two_layers.safetensors")
    rng, d = np.random.default_rng(0), config["num_attention_heads"] * config["attention_head_dim"]
    shapes = jax.eval_shape(pretrained.KINDS["dit"].model(config, "original").network.init, jax.random.key(0))
    params = jax.tree.map(lambda a: (0.2 * rng.normal(size=a.shape)).astype(np.float32), shapes)
    pretrained.export("dit", config, params, tmp_path, naming="original")
    tensors = load_file(tmp_path / SINGLE) | {"pos_embed": position_table((1, 5, 5), d)[None]}
    expected = original(tensors, io["hidden_states"], io["timestep"], io["class_labels"], config["num_attention_heads"])
    assert_same(outputs(pretrained.import_checkpoint("dit", config, tensors), io), expected)


@pytest.mark.parametrize("scan", [False, True])
def test_a_dit_with_captions_is_the_public_one_until_it_is_trained(scan, tmp_path):
    config, tensors, io = read_fixture(FIXTURES / "dit_two_layers.safetensors")
    network = pretrained.import_checkpoint("dit", config, tensors, scan=scan, text_width=6)
    assert_same(outputs(network, io), io["output"])
    field = jax.jit(lambda params, x, t, condition: networks.as_field(network, params)(x, (t,), condition)[0])
    x, t = np.moveaxis(io["hidden_states"], 1, -1)[:, None], np.asarray(io["timestep"], np.float32)
    label, text = (
        np.asarray(io["class_labels"]),
        np.random.default_rng(0).normal(size=(len(x), 5, 6)).astype(np.float32),
    )
    output = field(network.params, x, t, Condition(label=label, text=text))
    assert_same(np.moveaxis(np.asarray(output)[:, 0], -1, 1), io["output"][:, : x.shape[-1]])
    rows = np.linspace(-0.3, 0.3, config["num_attention_heads"] * config["attention_head_dim"], dtype=np.float32)
    trained = jax.tree_util.tree_map_with_path(
        lambda path, a: a + np.broadcast_to(rows, a.shape) if "text_proj" in jax.tree_util.keystr(path) else a,
        network.params,
    )
    assert np.abs(field(trained, x, t, Condition(label=label, text=text)) - output).max() > 0.01
    with pytest.raises(
        ValueError, match="has no place for .*text_.* export without scan, text_width" if scan else "has no place for"
    ):
        pretrained.export("dit", config, network.params, tmp_path, scan=scan, text_width=6)


def test_full_size_dit_has_the_public_tensors(shared):
    """Checks names and shapes one to one, and the parameter counts of both namings."""
    manifest = json.loads((shared / "golden" / "manifests" / "dit_xl_2_256.json").read_text())
    config, shapes = manifest["config"], {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    model = pretrained.KINDS["dit"].model(config, "diffusers")
    pretrained.check_tensors("dit", model, shapes)
    assert sorted(name for entry in model.layout for name in entry.names) == sorted(shapes)
    count = lambda model: sum(a.size for a in model.shapes.values())
    assert count(model) == manifest["parameters"] == 749_826_464
    table = 16 * 16 * 1152
    assert count(pretrained.KINDS["dit"].model(config, "original", scan=True)) + table == 675_129_632


# --- autoencoder ----------------------------------------------------------------------------------


def assert_autoencodes(config, tensors, io):
    network = pretrained.import_checkpoint("sd_vae", config, tensors)
    apply = jax.jit(network.apply, static_argnames="method")
    mean, log_variance = apply(network.params, method="encode", sample=io["sample"])
    assert_same(np.asarray(mean), io["mean"])
    assert_same(np.asarray(log_variance), io["logvar"])
    assert_same(np.asarray(apply(network.params, method="decode", z=io["mean"])), io["decoded"])


@pytest.mark.parametrize("name", ["vae_three_levels", "vae_plain"])
def test_the_autoencoder_gives_what_diffusers_gives(name):
    assert_autoencodes(*read_fixture(FIXTURES / f"{name}.safetensors"))


def test_the_autoencoder_gives_the_golden_output(shared):
    assert_autoencodes(*read_fixture(shared / "golden" / "autoencoder_kl_tiny.safetensors"))


def first_names(tensors):
    """Returns the tensors under the names in SD v1.5's files."""
    then = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for now, name in then.items():
        tensors = {key.replace(now, name): tensor for key, tensor in tensors.items()}
    return tensors


def test_the_autoencoder_under_its_first_names(tmp_path):
    config, tensors, io = read_fixture(FIXTURES / "vae_three_levels.safetensors")
    assert first_names(tensors).keys() != tensors.keys()
    assert_autoencodes(config, first_names(tensors), io)
    pretrained.export(
        "sd_vae", config, pretrained.import_checkpoint("sd_vae", config, tensors).params, tmp_path, naming="first"
    )
    assert load_file(tmp_path / SINGLE).keys() == first_names(tensors).keys()


def test_full_size_autoencoder_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "sd15_vae.json").read_text())
    shapes = {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    for naming, names in dict(current=shapes, first=first_names(shapes)).items():
        model = pretrained.KINDS["sd_vae"].model(manifest["config"], naming)
        pretrained.check_tensors("sd_vae", model, names)
        assert len(model.layout) == len(names) == 248
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 83_653_863


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(act_fn="relu"), 'act_fn is "relu", allowed: "silu" or "swish"$'),
        (dict(use_quant_conv=False), "use_post_quant_conv is true .*, allowed: the same as use_quant_conv, false$"),
        (dict(up_block_types=["AttnUpDecoderBlock2D"] * 3), 'up_block_types is .*, each "UpDecoderBlock2D"$'),
    ],
)
def test_another_autoencoder(change, message):
    config, tensors, _ = read_fixture(FIXTURES / "vae_three_levels.safetensors")
    with pytest.raises(ValueError, match=message):
        pretrained.import_checkpoint("sd_vae", config | change, tensors)


# --- tiny autoencoder -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["taesd_three_levels", "taesd_two_levels"])
def test_the_tiny_autoencoder_gives_what_diffusers_gives(name, tmp_path):
    """Covers encoding and decoding, diffusers' and the authors' names, and the codec that reads the same tensors."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint("taesd", config, tensors)
    pretrained.export("taesd", config, network.params, tmp_path, naming="original")
    original = load_file(tmp_path / SINGLE)
    assert {
        "encoder.0.weight",
        "decoder.1.weight",
        "decoder.3.conv.0.weight",
    } <= original.keys() and not original.keys() & tensors.keys()
    for params in (network.params, pretrained.import_checkpoint("taesd", config, original).params):
        assert_same(np.asarray(jitted(network)(params, method="encode", x=io["sample"])), io["latents"])
        assert_same(np.asarray(jitted(network)(params, method="decode", x=io["latents"])), io["decoded"])
    codec = tiny.build(tmp_path / SINGLE)
    decoded = codec.decode(codec.params, np.moveaxis(io["latents"], 1, -1)[None])[0]
    expected = np.round(np.clip(np.moveaxis(io["decoded"], 1, -1) / 2 + 0.5, 0, 1) * 255)
    assert np.abs(decoded - expected).max() <= 1 and (decoded == expected).mean() > 0.99


def test_full_size_tiny_autoencoder_has_the_public_tensors():
    """Checks the size of diffusers' AutoencoderTiny(), and that a missing last layer raises."""
    model = pretrained.KINDS["taesd"].model({}, "diffusers")
    assert sum(a.size for a in model.shapes.values()) == 2_445_063 and len(model.layout) == 134
    shapes = {entry.names[0]: model.shapes[entry.path].shape for entry in model.layout}
    with pytest.raises(ValueError, match="1 differ:\n  missing decoder.layers.18.bias \\(3,\\)"):
        pretrained.check_tensors(
            "taesd", model, {name: shape for name, shape in shapes.items() if name != "decoder.layers.18.bias"}
        )
    with pytest.raises(
        ValueError,
        match=r"encoder_block_out_channels is \[32, 64, 64, 64\], allowed: one number of channels in all layers$",
    ):
        pretrained.KINDS["taesd"].model(dict(encoder_block_out_channels=[32, 64, 64, 64]), "diffusers")


# --- U-Net ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet_biflow", "unet_plain", "unet_old", "unet_uneven"])
def test_the_unet_gives_what_diffusers_gives(name):
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint("unet2d", config, tensors)
    assert_same(
        np.asarray(jax.jit(network.apply)(network.params, io["sample"], io["timestep"], io.get("class_labels"))),
        io["output"],
    )


def test_full_size_unet_has_the_tensors_that_biflow_released(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "biflow_unet_c128.json").read_text())
    model = pretrained.KINDS["unet2d"].model(manifest["config"], "diffusers")
    pretrained.check_tensors("unet2d", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 123_909_635


def test_another_unet_and_images_that_it_does_not_take():
    config, tensors, io = read_fixture(FIXTURES / "unet_biflow.safetensors")
    for change in (
        dict(act_fn="relu"),
        dict(class_embed_type="identity"),
        dict(up_block_types=["AttnUpBlock2D", "SkipUpBlock2D", "UpBlock2D"]),
    ):
        with pytest.raises(ValueError, match=f"cannot be read: {next(iter(change))} is .*, allowed: "):
            pretrained.import_checkpoint("unet2d", config | change, tensors)
    with pytest.raises(ValueError, match="block_out_channels is .*, allowed: multiples of norm_num_groups 3$"):
        pretrained.import_checkpoint("unet2d", config | dict(norm_num_groups=3), tensors)
    network = pretrained.import_checkpoint("unet2d", config, tensors)
    with pytest.raises(ValueError, match="multiples of 4 for 3 levels, got 10 x 8"):
        network.apply(network.params, np.zeros((1, 3, 10, 8)), 0.5, 0.1)
    with pytest.raises(ValueError, match="was built with a noise level, and got none"):
        network.apply(network.params, np.zeros((1, 3, 8, 8)), 0.5)


@pytest.mark.parametrize("name", ["sd_unet_two_levels", "sd_unet_three_levels", "sd_unet_second"])
def test_the_unet_with_text_gives_what_diffusers_gives(name):
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint("sd_unet", config, tensors)
    assert_same(
        np.asarray(jax.jit(network.apply)(network.params, io["sample"], io["timestep"], io["encoder_hidden_states"])),
        io["output"],
    )
    with pytest.raises(ValueError, match='addition_embed_type is "text_time", allowed: null$'):
        pretrained.import_checkpoint("sd_unet", config | dict(addition_embed_type="text_time"), tensors)


def test_full_size_unet_with_text_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "sd15_unet.json").read_text())
    model = pretrained.KINDS["sd_unet"].model(manifest["config"], "diffusers")
    pretrained.check_tensors("sd_unet", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 859_520_964


# --- CLIP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip_text_quick", "clip_text_gelu"])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_clip_gives_what_transformers_gives(name, prefix):
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint(
        "clip_text", config, {prefix + key: tensor for key, tensor in tensors.items()}
    )
    x, pooled = jax.jit(network.apply)(network.params, io["input_ids"], io.get("attention_mask"))
    assert_same(np.asarray(x), io["last_hidden_state"])
    assert_same(np.asarray(pooled), io["pooler_output"])


def test_full_size_clip_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "clip_vit_l14_text.json").read_text())
    for naming, prefix in dict(current="", hub="text_model.").items():
        model = pretrained.KINDS["clip_text"].model(manifest["config"], naming)
        pretrained.check_tensors(
            "clip_text", model, {prefix + name: tuple(shape) for name, shape in manifest["tensors"].items()}
        )
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 123_060_480


def test_another_clip_and_texts_that_it_does_not_take():
    config, tensors, io = read_fixture(FIXTURES / "clip_text_quick.safetensors")
    with pytest.raises(ValueError, match='hidden_act is "mish", allowed: "quick_gelu" or "gelu" or'):
        pretrained.import_checkpoint("clip_text", config | dict(hidden_act="mish"), tensors)
    network = pretrained.import_checkpoint("clip_text", config, tensors)
    with pytest.raises(ValueError, match="reads 9 tokens, got 10"):
        network.apply(network.params, np.zeros((1, 10), int))


# --- pipeline -------------------------------------------------------------------------------------


def test_a_published_picture(shared):
    """Checks that DiT, DDIM and the decoder reproduce the pixels that diffusers publishes for its DiT pipeline.

    The pipeline takes two steps with class 1 and guidance 4.
    """
    config, tensors, io = read_fixture(shared / "golden" / "dit_pipeline_dummy.safetensors")
    part = lambda name: {
        key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")
    }
    dit = pretrained.import_checkpoint("dit", config, part("transformer"))
    plain = dict(
        down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"],
        block_out_channels=[64],
        layers_per_block=1,
        latent_channels=4,
    )
    vae = pretrained.import_checkpoint("sd_vae", plain, part("vae"))

    def guided(params, x, t):
        with_class, without = (dit.apply(params, x, t, np.full(len(x), label))[:, :4] for label in (1, 1000))
        return without + 4.0 * (with_class - without)

    schedule = ddim.Schedule.from_config({})
    latents = ddim.sample(jax.tree_util.Partial(guided, dit.params), io["init_latents"], schedule, steps=2)
    image = np.asarray(jitted(vae)(vae.params, method="decode", z=latents / 0.18215))
    image = np.clip(image / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(image, io["image"], atol=2e-5)
    np.testing.assert_allclose(image[0, -3:, -3:, -1].flatten(), io["published_expected_slice"], atol=1e-3)
