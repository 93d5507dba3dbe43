"""Reading and writing public checkpoints: folders, files, names, and errors in them."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from public_models import FIXTURES, SINGLE, assert_same, jitted, outputs, read_fixture
from safetensors.numpy import load_file, save_file

from jvflow import codecs, pretrained
from jvflow.codecs import tiling
from jvflow.data import latents
from jvflow.parallel import mesh as meshes
from jvflow.parallel import sharding


@pytest.fixture
def dit():
    return read_fixture(FIXTURES / "dit_two_layers.safetensors")


# --- folders --------------------------------------------------------------------------------------


def write_folder(path, config, tensors, files: int = 1, named: str = "DiTTransformer2DModel"):
    """Writes a model in the folder layout of the public hubs."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(dict(config, _class_name=named)))
    parts = [{name: tensors[name] for name in sorted(tensors)[i::files]} for i in range(files)]
    names = (
        [f"diffusion_pytorch_model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
        if files > 1
        else [SINGLE]
    )
    for name, part in zip(names, parts):
        save_file(part, path / name)
    if files > 1:
        index = dict(metadata={}, weight_map={key: name for name, part in zip(names, parts) for key in part})
        (path / f"{SINGLE}.index.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("files", [1, 3])
def test_a_folder_in_one_file_or_in_many_comes_back_from_an_export(dit, tmp_path, files):
    config, tensors, io = dit
    network = pretrained.load(write_folder(tmp_path / "hub", config, tensors, files))
    assert_same(outputs(network, io), io["output"])
    pretrained.export("dit", config, network.params, tmp_path / "again")
    again = load_file(tmp_path / "again" / SINGLE)
    assert again.keys() == tensors.keys()
    for name in tensors:
        np.testing.assert_array_equal(again[name], tensors[name])
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


def test_loading_casts_and_splits_parameters(dit, tmp_path, monkeypatch):
    config, tensors, io = dit
    monkeypatch.setattr(sharding, "MIN_ELEMENTS", 2**8)
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    network = pretrained.load(
        write_folder(tmp_path / "hub", config, half), mesh=meshes.make_mesh(dict(fsdp=4)), dtype=np.float32
    )
    leaves = jax.tree.leaves(network.params)
    assert all(leaf.dtype == np.float32 for leaf in leaves)
    qkv = network.params["blocks"][0]["qkv"]["kernel"]
    assert qkv.sharding.spec == jax.P("fsdp") and qkv.addressable_shards[0].data.shape == (6, 72)
    assert np.abs(outputs(network, io) - io["output"]).max() < 0.05 * np.abs(io["output"]).max()


def test_the_autoencoder_is_a_codec(tmp_path, monkeypatch):
    """Checks that the codec shifts and scales the latents of each frame, also when it takes a few frames at a time.

    The fingerprint of the codec depends on its files.
    """
    config, tensors, _ = read_fixture(FIXTURES / "vae_plain.safetensors")
    config = config | dict(scaling_factor=0.5, shift_factor=0.3)
    path = write_folder(tmp_path / "vae", config, tensors, named="AutoencoderKL")
    codec = codecs.build("stable_diffusion", checkpoint=(str(path),), scale=2.0)
    assert codec.latent_shape((3, 6, 10)) == (3, 3, 5, 4) and codec.posterior
    with pytest.raises(ValueError, match="multiples of 2, got 5 x 10: use 6 x 10"):
        codec.latent_shape((3, 5, 10))
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 10, 3), dtype=np.uint8)
    found = codec.encode(codec.params, video)
    network = pretrained.load(path)
    one = video[1, 2].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    mean, log_variance = jitted(network)(network.params, method="encode", sample=one)
    np.testing.assert_allclose(found.mean[1, 2], 0.25 * (np.asarray(mean)[0].transpose(1, 2, 0) - 0.3), atol=1e-5)
    np.testing.assert_allclose(
        found.std[1, 2], 0.25 * np.exp(0.5 * np.asarray(log_variance)[0].transpose(1, 2, 0)), rtol=1e-4
    )
    shown = codec.decode(codec.params, found.mean)
    image = np.asarray(jitted(network)(network.params, method="decode", z=mean))[0].transpose(1, 2, 0)
    assert (
        shown.shape == video.shape
        and abs(np.asarray(shown[1, 2], int) - (np.clip(image, -1, 1) + 1) * 127.5).max() < 0.51
    )
    monkeypatch.setattr(tiling, "MAX_PIXELS", 120)  # two frames
    jax.clear_caches()
    again = codec.encode(codec.params, video)
    np.testing.assert_allclose(again.mean, found.mean, atol=1e-5)
    np.testing.assert_allclose(again.std, found.std, rtol=1e-4)
    fingerprint = latents.model_fingerprint("stable_diffusion", checkpoint=(str(path),))
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path / SINGLE)
    assert latents.model_fingerprint("stable_diffusion", checkpoint=(str(path),)) != fingerprint


@pytest.mark.parametrize(
    "given, message", [((), "takes one folder as config.codec.checkpoint"), (("{dit}",), "holds no autoencoder")]
)
def test_folders_without_an_autoencoder_raise(dit, tmp_path, given, message):
    config, tensors, _ = dit
    path = write_folder(tmp_path / "dit", config, tensors)
    with pytest.raises(ValueError, match=message):
        codecs.build("stable_diffusion", checkpoint=tuple(str(path) for _ in given))


# --- mistakes -------------------------------------------------------------------------------------


def test_all_wrong_tensors_are_in_one_message(dit):
    config, tensors, _ = dit
    wrong = dict(tensors, extra=np.zeros(3))
    del wrong["proj_out_1.bias"], wrong["transformer_blocks.1.attn1.to_q.weight"]
    wrong["proj_out_2.bias"] = np.zeros(7)
    with pytest.raises(ValueError) as error:
        pretrained.import_checkpoint("dit", config, wrong)
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
        (dict(norm_type="ada_norm"), 'read: norm_type is "ada_norm", allowed: "ada_norm_zero"$'),
        (dict(out_channels=6), "out_channels is 6, allowed: a multiple of in_channels 4$"),
        (dict(num_layers=3), "missing transformer_blocks.2"),
    ],
)
def test_another_config(dit, change, message):
    config, tensors, _ = dit
    with pytest.raises(ValueError, match=message):
        pretrained.import_checkpoint("dit", config | change, tensors)


def test_unknown_kinds_namings_and_parameters(dit, tmp_path):
    config, tensors, _ = dit
    with pytest.raises(
        ValueError,
        match="unknown kind 'dot': use one of clip_text, dit, ltx_transformer, ltx_vae, sd_unet, sd_vae, "
        "t5_encoder, taesd, unet2d",
    ):
        pretrained.import_checkpoint("dot", config, tensors)
    params = pretrained.import_checkpoint("dit", config, tensors).params
    with pytest.raises(ValueError, match="unknown naming 'first' of dit: use one of diffusers, original"):
        pretrained.export("dit", config, params, tmp_path, naming="first")
    with pytest.raises(ValueError, match="not the parameters of a dit .* original layout, .*conditioning"):
        pretrained.export("dit", config, params, tmp_path, naming="original")
    assert not list(tmp_path.iterdir())


def test_folders_that_hold_no_model(dit, tmp_path):
    config, tensors, _ = dit
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no config.json"):
        pretrained.load(tmp_path / "empty")
    cut = write_folder(tmp_path / "cut", config, tensors)
    whole = (cut / SINGLE).read_bytes()
    (cut / SINGLE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        pretrained.load(cut)
    pickled = write_folder(tmp_path / "pickled", config, tensors)
    (pickled / SINGLE).rename(pickled / "diffusion_pytorch_model.bin")
    (pickled / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(ValueError, match="diffusion_pytorch_model.bin is a bare pickle, which is not read"):
        pretrained.load(pickled)
    (pickled / "diffusion_pytorch_model.bin").rename(pickled / SINGLE)
    with pytest.raises(ValueError, match=f"{SINGLE} is a bare pickle, which is not read"):
        pretrained.load(pickled)
    other = write_folder(tmp_path / "other", config, tensors)
    (other / "config.json").write_text(json.dumps(dict(config, _class_name="UNet3D")))
    with pytest.raises(
        ValueError,
        match="describes UNet3D: use one of DiTTransformer2DModel, AutoencoderKL, AutoencoderTiny, UNet2DModel, "
        "LTXVideoTransformer3DModel, AutoencoderKLLTXVideo, WanTransformer3DModel, AutoencoderKLWan, "
        "UNet2DConditionModel, CLIPTextModel, T5EncoderModel, UMT5EncoderModel, Transformer2DModel, CLIPModel, ",
    ):
        pretrained.load(other)
    missing = write_folder(tmp_path / "missing", config, tensors, files=2)
    next(missing.glob("*00001-of*")).unlink()
    with pytest.raises(ValueError, match="00001-of-00002.safetensors does not exist"):
        pretrained.load(missing)
