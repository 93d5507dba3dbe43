"""Models in single files: names, sizes and parts, compared with the same models in the folders of the public hubs."""

import json
import re

import jax
import numpy as np
import pytest
import torch_files
from public_models import FIXTURES, assert_same, export_random, read_fixture
from safetensors.numpy import load_file, save_file

from jvflow import pretrained
from jvflow.pretrained import single
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


def backwards(name, table):
    """Returns a name of diffusers under its old name, by a table of pairs (name of diffusers, old name)."""
    for new, old in table:
        name = re.sub(new, old, name)
    return name


# --- LTX-Video ------------------------------------------------------------------------------------

LTX = dict(num_attention_heads=2, attention_head_dim=4, in_channels=3, out_channels=3, num_layers=2)
LTX |= dict(caption_channels=5, cross_attention_dim=8)
LTX_METADATA = LTX | dict(
    _class_name="Transformer3DModel",
    activation_fn="gelu-approximate",
    attention_bias=True,
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    qk_norm="rms_norm",
    standardization_norm="rms_norm",
    positional_embedding_type="rope",
    positional_embedding_theta=10000.0,
    positional_embedding_max_pos=[20, 2048, 2048],
    timestep_scale_multiplier=1000,
)
LTX_NAMES = [
    (r"^proj_in", "patchify_proj"),
    (r"^time_embed", "adaln_single"),
    (r"norm_q", "q_norm"),
    (r"norm_k", "k_norm"),
]
RES, BOTH = "res_x", "compress_all"
VAE_METADATA = dict(
    _class_name="CausalVideoAutoencoder",
    dims=3,
    in_channels=3,
    out_channels=3,
    latent_channels=128,
    scaling_factor=1.0,
    norm_layer="pixel_norm",
    patch_size=4,
    latent_log_var="uniform",
    use_quant_conv=False,
    causal_decoder=False,
)
UP = [BOTH, dict(residual=True, multiplier=2)]
VAE_BLOCKS = {
    "0.9.0": dict(
        blocks=[
            *([RES, 4], [BOTH, 1], ["res_x_y", 1], [RES, 3], [BOTH, 1], ["res_x_y", 1]),
            *([RES, 3], [BOTH, 1], [RES, 3], [RES, 4]),
        ]
    ),
    "0.9.1": dict(
        timestep_conditioning=True,
        encoder_blocks=[
            *(
                [RES, dict(num_layers=4)],
                [BOTH, {}],
                ["res_x_y", dict(multiplier=2)],
                [RES, dict(num_layers=3)],
                [BOTH, {}],
            ),
            *(["res_x_y", dict(multiplier=2)], [RES, dict(num_layers=3)], [BOTH, {}], [RES, dict(num_layers=3)]),
            [RES, dict(num_layers=4)],
        ],
        decoder_blocks=[
            *([RES, dict(num_layers=5, inject_noise=True)], UP, [RES, dict(num_layers=6, inject_noise=True)], UP),
            *([RES, dict(num_layers=7, inject_noise=True)], UP, [RES, dict(num_layers=8, inject_noise=False)]),
        ],
    ),
    "0.9.5": dict(
        timestep_conditioning=True,
        encoder_blocks=[
            *([RES, dict(num_layers=4)], ["compress_space_res", dict(multiplier=2)], [RES, dict(num_layers=6)]),
            *(["compress_time_res", dict(multiplier=2)], [RES, dict(num_layers=6)]),
            *(["compress_all_res", dict(multiplier=2)], [RES, dict(num_layers=2)]),
            *(["compress_all_res", dict(multiplier=2)], [RES, dict(num_layers=2)]),
        ],
        decoder_blocks=[[RES, dict(num_layers=5)], UP, [RES, dict(num_layers=5)], UP, [RES, dict(num_layers=5)], UP]
        + [[RES, dict(num_layers=5)]],
    ),
}
VAE_CONFIGS = {
    "0.9.0": dict(
        block_out_channels=[128, 256, 512, 512],
        decoder_block_out_channels=[128, 256, 512, 512],
        layers_per_block=[4, 3, 3, 3, 4],
        decoder_layers_per_block=[4, 3, 3, 3, 4],
        spatio_temporal_scaling=[True, True, True, False],
        decoder_spatio_temporal_scaling=[True, True, True, False],
        decoder_inject_noise=[False] * 5,
        down_block_types=["LTXVideoDownBlock3D"] * 4,
        downsample_type=["conv"] * 4,
        upsample_residual=[False] * 4,
        upsample_factor=[1] * 4,
        timestep_conditioning=False,
    ),
    "0.9.1": dict(
        block_out_channels=[128, 256, 512, 512],
        decoder_block_out_channels=[256, 512, 1024],
        layers_per_block=[4, 3, 3, 3, 4],
        decoder_layers_per_block=[5, 6, 7, 8],
        spatio_temporal_scaling=[True, True, True, False],
        decoder_spatio_temporal_scaling=[True] * 3,
        decoder_inject_noise=[True, True, True, False],
        down_block_types=["LTXVideoDownBlock3D"] * 4,
        upsample_residual=[True] * 3,
        upsample_factor=[2] * 3,
        timestep_conditioning=True,
    ),
    "0.9.5": dict(
        block_out_channels=[128, 256, 512, 1024, 2048],
        decoder_block_out_channels=[256, 512, 1024],
        layers_per_block=[4, 6, 6, 2, 2],
        decoder_layers_per_block=[5] * 4,
        spatio_temporal_scaling=[True] * 4,
        decoder_spatio_temporal_scaling=[True] * 3,
        decoder_inject_noise=[False] * 4,
        down_block_types=["LTXVideo095DownBlock3D"] * 4,
        downsample_type=["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        upsample_residual=[True] * 3,
        upsample_factor=[2] * 3,
        timestep_conditioning=True,
    ),
}
LATER_UP = [(rf"^decoder\.up_blocks\.{i}\.upsamplers\.0", f"decoder.U.{2 * i + 1}") for i in range(3)]
LATER_UP += [(rf"^decoder\.up_blocks\.{i}", f"decoder.U.{2 * i + 2}") for i in range(3)]
FIRST_DOWN = [
    *[(rf"^encoder\.down_blocks\.{i}\.downsamplers\.0", f"encoder.D.{n}") for i, n in enumerate((1, 4, 7))],
    *[(rf"^encoder\.down_blocks\.{i}\.conv_out", f"encoder.D.{n}") for i, n in enumerate((2, 5))],
    *[(rf"^encoder\.down_blocks\.{i}", f"encoder.D.{n}") for i, n in enumerate((0, 3, 6, 8))],
    (r"^encoder\.mid_block", "encoder.D.9"),
]
VAE_NAMES = {
    "0.9.0": [
        *FIRST_DOWN,
        *[(rf"^decoder\.up_blocks\.{i}\.conv_in", f"decoder.U.{n}") for i, n in ((2, 4), (3, 7))],
        *[(rf"^decoder\.up_blocks\.{i}\.upsamplers\.0", f"decoder.U.{n}") for i, n in ((1, 2), (2, 5), (3, 8))],
        *[(rf"^decoder\.up_blocks\.{i}", f"decoder.U.{n}") for i, n in enumerate((1, 3, 6, 9))],
    ],
    "0.9.1": FIRST_DOWN + LATER_UP,
    "0.9.5": [
        *[(rf"^encoder\.down_blocks\.{i}\.downsamplers\.0", f"encoder.D.{2 * i + 1}") for i in range(4)],
        *[(rf"^encoder\.down_blocks\.{i}", f"encoder.D.{2 * i}") for i in range(4)],
        (r"^encoder\.mid_block", "encoder.D.8"),
        *LATER_UP,
    ],
}
VAE_COMMON = [
    (r"^decoder\.mid_block", "decoder.U.0"),
    (r"\.U\.", ".up_blocks."),
    (r"\.D\.", ".down_blocks."),
    (r"^decoder\.time_embedder", "decoder.last_time_embedder"),
    (r"^decoder\.scale_shift_table", "decoder.last_scale_shift_table"),
    (r"\.resnets\.", ".res_blocks."),
    (r"\.conv_shortcut\.conv\.", ".conv_shortcut."),
    (r"\.norm3\.", ".norm3.norm."),
    (r"^latents_mean$", "per_channel_statistics.mean-of-means"),
    (r"^latents_std$", "per_channel_statistics.std-of-means"),
]
"""The numbers of the released files: each block has the number that its place in the list of blocks gives it."""


@pytest.mark.parametrize("version", VAE_BLOCKS)
def test_the_config_of_an_autoencoder_of_ltx(version):
    found = ltx.read_autoencoder_config(VAE_METADATA | VAE_BLOCKS[version])
    assert {key: found[key] for key in VAE_CONFIGS[version]} == VAE_CONFIGS[version]
    assert found["latent_channels"] == 128 and found["patch_size"] == 4 and not found["decoder_causal"]


@pytest.fixture(scope="module", params=["0.9.0", "0.9.5"])
def ltx_file(request, tmp_path_factory):
    """Returns a single file of LTX-Video, and the folder of a pipeline with the same models."""
    folder, version = tmp_path_factory.mktemp("ltx"), request.param
    export_random("ltx_transformer", LTX, folder / "transformer", seed=1)
    metadata = dict(VAE_METADATA | VAE_BLOCKS[version], latent_channels=3, patch_size=2)
    metadata |= dict(encoder_base_channels=2, decoder_base_channels=2)
    small = lambda blocks: [[name, 1 if isinstance(n, int) else n | dict(num_layers=1)] for name, n in blocks]
    metadata |= {key: small(metadata[key]) for key in metadata if key.endswith("blocks")}
    export_random("ltx_vae", ltx.read_autoencoder_config(metadata), folder / "vae", seed=2)
    old = {
        f"model.diffusion_model.{backwards(name, LTX_NAMES)}": a
        for name, a in tensors_of(folder / "transformer").items()
    }
    table = VAE_NAMES[version] + VAE_COMMON
    old |= {f"vae.{backwards(name, table)}": a for name, a in tensors_of(folder / "vae").items()}
    old |= {f"vae.per_channel_statistics.{name}": np.zeros(3, np.float32) for name in ("channel", "mean-of-stds")}
    config = json.dumps(dict(transformer=LTX_METADATA, vae=metadata, scheduler={}))
    save_file(old, folder / "ltx-video-2b-v0.9.x.safetensors", dict(config=config))
    return folder / "ltx-video-2b-v0.9.x.safetensors", folder


def test_ltx_in_one_file(ltx_file, tmp_path):
    file, folder = ltx_file
    assert_same_model(file, folder / "transformer", "ltx_transformer")
    assert_same_model(file, folder / "vae", "ltx_vae")
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
        (dict(transformer=dict(LTX_METADATA, qk_norm="layer_norm")), "this config says {'qk_norm': 'layer_norm'}"),
        (dict(transformer={k: v for k, v in LTX_METADATA.items() if k != "qk_norm"}), "says {'qk_norm': None}"),
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
    good = VAE_METADATA | VAE_BLOCKS["0.9.5"]
    for change in (
        dict(spatial_padding_mode="reflect"),
        dict(norm_layer="group_norm"),
        dict(latent_log_var="constant"),
        dict(encoder_blocks=[["attn_res_x", {}]]),
        dict(encoder_blocks=[[BOTH, {}]]),
        dict(decoder_blocks=[[RES, dict(num_layers=10**9)]]),
        dict(decoder_blocks=[[RES, {}], ["compress_all_res", {}]]),
        dict(decoder_blocks="res_x"),
        dict(encoder_base_channels="9"),
    ):
        with pytest.raises(ValueError, match="autoencoder of LTX-Video"):
            ltx.read_autoencoder_config(good | change)
    save_file({"per_channel_statistics.mean-of-means": np.zeros(3, np.float32)}, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="has no config of its autoencoder in its metadata.* use the file that the"):
        pretrained.load(tmp_path / "vae.safetensors")


# --- Wan ------------------------------------------------------------------------------------------

WAN_NAMES = [
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^proj_out", "head.head"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "o"),
    (r"\.norm2\.", ".norm3."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
]


def test_wan_under_its_own_names_gives_what_diffusers_gives(tmp_path):
    """Reads the authors' own folder: their class, their names, and other files next to it."""
    config, tensors, io = read_fixture(FIXTURES / "wan_plain.safetensors")
    own = dict(_class_name="WanModel", model_type="t2v", dim=24, num_heads=2, ffn_dim=config["ffn_dim"], num_layers=2)
    own |= dict(in_dim=4, out_dim=4, text_dim=config["text_dim"], freq_dim=256, eps=1e-6)
    (tmp_path / "config.json").write_text(json.dumps(own))
    old = {backwards(name, WAN_NAMES): a for name, a in tensors.items()}
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
    old = {backwards(name, WAN_NAMES): a for name, a in tensors_of(wan_folder).items()}
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


VAE_OF_WAN = [
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"coder\.conv_in", "coder.conv1"),
    (r"coder\.norm_out", "coder.head.0"),
    (r"coder\.conv_out", "coder.head.2"),
    (r"mid_block\.resnets\.0", "middle.0"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"mid_block\.resnets\.1", "middle.2"),
    (r"down_blocks", "downsamples"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.norm1", r"\1.residual.0"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.conv1", r"\1.residual.2"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.norm2", r"\1.residual.3"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.conv2", r"\1.residual.6"),
    (r"conv_shortcut", "shortcut"),
]


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
    old = {backwards(name.replace("decoder.upsamples", "decoder.resnets"), VAE_OF_WAN): a for name, a in old.items()}
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
    if wans:
        file = torch_files.write(tmp_path / "models_t5.pth", {backwards(n, T5_OF_WAN): a for n, a in tensors.items()})
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

RESNET = dict(norm1="in_layers.0", conv1="in_layers.2", time_emb_proj="emb_layers.1", norm2="out_layers.0")
RESNET |= dict(conv2="out_layers.3", conv_shortcut="skip_connection")


def old_unet_names(levels, each, attends):
    """Returns pairs of the modules of the U-Net, diffusers' name and the authors', in the order of the network."""
    pairs, number = [("conv_in", "input_blocks.0.0")], 1
    for level in range(levels):
        for block in range(each):
            pairs.append((f"down_blocks.{level}.resnets.{block}", f"input_blocks.{number}.0"))
            if attends[level]:
                pairs.append((f"down_blocks.{level}.attentions.{block}", f"input_blocks.{number}.1"))
            number += 1
        if level < levels - 1:
            pairs.append((f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"))
            number += 1
    pairs += [("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1")]
    pairs += [("mid_block.resnets.1", "middle_block.2")]
    number = 0
    for level in range(levels):
        attend = attends[levels - 1 - level]
        for block in range(each + 1):
            pairs.append((f"up_blocks.{level}.resnets.{block}", f"output_blocks.{number}.0"))
            if attend:
                pairs.append((f"up_blocks.{level}.attentions.{block}", f"output_blocks.{number}.1"))
            if block == each and level < levels - 1:
                pairs.append((f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number}.{1 + attend}.conv"))
            number += 1
    pairs += [("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2")]
    return pairs + [("conv_norm_out", "out.0"), ("conv_out", "out.2")]


def old_unet_name(name, pairs):
    new, old = next(pair for pair in pairs if name.startswith(f"{pair[0]}."))
    rest = name.removeprefix(f"{new}.")
    if ".resnets." in f".{new}.":
        module, _, last = rest.partition(".")
        rest = f"{RESNET[module]}.{last}"
    return f"{old}.{rest}"


def old_vae_name(name, levels):
    name = re.sub(r"decoder\.up_blocks\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", name)
    table = [
        (r"\.down_blocks\.", ".down."),
        (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
        (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
        (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
        (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
        (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
        (r"\.resnets\.", ".block."),
        (r"\.(down|up)samplers\.0\.", r".\1sample."),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    return backwards(name, table)


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
    pairs = old_unet_names(levels, 2, attends)
    old = {f"model.diffusion_model.{old_unet_name(n, pairs)}": a for n, a in tensors_of(folder / "unet").items()}
    for name, a in tensors_of(folder / "vae").items():
        attention = re.search(r"attentions\.0\.to_.*weight", name)
        old[f"first_stage_model.{old_vae_name(name, levels)}"] = a[:, :, None, None] if attention else a
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
    pairs = old_unet_names(4, 2, (True, True, True, False))
    old = {old_unet_name(name, pairs): name for name in names}
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


def test_no_sign_belongs_to_two_kinds():
    for a in single.ORIGINS:
        for b in single.ORIGINS:
            assert a is b or not set(a.signs) >= set(b.signs), (a, b)
