import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jvflow import codecs, ddim, latents, weights
from jvflow import mesh as meshes

FIXTURES = Path(__file__).parent / "fixtures"
SINGLE = "diffusion_pytorch_model.safetensors"


def read(file):
    """Config, weights, and inputs and outputs of a reference model."""
    with safe_open(file, "np") as opened:
        config = json.loads(opened.metadata()["meta"])["config"]
    tensors = load_file(file)
    part = lambda prefix: {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return config, part("w."), part("io.")


@pytest.fixture
def dit():
    return read(FIXTURES / "dit_two_layers.safetensors")


def outputs(network, io):
    return np.asarray(jax.jit(network.apply)(network.params, io["hidden_states"], io["timestep"], io["class_labels"]))


def assert_same(made, expected):
    assert made.shape == expected.shape and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


# --- DiT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["dit_two_layers", "dit_wide_patch"])
def test_dit_gives_what_diffusers_gives(name, scan):
    config, tensors, io = read(FIXTURES / f"{name}.safetensors")
    assert_same(outputs(weights.import_checkpoint("dit", config, tensors, scan=scan), io), io["output"])


def test_dit_gives_the_golden_output(shared):
    config, tensors, io = read(shared / "golden" / "dit_tiny.safetensors")
    assert_same(outputs(weights.import_checkpoint("dit", config, tensors), io), io["output"])


def original(tensors, hidden, timestep, labels, heads):
    """DiT as its authors wrote it down, one example after the other, in NumPy."""
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
        tokens = np.stack([np.einsum("dcpq,cpq->d", kernel, patch) for patch in patches]) + w["x_embedder.proj.bias"] + w["pos_embed"][0]
        angles = t * np.exp(-np.log(10000) * np.arange(128) / 128)
        e = affine(silu(affine(np.concatenate([np.cos(angles), np.sin(angles)]), "t_embedder.mlp.0")), "t_embedder.mlp.2")
        e = silu(e + w["y_embedder.embedding_table.weight"][label])
        for i in range(sum(name.endswith("attn.qkv.weight") for name in w)):
            shift, scale, gate, shift_m, scale_m, gate_m = np.split(affine(e, f"blocks.{i}.adaLN_modulation.1"), 6)
            q, k, v = affine(norm(tokens) * (1 + scale) + shift, f"blocks.{i}.attn.qkv").reshape(-1, 3, heads, d // heads).transpose(1, 2, 0, 3)
            scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(d // heads))
            attended = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, d)
            tokens = tokens + gate * affine(attended, f"blocks.{i}.attn.proj")
            hidden_layer = gelu(affine(norm(tokens) * (1 + scale_m) + shift_m, f"blocks.{i}.mlp.fc1"))
            tokens = tokens + gate_m * affine(hidden_layer, f"blocks.{i}.mlp.fc2")
        shift, scale = np.split(affine(e, "final_layer.adaLN_modulation.1"), 2)
        out = affine(norm(tokens) * (1 + scale) + shift, "final_layer.linear").reshape(side, side, p, p, -1)
        made.append(np.einsum("hwpqc->chpwq", out).reshape(-1, side * p, side * p))
    return np.stack(made)


def test_dit_as_its_authors_name_it(dit, tmp_path):
    """One embedding for all blocks, q, k and v in one tensor, other frequencies: against the formulas."""
    from jvflow.networks.embedding import position_table

    config, _, io = dit
    rng, d = np.random.default_rng(0), config["num_attention_heads"] * config["attention_head_dim"]
    shapes = jax.eval_shape(weights.KINDS["dit"].model(config, "original").network.init, jax.random.key(0))
    params = jax.tree.map(lambda a: (0.2 * rng.normal(size=a.shape)).astype(np.float32), shapes)
    weights.export("dit", config, params, tmp_path, generation="original")
    tensors = load_file(tmp_path / SINGLE) | {"pos_embed": position_table((1, 5, 5), d)[None]}
    expected = original(tensors, io["hidden_states"], io["timestep"], io["class_labels"], config["num_attention_heads"])
    assert_same(outputs(weights.import_checkpoint("dit", config, tensors), io), expected)


def test_full_size_dit_has_the_public_tensors(shared):
    """Names and shapes one to one, under `eval_shape`, and the counts of both layouts."""
    manifest = json.loads((shared / "golden" / "manifests" / "dit_xl_2_256.json").read_text())
    config, shapes = manifest["config"], {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    model = weights.KINDS["dit"].model(config, "diffusers")
    weights.check("dit", model, shapes)
    assert sorted(name for entry in model.layout for name in entry.theirs) == sorted(shapes)
    count = lambda model: sum(a.size for a in model.shapes.values())
    assert count(model) == manifest["parameters"] == 749_826_464
    table = 16 * 16 * 1152
    assert count(weights.KINDS["dit"].model(config, "original", scan=True)) + table == 675_129_632


# --- autoencoder ----------------------------------------------------------------------------------


def assert_autoencodes(config, tensors, io):
    network = weights.import_checkpoint("sd_vae", config, tensors)
    apply = jax.jit(network.apply, static_argnames="method")
    mean, log_variance = apply(network.params, method="encode", sample=io["sample"])
    assert_same(np.asarray(mean), io["mean"])
    assert_same(np.asarray(log_variance), io["logvar"])
    assert_same(np.asarray(apply(network.params, method="decode", z=io["mean"])), io["decoded"])


@pytest.mark.parametrize("name", ["vae_three_levels", "vae_plain"])
def test_the_autoencoder_gives_what_diffusers_gives(name):
    assert_autoencodes(*read(FIXTURES / f"{name}.safetensors"))


def test_the_autoencoder_gives_the_golden_output(shared):
    assert_autoencodes(*read(shared / "golden" / "autoencoder_kl_tiny.safetensors"))


def first_names(tensors):
    """As the files of SD v1.5 have them."""
    then = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for now, name in then.items():
        tensors = {key.replace(now, name): tensor for key, tensor in tensors.items()}
    return tensors


def test_the_autoencoder_under_its_first_names(tmp_path):
    config, tensors, io = read(FIXTURES / "vae_three_levels.safetensors")
    assert first_names(tensors).keys() != tensors.keys()
    assert_autoencodes(config, first_names(tensors), io)
    weights.export("sd_vae", config, weights.import_checkpoint("sd_vae", config, tensors).params, tmp_path, generation="first")
    assert load_file(tmp_path / SINGLE).keys() == first_names(tensors).keys()


def test_full_size_autoencoder_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "sd15_vae.json").read_text())
    shapes = {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    for generation, names in dict(current=shapes, first=first_names(shapes)).items():
        model = weights.KINDS["sd_vae"].model(manifest["config"], generation)
        weights.check("sd_vae", model, names)
        assert len(model.layout) == len(names) == 248
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 83_653_863


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(act_fn="relu"), "this config says {'act_fn': 'relu'}"),
        (dict(use_quant_conv=False), "use_quant_conv and use_post_quant_conv differ"),
        (dict(up_block_types=["AttnUpDecoderBlock2D"] * 3), "this config says {'up_block_types'"),
    ],
)
def test_another_autoencoder(change, message):
    config, tensors, _ = read(FIXTURES / "vae_three_levels.safetensors")
    with pytest.raises(ValueError, match=message):
        weights.import_checkpoint("sd_vae", config | change, tensors)


# --- U-Net ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet_biflow", "unet_plain"])
def test_the_unet_gives_what_diffusers_gives(name):
    config, tensors, io = read(FIXTURES / f"{name}.safetensors")
    network = weights.import_checkpoint("unet2d", config, tensors)
    assert_same(np.asarray(jax.jit(network.apply)(network.params, io["sample"], io["timestep"], io.get("class_labels"))), io["output"])


def test_full_size_unet_has_the_tensors_that_biflow_released(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "biflow_unet_c128.json").read_text())
    model = weights.KINDS["unet2d"].model(manifest["config"], "diffusers")
    weights.check("unet2d", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 123_909_635


def test_another_unet_and_images_that_it_does_not_take():
    config, tensors, io = read(FIXTURES / "unet_biflow.safetensors")
    for change in (dict(act_fn="relu"), dict(class_embed_type="identity"), dict(up_block_types=["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"])):
        with pytest.raises(ValueError, match=f"this config says {{.*{next(iter(change))}"):
            weights.import_checkpoint("unet2d", config | change, tensors)
    with pytest.raises(ValueError, match="channels .* are no multiples of groups 3"):
        weights.import_checkpoint("unet2d", config | dict(norm_num_groups=3), tensors)
    network = weights.import_checkpoint("unet2d", config, tensors)
    with pytest.raises(ValueError, match="multiples of 4 for 3 levels, got 10 x 8"):
        network.apply(network.params, np.zeros((1, 3, 10, 8)), 0.5, 0.1)
    with pytest.raises(ValueError, match="was built with a noise level, and got none"):
        network.apply(network.params, np.zeros((1, 3, 8, 8)), 0.5)


@pytest.mark.parametrize("name", ["sd_unet_two_levels", "sd_unet_three_levels"])
def test_the_unet_with_text_gives_what_diffusers_gives(name):
    config, tensors, io = read(FIXTURES / f"{name}.safetensors")
    network = weights.import_checkpoint("sd_unet", config, tensors)
    assert_same(np.asarray(jax.jit(network.apply)(network.params, io["sample"], io["timestep"], io["encoder_hidden_states"])), io["output"])
    with pytest.raises(ValueError, match="this config says {'use_linear_projection': True}"):
        weights.import_checkpoint("sd_unet", config | dict(use_linear_projection=True), tensors)


def test_full_size_unet_with_text_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "sd15_unet.json").read_text())
    model = weights.KINDS["sd_unet"].model(manifest["config"], "diffusers")
    weights.check("sd_unet", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 859_520_964


# --- CLIP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip_quick", "clip_gelu"])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_clip_gives_what_transformers_gives(name, prefix):
    config, tensors, io = read(FIXTURES / f"{name}.safetensors")
    network = weights.import_checkpoint("clip_text", config, {prefix + key: tensor for key, tensor in tensors.items()})
    x, pooled = jax.jit(network.apply)(network.params, io["input_ids"], io.get("attention_mask"))
    assert_same(np.asarray(x), io["last_hidden_state"])
    assert_same(np.asarray(pooled), io["pooler_output"])


def test_full_size_clip_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "clip_vit_l14_text.json").read_text())
    for generation, prefix in dict(current="", hub="text_model.").items():
        model = weights.KINDS["clip_text"].model(manifest["config"], generation)
        weights.check("clip_text", model, {prefix + name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 123_060_480


def test_another_clip_and_texts_that_it_does_not_take():
    config, tensors, io = read(FIXTURES / "clip_quick.safetensors")
    with pytest.raises(ValueError, match="unknown activation 'relu' of a text encoder of CLIP: use quick_gelu, gelu"):
        weights.import_checkpoint("clip_text", config | dict(hidden_act="relu"), tensors)
    network = weights.import_checkpoint("clip_text", config, tensors)
    with pytest.raises(ValueError, match="reads 9 tokens, got 10"):
        network.apply(network.params, np.zeros((1, 10), int))


# --- together -------------------------------------------------------------------------------------


def test_a_published_picture(shared):
    """DiT, DDIM and the decoder together: the numbers that the diffusers package publishes for its pipeline of DiT (two steps, class 1, guidance 4)."""
    config, tensors, io = read(shared / "golden" / "dit_pipeline_dummy.safetensors")
    part = lambda name: {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    dit = weights.import_checkpoint("dit", config, part("transformer"))
    plain = dict(down_block_types=["DownEncoderBlock2D"], up_block_types=["UpDecoderBlock2D"], block_out_channels=[64], layers_per_block=1, latent_channels=4)
    vae = weights.import_checkpoint("sd_vae", plain, part("vae"))

    def guided(params, x, t):
        with_class, without = (dit.apply(params, x, t, np.full(len(x), label))[:, :4] for label in (1, 1000))
        return without + 4.0 * (with_class - without)

    schedule = ddim.Schedule.of({})
    latents = ddim.sample(jax.tree_util.Partial(guided, dit.params), io["init_latents"], schedule, steps=2)
    image = np.asarray(vae.apply(vae.params, method="decode", z=latents / 0.18215))
    image = np.clip(image / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(image, io["image"], atol=2e-5)
    np.testing.assert_allclose(image[0, -3:, -3:, -1].flatten(), io["published_expected_slice"], atol=1e-3)


# --- folders --------------------------------------------------------------------------------------


def folder_of(path, config, tensors, files: int = 1, named: str = "DiTTransformer2DModel"):
    """A model as the hubs lay it out."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(dict(config, _class_name=named)))
    parts = [{name: tensors[name] for name in sorted(tensors)[i::files]} for i in range(files)]
    names = [f"diffusion_pytorch_model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)] if files > 1 else [SINGLE]
    for name, part in zip(names, parts):
        save_file(part, path / name)
    if files > 1:
        index = dict(metadata={}, weight_map={key: name for name, part in zip(names, parts) for key in part})
        (path / f"{SINGLE}.index.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("files", [1, 3])
def test_a_folder_in_one_file_or_in_many_comes_back_from_an_export(dit, tmp_path, files):
    config, tensors, io = dit
    network = weights.load(folder_of(tmp_path / "hub", config, tensors, files))
    assert_same(outputs(network, io), io["output"])
    weights.export("dit", config, network.params, tmp_path / "again")
    again = load_file(tmp_path / "again" / SINGLE)
    assert again.keys() == tensors.keys()
    for name in tensors:
        np.testing.assert_array_equal(again[name], tensors[name])
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


def test_parameters_are_cast_and_split_on_the_way_in(dit, tmp_path, monkeypatch):
    config, tensors, io = dit
    monkeypatch.setattr(meshes, "SMALL", 2**8)
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    network = weights.load(folder_of(tmp_path / "hub", config, half), mesh=meshes.make(dict(fsdp=4)), dtype=np.float32)
    leaves = jax.tree.leaves(network.params)
    assert all(leaf.dtype == np.float32 for leaf in leaves)
    qkv = network.params["blocks"][0]["qkv"]["kernel"]
    assert qkv.sharding.spec == jax.P("fsdp") and qkv.addressable_shards[0].data.shape == (6, 72)
    assert np.abs(outputs(network, io) - io["output"]).max() < 0.05 * np.abs(io["output"]).max()


def test_the_autoencoder_is_a_codec(tmp_path, monkeypatch):
    """Frame by frame as the model itself has it, scaled; as many frames at a time as fit; its files are what tells it from another."""
    config, tensors, _ = read(FIXTURES / "vae_plain.safetensors")
    path = folder_of(tmp_path / "vae", config | dict(scaling_factor=0.5), tensors, named="AutoencoderKL")
    codec = codecs.build("stable_diffusion", weights=(str(path),), scale=2.0)
    assert codec.latent_shape((3, 6, 10)) == (3, 3, 5, 4) and codec.posterior
    with pytest.raises(ValueError, match="multiples of 2, got 5 x 10: use 6 x 10"):
        codec.latent_shape((3, 5, 10))
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 10, 3), dtype=np.uint8)
    found = codec.encode(codec.params, video)
    network = weights.load(path)
    one = video[1, 2].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    mean, log_variance = network.apply(network.params, method="encode", sample=one)
    np.testing.assert_allclose(found.mean[1, 2], 0.25 * np.asarray(mean)[0].transpose(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose(found.std[1, 2], 0.25 * np.exp(0.5 * np.asarray(log_variance)[0].transpose(1, 2, 0)), rtol=1e-4)
    shown = codec.decode(codec.params, found.mean)
    image = np.asarray(network.apply(network.params, method="decode", z=mean))[0].transpose(1, 2, 0)
    assert shown.shape == video.shape and abs(np.asarray(shown[1, 2], int) - (np.clip(image, -1, 1) + 1) * 127.5).max() < 0.51
    monkeypatch.setattr(codecs.base, "AT_ONCE", 120)  # two frames
    jax.clear_caches()
    again = codec.encode(codec.params, video)
    np.testing.assert_allclose(again.mean, found.mean, atol=1e-5)
    np.testing.assert_allclose(again.std, found.std, rtol=1e-4)
    print_of = latents.fingerprint("stable_diffusion", weights=(str(path),))
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path / SINGLE)
    assert latents.fingerprint("stable_diffusion", weights=(str(path),)) != print_of


@pytest.mark.parametrize("given, message", [((), "takes one folder as config.codec.weights"), (("{dit}",), "holds no autoencoder")])
def test_a_codec_of_something_else(dit, tmp_path, given, message):
    config, tensors, _ = dit
    path = folder_of(tmp_path / "dit", config, tensors)
    with pytest.raises(ValueError, match=message):
        codecs.build("stable_diffusion", weights=tuple(str(path) for _ in given))


# --- mistakes -------------------------------------------------------------------------------------


def test_all_that_is_wrong_with_tensors_is_one_message(dit):
    config, tensors, _ = dit
    wrong = dict(tensors, extra=np.zeros(3))
    del wrong["proj_out_1.bias"], wrong["transformer_blocks.1.attn1.to_q.weight"]
    wrong["proj_out_2.bias"] = np.zeros(7)
    with pytest.raises(ValueError) as error:
        weights.import_checkpoint("dit", config, wrong)
    assert str(error.value).splitlines() == [
        f"these are not the {len(tensors)} tensors of a dit of this config, 4 differ:",
        "  missing transformer_blocks.1.attn1.to_q.weight (24, 24), for blocks/1/qkv/kernel",
        "  missing proj_out_1.bias (48,), for modulation/bias",
        "  unexpected extra (3,)",
        "  proj_out_2.bias is (7,), not (32,), for patch_out/bias",
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(norm_type="ada_norm"), "this config says {'norm_type': 'ada_norm'}"),
        (dict(out_channels=6), "out_channels 6 is no multiple of in_channels 4"),
        (dict(num_layers=3), "missing transformer_blocks.2"),
    ],
)
def test_another_config(dit, change, message):
    config, tensors, _ = dit
    with pytest.raises(ValueError, match=message):
        weights.import_checkpoint("dit", config | change, tensors)


def test_unknown_kinds_generations_and_parameters(dit, tmp_path):
    config, tensors, _ = dit
    with pytest.raises(ValueError, match="unknown kind 'dot': use one of clip_text, dit, sd_unet, sd_vae, unet2d"):
        weights.import_checkpoint("dot", config, tensors)
    params = weights.import_checkpoint("dit", config, tensors).params
    with pytest.raises(ValueError, match="unknown generation 'first' of dit: use one of diffusers, original"):
        weights.export("dit", config, params, tmp_path, generation="first")
    with pytest.raises(ValueError, match="not the parameters of a dit .* original layout, .*conditioning"):
        weights.export("dit", config, params, tmp_path, generation="original")
    assert not list(tmp_path.iterdir())


def test_folders_that_hold_no_model(dit, tmp_path):
    config, tensors, _ = dit
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no config.json"):
        weights.load(tmp_path / "empty")
    cut = folder_of(tmp_path / "cut", config, tensors)
    whole = (cut / SINGLE).read_bytes()
    (cut / SINGLE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        weights.load(cut)
    pickled = folder_of(tmp_path / "pickled", config, tensors)
    (pickled / SINGLE).rename(pickled / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="no safetensors but diffusion_pytorch_model.bin: pickles are never read"):
        weights.load(pickled)
    (pickled / "diffusion_pytorch_model.bin").rename(pickled / SINGLE)
    (pickled / SINGLE).write_bytes(b"\x80\x04\x95 a pickle under another name")
    with pytest.raises(ValueError, match="is no whole safetensors file .*pickled files .* are never read"):
        weights.load(pickled)
    other = folder_of(tmp_path / "other", config, tensors)
    (other / "config.json").write_text(json.dumps(dict(config, _class_name="UNet3D")))
    with pytest.raises(ValueError, match="is of UNet3D: known are DiTTransformer2DModel, AutoencoderKL, UNet2DModel, UNet2DConditionModel, CLIPTextModel"):
        weights.load(other)
    missing = folder_of(tmp_path / "missing", config, tensors, files=2)
    next(missing.glob("*00001-of*")).unlink()
    with pytest.raises(ValueError, match="00001-of-00002.safetensors is not there"):
        weights.load(missing)
