"""The autoencoder of Wan 2.1: it agrees with diffusers, whole and in pieces."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_models import FIXTURES, SINGLE, assert_same, export_random, jitted, read_fixture
from safetensors.numpy import save_file

from jvflow import codecs, networks, pretrained
from jvflow.codecs import video_vae
from jvflow.networks.streaming import apply_in_pieces
from jvflow.networks.wan_vae import WanVAE

pytestmark = pytest.mark.slow

NAMES = ("wan_vae_one", "wan_vae_five", "wan_vae_nine", "wan_vae_seventeen")


@pytest.mark.parametrize("name", NAMES)
def test_the_autoencoder_gives_what_diffusers_gives(name):
    """Covers encoding and decoding of 1 to 17 frames, which diffusers takes in pieces, and levels that halve frames."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint("wan_vae", config, tensors)
    apply = jitted(network)
    mean, log_variance = apply(network.params, method="encode", x=io["sample"])
    assert_same(np.asarray(mean), io["mean"])
    assert_same(np.asarray(log_variance), io["logvar"])
    assert_same(np.asarray(apply(network.params, method="decode", z=io["mean"])), io["decoded"])


@pytest.mark.parametrize("name, piece", [("wan_vae_five", 1), ("wan_vae_seventeen", 1), ("wan_vae_seventeen", 3)])
def test_pieces_give_what_the_whole_gives(name, piece):
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    loaded = pretrained.import_checkpoint("wan_vae", config, tensors)
    network = networks.functional(WanVAE, loaded.config)
    video, latents = (np.moveaxis(io[key], 1, -1) for key in ("sample", "mean"))
    encode = lambda x, frames: network.apply(loaded.params, x, frames, method="encode")[0]
    decode = lambda z, frames: network.apply(loaded.params, z, frames, method="decode")
    assert_same(np.asarray(jax.jit(lambda x: apply_in_pieces(encode, x, piece=4 * piece, offset=-3))(video)), latents)
    assert_same(
        np.asarray(jax.jit(lambda z: apply_in_pieces(decode, z, piece=piece))(latents)),
        np.moveaxis(io["decoded"], 1, -1),
    )


def test_full_size_autoencoder_has_the_public_tensors(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "wan21_vae.json").read_text())
    model = pretrained.KINDS["wan_vae"].model(manifest["config"], "diffusers")
    pretrained.check_tensors("wan_vae", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()})
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 126_892_531
    assert len(model.layout) == len(manifest["tensors"]) == 194


@pytest.mark.parametrize("change", [dict(is_residual=True), dict(patch_size=2), dict(attn_scales=[1.0])])
def test_another_autoencoder(change):
    config, tensors, io = read_fixture(FIXTURES / "wan_vae_one.safetensors")
    with pytest.raises(ValueError, match=f"read: {next(iter(change))} is .*, allowed: "):
        pretrained.import_checkpoint("wan_vae", config | change, tensors)
    network = pretrained.import_checkpoint("wan_vae", config, tensors)
    with pytest.raises(ValueError, match="use 'encode' with x, or 'decode' with z"):
        network.apply(network.params, method="decode", x=io["sample"])


# --- as a codec -----------------------------------------------------------------------------------


def test_latents_are_in_units_of_the_config(tmp_path):
    """Checks the config's mean and deviation of the channels, and that pieces of one latent frame give the whole."""
    config, tensors, io = read_fixture(FIXTURES / "wan_vae_five.safetensors")
    rng = np.random.default_rng(0)
    m, d = rng.normal(size=3), rng.uniform(0.5, 2, 3)
    (tmp_path / "config.json").write_text(
        json.dumps(dict(config, _class_name="AutoencoderKLWan", latents_mean=m.tolist(), latents_std=d.tolist()))
    )
    save_file(tensors, tmp_path / SINGLE)
    codec, whole = (
        codecs.build("wan_vae", checkpoint=(tmp_path,), scale=2.0, **options) for options in ({}, dict(piece=0))
    )
    video = rng.integers(0, 256, (2, 9, 8, 12, 3), np.uint8)
    network = pretrained.load(tmp_path, dtype=jnp.float32)
    mean, log_variance = (
        np.moveaxis(np.asarray(a), 1, -1)
        for a in jitted(network)(network.params, method="encode", x=np.moveaxis(video / np.float32(127.5) - 1, -1, 1))
    )
    found = codec.encode(codec.params, video)
    assert (
        found.mean.shape == (2, *codec.latent_shape(video.shape[1:4])) == (2, 3, 2, 3, 3)
        and codec.frames_per_latent == 4
    )
    assert_same(np.asarray(found.mean), ((mean - m) / d / 2).astype(np.float32))
    assert_same(np.asarray(found.std), (np.exp(log_variance / 2) / d / 2).astype(np.float32))
    decoded = np.moveaxis(
        np.asarray(jitted(network)(network.params, method="decode", z=np.moveaxis(mean, -1, 1))), 1, -1
    )
    for made in (codec, whole):
        assert np.abs(np.asarray(made.decode(codec.params, found.mean)) - (decoded + 1) * 127.5).max() < 0.51


def test_a_config_without_moments_takes_wans_own(tmp_path, monkeypatch):
    made, build = [], video_vae._build
    monkeypatch.setattr(
        video_vae, "_build", lambda lazy, **options: (made.append(options["model"]), build(lazy, **options))[1]
    )

    def statistics(folder):
        codecs.build("wan_vae", checkpoint=(folder,))
        return made[-1].statistics(None)

    sizes = dict(base_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])
    mean, deviation = statistics(export_random("wan_vae", sizes, tmp_path / "bare"))
    assert (len(mean), mean[0], mean[15]) == (16, np.float32(-0.7571), np.float32(-0.2921))
    assert (len(deviation), deviation[0], deviation[15]) == (16, np.float32(2.8184), np.float32(1.916))
    folder = export_random("wan_vae", sizes | dict(z_dim=2, latents_mean=[1, 2], latents_std=[3, 4]), tmp_path / "own")
    assert np.array(statistics(folder)).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="have 16 and 16 entries .*, its latents have 2 channels: write as many"):
        statistics(export_random("wan_vae", sizes | dict(z_dim=2), tmp_path / "other"))


@pytest.mark.integration
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_memory_of_pieces_does_not_grow_with_the_video(way):
    def temporaries(frames: int) -> int:
        codec = codecs.build("wan_vae", tiny=True)
        shape = (1, frames, 32, 48, 3) if way == "encode" else (1, *codec.latent_shape((frames, 32, 48)))
        given = jax.ShapeDtypeStruct(shape, jnp.uint8 if way == "encode" else jnp.float32)
        return getattr(codec, way).lower(codec.params, given).compile().memory_analysis().temp_size_in_bytes

    found = [temporaries(frames) for frames in (17, 161)]
    assert max(found) < 1.05 * min(found), found
