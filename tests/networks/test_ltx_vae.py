"""The autoencoder of LTX-Video: it agrees with diffusers."""

import json

import jax
import numpy as np
import pytest
from public_models import FIXTURES, assert_same, read_fixture

from jvflow import pretrained

NAMES = ("ltx_vae_090", "ltx_vae_091", "ltx_vae_095")


@pytest.mark.parametrize("name", NAMES)
def test_the_autoencoder_gives_what_diffusers_gives(name):
    """Covers encoding and decoding, strided and folded downsampling, channels that change, with and without a time."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint("ltx_vae", config, tensors)
    apply = jax.jit(network.apply, static_argnames="method")
    mean, log_variance = apply(network.params, method="encode", x=io["sample"])
    assert_same(np.asarray(mean), io["mean"])
    assert_same(np.asarray(log_variance), io["logvar"])
    given = {key: io[key] for key in ("temb",) if key in io}
    assert_same(np.asarray(apply(network.params, method="decode", z=io["mean"], **given)), io["decoded"])


def test_full_size_autoencoder_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "ltx_095_vae.json").read_text())
    model = pretrained.KINDS["ltx_vae"].model(manifest["config"], "diffusers")
    pretrained.check_tensors("ltx_vae", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert len(model.layout) == len(manifest["tensors"]) == 226
    buffers = sum(model.shapes[name].size for name in ("latents_mean", "latents_std"))  # not in the manifest's count
    assert sum(a.size for a in model.shapes.values()) - buffers == manifest["parameters"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(decoder_inject_noise=[True, False]),
            r"decoder_inject_noise is \[true, false\], allowed: a list of at least 3 entries$",
        ),
        (dict(patch_size_t=2), "patch_size_t is 2, allowed: 1$"),
        (
            dict(down_block_types=["LTXVideo095DownBlock3D", "LTXVideoDownBlock3D"]),
            "down_block_types is .*, allowed: a list",
        ),
        (dict(upsample_factor=[3, 2]), "upsample_factor is .*, allowed: factors of 8"),
        (dict(upsample_factor=[2, 1]), "decoder_block_out_channels is .* only upsample_factor changes, with time"),
        (dict(block_out_channels=[4, 8, 8, 12]), "block_out_channels is .* as downsample_type asks for"),
    ],
)
def test_another_autoencoder(change, message):
    config, tensors, _ = read_fixture(FIXTURES / "ltx_vae_095.safetensors")
    with pytest.raises(ValueError, match=message):
        pretrained.import_checkpoint("ltx_vae", config | change, tensors)


def test_a_time_is_asked_for():
    config, tensors, io = read_fixture(FIXTURES / "ltx_vae_095.safetensors")
    network = pretrained.import_checkpoint("ltx_vae", config, tensors)
    with pytest.raises(ValueError, match="this decoder takes a time, and got none"):
        network.apply(network.params, method="decode", z=io["mean"])
    with pytest.raises(ValueError, match="use 'encode' with x, or 'decode' with z"):
        network.apply(network.params, method="decode", x=io["sample"])
