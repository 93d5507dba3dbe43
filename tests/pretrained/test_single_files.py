"""Models in single files: names, sizes and parts, compared with the same models in the folders of the public hubs."""

import json
import re

import author_names
import jax
import numpy as np
import pytest
import torch_files
from conftest import load_config
from public_models import FIXTURES, assert_same, export_random, read_fixture
from safetensors.numpy import load_file, save_file

from jvflow import codecs, pretrained
from jvflow.experiment import assemble
from jvflow.pretrained import public, single
from jvflow.pretrained.single import images, ltx, stable_diffusion, text_encoders, wan


def tensors_of(folder):
    return {name: a for file in folder.glob("*.safetensors") for name, a in load_file(file).items()}


def assert_same_model(source, folder, kind, **options):
    """Checks that a source holds the tensors of a folder, under the same names, and the sizes of its config."""
    found, config, files = pretrained.open_folder(source, kind)
    expected = tensors_of(folder)
    assert (kind in (None, found)) and files.keys() == expected.keys()
    for name, a in expected.items():
        np.testing.assert_array_equal(files[name], a, err_msg=name)
    model = pretrained.find_model(found, config, files, **options)
    assert model.network.config == pretrained.inspect(folder, **options).network.config


# --- LTX-Video ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", author_names.VAE_BLOCKS)
def test_the_config_of_an_autoencoder_of_ltx(version):
    found = ltx.read_autoencoder_config(author_names.VAE_METADATA | author_names.VAE_BLOCKS[version])
    assert {key: found[key] for key in author_names.VAE_CONFIGS[version]} == author_names.VAE_CONFIGS[version]
    assert found["latent_channels"] == 128 and found["patch_size"] == 4 and not found["decoder_causal"]


@pytest.fixture(scope="module", params=list(author_names.VAE_BLOCKS))
def ltx_file(request, tmp_path_factory):
    """Returns a single file of LTX-Video, and the folder of a pipeline with the same models."""
    folder, version = tmp_path_factory.mktemp("ltx"), request.param
    export_random("ltx_transformer", author_names.LTX, folder / "transformer", seed=1)
    metadata = dict(author_names.VAE_METADATA | author_names.VAE_BLOCKS[version], latent_channels=3, patch_size=2)
    metadata |= dict(encoder_base_channels=2, decoder_base_channels=4)
    small = lambda blocks: [[name, 1 if isinstance(n, int) else n | dict(num_layers=1)] for name, n in blocks]
    metadata |= {key: small(metadata[key]) for key in metadata if key.endswith("blocks")}
    export_random("ltx_vae", ltx.read_autoencoder_config(metadata), folder / "vae", seed=2)
    old = {
        f"model.diffusion_model.{author_names.backwards(name, author_names.LTX_NAMES)}": a
        for name, a in tensors_of(folder / "transformer").items()
    }
    table = author_names.VAE_NAMES[version] + author_names.VAE_COMMON
    old |= {f"vae.{author_names.backwards(name, table)}": a for name, a in tensors_of(folder / "vae").items()}
    old |= {f"vae.per_channel_statistics.{name}": np.zeros(3, np.float32) for name in ("channel", "mean-of-stds")}
    config = json.dumps(dict(transformer=author_names.LTX_METADATA, vae=metadata, scheduler={}))
    save_file(old, folder / "ltx-video-2b-v0.9.x.safetensors", dict(config=config))
    return folder / "ltx-video-2b-v0.9.x.safetensors", folder


def test_ltx_in_one_file(ltx_file, tmp_path):
    file, folder = ltx_file
    assert_same_model(file, folder / "transformer", "ltx_transformer")
    assert_same_model(file, folder / "vae", "ltx_vae")
    shapes = [
        codecs.build("ltx_vae", checkpoint=(str(path),)).latent_shape((9, 64, 64)) for path in (file, folder / "vae")
    ]
    assert shapes[0] == shapes[1]
    with pytest.raises(ValueError, match="holds ltx_transformer, ltx_vae: choose one by kind='ltx_transformer'"):
        pretrained.load(file)
    with pytest.raises(ValueError, match="v0.9.x.safetensors holds no wan_vae: it holds ltx_transformer, ltx_vae"):
        pretrained.load(file, kind="wan_vae")
    # the same file in place of the one of a folder
    (tmp_path / "config.json").write_bytes((folder / "transformer" / "config.json").read_bytes())
    (tmp_path / "any.safetensors").symlink_to(file)
    with pytest.raises(ValueError, match="is a link to"):
        pretrained.load(tmp_path)
    (tmp_path / "any.safetensors").unlink()
    (tmp_path / "any.safetensors").write_bytes(file.read_bytes())
    assert_same_model(tmp_path, folder / "transformer", "ltx_transformer", scan=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(transformer=dict(author_names.LTX_METADATA, qk_norm="layer_norm")),
            "this config says {'qk_norm': 'layer_norm'}",
        ),
        (
            dict(transformer={k: v for k, v in author_names.LTX_METADATA.items() if k != "qk_norm"}),
            "says {'qk_norm': None}",
        ),
        (dict(transformer=3), "the metadata of the file hold no config of the transformer, but 3"),
        ({}, "the metadata of the file hold no valid config of the transformer"),
        ("{" * 10000, "the metadata of the file hold no valid config of the transformer"),
    ],
)
def test_the_config_in_the_metadata_is_checked(change, message, tmp_path):
    text = change if isinstance(change, str) else json.dumps(change)
    save_file({"patchify_proj.weight": np.zeros((64, 3), np.float32)}, tmp_path / "a.safetensors", dict(config=text))
    with pytest.raises(ValueError, match=f"a.safetensors: .*{message}"):
        pretrained.load(tmp_path / "a.safetensors")


def test_other_autoencoders_of_ltx_are_refused(tmp_path):
    good = author_names.VAE_METADATA | author_names.VAE_BLOCKS["0.9.5"]
    for change in (
        dict(spatial_padding_mode="reflect"),
        dict(norm_layer="group_norm"),
        dict(latent_log_var="constant"),
        dict(encoder_blocks=[["attn_res_x", {}]]),
        dict(encoder_blocks=[[author_names.BOTH, {}]]),
        dict(decoder_blocks=[[author_names.RES, dict(num_layers=10**9)]]),
        dict(decoder_blocks=[[author_names.RES, {}], ["compress_all_res", {}]]),
        dict(decoder_blocks="res_x"),
        dict(encoder_base_channels="9"),
    ):
        with pytest.raises(ValueError, match="autoencoder of LTX-Video"):
            ltx.read_autoencoder_config(good | change)
    save_file({"per_channel_statistics.mean-of-means": np.zeros(3, np.float32)}, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="has no config of its autoencoder in its metadata.* use the file that the"):
        pretrained.load(tmp_path / "vae.safetensors")


# --- Wan ------------------------------------------------------------------------------------------


def test_wan_under_its_own_names_gives_what_diffusers_gives(tmp_path):
    """Reads the authors' own folder: their class, their names, and other files next to it."""
    config, tensors, io = read_fixture(FIXTURES / "wan_plain.safetensors")
    own = dict(_class_name="WanModel", model_type="t2v", dim=24, num_heads=2, ffn_dim=config["ffn_dim"], num_layers=2)
    own |= dict(in_dim=4, out_dim=4, text_dim=config["text_dim"], freq_dim=256, eps=1e-6)
    (tmp_path / "config.json").write_text(json.dumps(own))
    old = {author_names.backwards(name, author_names.WAN_NAMES): a for name, a in tensors.items()}
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
    torch_files.write(tmp_path / "Wan2.1_VAE.pth", {"conv1.weight": np.zeros(3, np.float32)})
    network = pretrained.load(tmp_path)
    inputs = (io["hidden_states"], io["timestep"], io["encoder_hidden_states"])
    assert_same(np.asarray(jax.jit(network.apply)(network.params, *inputs)), io["output"])
    with pytest.raises(
        ValueError, match="holds a wan_transformer, not a wan_vae: .*another file in it, Wan2.1_VAE.pth"
    ):
        pretrained.load(tmp_path, kind="wan_vae")
    for key, value in (("model_type", "i2v"), ("window_size", [4, 4]), ("num_heads", 7), ("num_heads", 0)):
        (tmp_path / "config.json").write_text(json.dumps(own | {key: value}))
        with pytest.raises(ValueError, match=f"config.json: a WanModel of text to video has .*'{key}': "):
            pretrained.load(tmp_path)


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    config = dict(num_attention_heads=1, attention_head_dim=128, num_layers=1, in_channels=2, out_channels=3)
    config |= dict(text_dim=4, ffn_dim=6, patch_size=[1, 2, 2], cross_attn_norm=True)
    return export_random("wan_transformer", config, tmp_path_factory.mktemp("wan") / "transformer")


def test_wan_and_causvid_without_a_config(wan_folder, tmp_path):
    """Takes the sizes from the tensors, in safetensors and in a training checkpoint with two networks."""
    old = {author_names.backwards(name, author_names.WAN_NAMES): a for name, a in tensors_of(wan_folder).items()}
    save_file({f"model.diffusion_model.{name}": a for name, a in old.items()}, tmp_path / "wan.safetensors")
    assert_same_model(tmp_path / "wan.safetensors", wan_folder, "wan_transformer", scan=True)
    save_file(tensors_of(wan_folder), tmp_path / "public.safetensors")
    assert_same_model(tmp_path / "public.safetensors", wan_folder, None)
    wrapped = {f"model._fsdp_wrapped_module.{name}": a for name, a in old.items()}
    checkpoint = dict(generator=wrapped, critic={name: a + 1 for name, a in wrapped.items()}, step=3)
    file = torch_files.write(tmp_path / "model.pt", checkpoint)
    with pytest.raises(
        ValueError, match="holds 2 models of the kind wan_transformer: give .*/generator.model or .*/critic"
    ):
        pretrained.load(file)
    assert_same_model(file / "generator", wan_folder, "wan_transformer")
    critic = pretrained.load(f"{file}/critic")
    expected = pretrained.load(wan_folder).params["proj_out"]["bias"]
    np.testing.assert_allclose(critic.params["proj_out"]["bias"], expected + 1)
    with pytest.raises(ValueError, match="model.pt has no tensors under ema: it has critic, generator"):
        pretrained.load(file / "ema")
    image = old | {"blocks.0.cross_attn.k_img.weight": np.zeros((128, 128), np.float32)}
    save_file(image, tmp_path / "wan.safetensors")
    with pytest.raises(ValueError, match="takes an image .image to video., and only text to video is read"):
        pretrained.load(tmp_path / "wan.safetensors")


@pytest.mark.parametrize("name", ["wan_vae_nine", "wan_vae_five"])
def test_the_autoencoder_of_wan_in_its_own_file(name, tmp_path):
    config, tensors, _ = read_fixture(FIXTURES / f"{name}.safetensors")
    each = config["num_res_blocks"] + 1

    def number(match):  # a level of the decoder has its blocks and an upsampling
        level, place = int(match[1]), each if match[2] == "upsamplers" else int(match[3])
        return f"decoder.upsamples.{level * (each + 1) + place}"

    old = {
        re.sub(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)", number, name): a
        for name, a in tensors.items()
    }
    old = {
        author_names.backwards(name.replace("decoder.upsamples", "decoder.resnets"), author_names.VAE_OF_WAN): a
        for name, a in old.items()
    }
    old = {name.replace("decoder.resnets", "decoder.upsamples"): a for name, a in old.items()}
    file = torch_files.write(tmp_path / "Wan2.1_VAE.pth", old)
    kind, found, files = pretrained.open_folder(file)
    assert kind == "wan_vae" and set(files) == set(tensors)
    for key, value in (dict(decoder_base_dim=config["base_dim"]) | config).items():
        assert found[key] == value, key
    for key, a in tensors.items():
        np.testing.assert_array_equal(files[key], a, err_msg=key)
    pretrained.find_model(kind, found, files)


# --- text encoders --------------------------------------------------------------------------------

T5_OF_WAN = [
    (r"^shared", "token_embedding"),
    (r"^encoder\.final_layer_norm", "norm"),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias", r"blocks.\1.pos_embedding.embedding"),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention", r"blocks.\1.attn"),
    (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm", r"blocks.\1.norm1"),
    (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm", r"blocks.\1.norm2"),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0", r"blocks.\1.ffn.gate.0"),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1", r"blocks.\1.ffn.fc1"),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo", r"blocks.\1.ffn.fc2"),
]


@pytest.mark.parametrize("name, wans", [("t5_shared", False), ("umt5_own", False), ("umt5_own", True)])
def test_t5_in_one_file_gives_what_transformers_gives(name, wans, tmp_path):
    """Reads t5xxl_fp16 and umt5_xxl as ComfyUI has them, and Wan's own file, which has other names."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    tensors.pop("encoder.embed_tokens.weight", None)
    if name == "umt5_own" and not wans:
        tensors["spiece_model"] = np.zeros(9, np.uint8)  # ComfyUI's file holds the tokenizer too
    if wans:
        file = torch_files.write(
            tmp_path / "models_t5.pth", {author_names.backwards(n, T5_OF_WAN): a for n, a in tensors.items()}
        )
    else:
        save_file(tensors, tmp_path / "t5.safetensors")
        file = tmp_path / "t5.safetensors"
    found = pretrained.open_folder(file)[1]
    keys = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets")
    assert {key: found[key] for key in keys} == {key: config[key] for key in keys}
    if name == "umt5_own":  # the other one has another largest distance, which its tensors do not tell
        network = pretrained.load(file, kind="t5_encoder")
        made = jax.jit(network.apply)(network.params, io["input_ids"], io["attention_mask"])
        assert_same(np.asarray(made)[0], io["last_hidden_state"][0])


def test_t5_of_version_1_is_refused(tmp_path):
    _, tensors, _ = read_fixture(FIXTURES / "t5_masked.safetensors")
    save_file({name.replace("wi_0", "wi"): a for name, a in tensors.items()}, tmp_path / "t5.safetensors")
    with pytest.raises(ValueError, match="t5.safetensors: the file holds a T5 of version 1.0"):
        pretrained.load(tmp_path / "t5.safetensors")


# --- Stable Diffusion -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """Returns the file of a very small Stable Diffusion 1.x, and the folder with the same models."""
    folder, levels = tmp_path_factory.mktemp("sd"), 3
    attends = (True, True, False)
    blocks = lambda kind: [f"CrossAttn{kind}Block2D" if attend else f"{kind}Block2D" for attend in attends]
    unet = dict(block_out_channels=[32, 32, 64], layers_per_block=2, attention_head_dim=8, cross_attention_dim=64)
    unet |= dict(in_channels=4, out_channels=4, down_block_types=blocks("Down"), up_block_types=blocks("Up")[::-1])
    vae = dict(block_out_channels=[32, 64, 64], layers_per_block=1, latent_channels=4, in_channels=3, out_channels=3)
    vae |= dict(down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)
    vae |= dict(norm_num_groups=32)
    text = dict(vocab_size=700, max_position_embeddings=12, hidden_size=64, num_hidden_layers=1, num_attention_heads=1)
    text |= dict(intermediate_size=96, hidden_act="quick_gelu", layer_norm_eps=1e-5, eos_token_id=699)
    export_random("sd_unet", unet, folder / "unet", seed=1)
    export_random("sd_vae", vae, folder / "vae", seed=2)
    export_random("clip_text", text, folder / "text_encoder", seed=3)
    pairs = author_names.old_unet_names(levels, 2, attends)
    old = {
        f"model.diffusion_model.{author_names.old_unet_name(n, pairs)}": a
        for n, a in tensors_of(folder / "unet").items()
    }
    for name, a in tensors_of(folder / "vae").items():
        attention = re.search(r"attentions\.0\.to_.*weight", name)
        old[f"first_stage_model.{author_names.old_vae_name(name, levels)}"] = a[:, :, None, None] if attention else a
    old |= {f"cond_stage_model.transformer.{n}": a for n, a in tensors_of(folder / "text_encoder").items()}
    old |= {"alphas_cumprod": np.ones(9, np.float32), "model_ema.diffusion_modelinput_blocks00weight": np.ones(3)}
    old["first_stage_model.loss.logvar"] = np.ones((), np.float32)
    return old, folder


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_stable_diffusion_in_one_file(stable, suffix, tmp_path):
    old, folder = stable
    file = tmp_path / f"v1-5-pruned.{suffix}"
    if suffix == "safetensors":
        save_file(old, file)
    else:
        torch_files.write(
            file, {"state_dict": {n: np.asarray(a, np.float32) for n, a in old.items()}, "global_step": 1}
        )
    for kind, name in (("sd_unet", "unet"), ("sd_vae", "vae"), ("clip_text", "text_encoder")):
        assert_same_model(file, folder / name, kind)


def test_the_names_of_stable_diffusion_1_5(shared):
    """Checks the renaming at full size against the names of the public model."""
    manifest = json.loads((shared / "golden" / "manifests" / "sd15_unet.json").read_text())
    names = manifest["tensors"]
    pairs = author_names.old_unet_names(4, 2, (True, True, True, False))
    old = {author_names.old_unet_name(name, pairs): name for name in names}
    rename = stable_diffusion._rename_unet(old)
    assert len(old) == len(names) and {rename(name) for name in old} == set(names)
    config = stable_diffusion.unet_config({name: tuple(shape) for name, shape in names.items()}, {})
    for key, value in config.items():
        if key in manifest["config"]:
            assert manifest["config"][key] == value, key


def test_other_versions_of_stable_diffusion_are_refused():
    shapes = {"mid_block.attentions.0.proj_in.weight": (64, 64)}
    with pytest.raises(ValueError, match="a U-Net of Stable Diffusion 2 or XL"):
        stable_diffusion.unet_config(shapes, {})


# --- images ---------------------------------------------------------------------------------------


def test_sizes_of_full_size_models_follow_from_their_tensors(shared):
    functions = dict(
        biflow_unet_c128=images.unet_config,
        sd15_vae=stable_diffusion.autoencoder_config,
        t5_v1_1_xxl_encoder=text_encoders.t5_config,
        umt5_xxl_encoder=text_encoders.t5_config,
        wan21_1p3b_transformer=wan.transformer_config,
        wan21_vae=wan.autoencoder_config,
        ltx_2b_transformer=ltx.transformer_config,
    )
    for name, function in functions.items():
        manifest = json.loads((shared / "golden" / "manifests" / f"{name}.json").read_text())
        found = function({key: tuple(shape) for key, shape in manifest["tensors"].items()}, {})
        plain = json.loads(json.dumps(manifest["config"]))
        differ = {
            k: (v, plain[k]) for k, v in found.items() if k in plain and plain[k] not in (v, None) and k[0] != "_"
        }
        assert not differ, (name, differ)


def test_dit_as_its_authors_name_it():
    shapes = {"x_embedder.proj.weight": (1152, 4, 2, 2), "final_layer.linear.weight": (32, 1152)}
    shapes |= {"y_embedder.embedding_table.weight": (1001, 1152)} | {
        f"blocks.{i}.attn.proj.bias": () for i in range(28)
    }
    found = images.dit_config(shapes, {})
    assert (found["num_attention_heads"], found["attention_head_dim"], found["num_layers"]) == (16, 72, 28)
    assert (found["out_channels"], found["num_embeds_ada_norm"]) == (8, 1000)
    with pytest.raises(ValueError, match="has width 100, .* put the config.json of the model next to the file"):
        images.dit_config(shapes | {"x_embedder.proj.weight": (100, 4, 2, 2)}, {})


BIFLOW = dict(
    block_out_channels=[32, 32], layers_per_block=1, in_channels=3, out_channels=3, class_embed_type="timestep"
)
BIFLOW |= dict(down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"])


@pytest.fixture(scope="module")
def biflow(tmp_path_factory):
    """Returns a folder with two U-Nets, and with both in `checkpoints`, as Bi-flow's authors released them."""
    folder = tmp_path_factory.mktemp("biflow")
    for number in (1, 2):
        export_random("unet2d", BIFLOW, folder / f"model{number}", seed=number)
    both = {f"model{i}.{name}": a for i in (1, 2) for name, a in tensors_of(folder / f"model{i}").items()}
    (folder / "checkpoints").mkdir()
    save_file(both, folder / "checkpoints" / "model.safetensors")
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt"):
        (folder / "checkpoints" / name).write_bytes(b"not a model")
    return folder


def test_a_released_checkpoint_of_biflow_holds_both_networks(biflow, tmp_path):
    """Checks folder, file and file of PyTorch: the first network is the video's, the second is the noise's."""
    file = biflow / "checkpoints" / "model.safetensors"
    old = torch_files.write(tmp_path / "model.pt", load_file(file))
    config = load_config("biflow/unet.py", "debug")
    config.network.width.update(flow=32, biflow=32)
    config.network.update(levels=(1, 1), attends=(False, True), groups=32, head=8, blocks=1, dtype="float32")
    network = assemble(config).network
    expected = public.load_params(config, network, [str(biflow / "model1"), str(biflow / "model2")])
    for source in (biflow / "checkpoints", file, old):
        assert public.folders(str(source)) == [str(source)]
        found = public.load_params(config, network, [str(source)])
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(ValueError, match="holds 2 models of the kind unet2d: give .*/model1 or .*/model2"):
        pretrained.load(file)
    assert_same_model(f"{file}/model2", biflow / "model2", "unet2d")
    described = tmp_path / "described"
    described.mkdir()
    for path in (file, biflow / "model1" / "config.json"):
        (described / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        ValueError, match="described/model.safetensors holds 2 models of the kind unet2d: give .*/model1"
    ):
        pretrained.load(described)
    config.objective = "flow"
    network = assemble(config).network
    with pytest.raises(ValueError, match="holds 2 models of the kind unet2d"):
        public.load_params(config, network, [str(file)])


def test_no_sign_belongs_to_two_kinds():
    for a in single.ORIGINS:
        for b in single.ORIGINS:
            assert a is b or not set(a.signs) >= set(b.signs), (a, b)
