"""LTX-Video's autoencoder as a codec: units of its latents, videos in pieces and tiles, and bounded memory."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_models import FIXTURES, SINGLE, assert_same, jitted, read_fixture
from safetensors.numpy import save_file

from jvflow import codecs, networks, pretrained
from jvflow.networks.ltx_vae import LTXVAE, STRIDES, LTXVAEConfig
from jvflow.networks.streaming import apply_in_pieces

pytestmark = pytest.mark.slow

FRAMES = (17, 161)  # benchmarks/video_vae.py measures lengths between these, at full size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes a fixture's autoencoder in the hubs' layout, with a scaling factor, and mean and deviation per channel."""
    config, tensors, _ = read_fixture(FIXTURES / "ltx_vae_095.safetensors")
    rng = np.random.default_rng(0)
    moments = dict(
        latents_mean=rng.normal(size=6).astype(np.float32), latents_std=rng.uniform(0.5, 2, 6).astype(np.float32)
    )
    return write(tmp_path_factory.mktemp("vae"), dict(config, scaling_factor=1.5), tensors | moments)


def write(folder, config, tensors, named="AutoencoderKLLTXVideo"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config, _class_name=named)))
    save_file(tensors, folder / SINGLE)
    return folder


def videos(codec, b: int, k: int, h: int = 3, w: int = 2, *, space: int = 8, frames: int = 4):
    return np.random.default_rng(0).integers(0, 256, (b, frames * k + 1, space * h, space * w, 3), np.uint8)


@pytest.mark.parametrize(
    "name, piece, last",
    [
        ("ltx_vae_090", 1, (0, 9)),
        pytest.param("ltx_vae_095", 2, (1, 8), marks=pytest.mark.integration),
        pytest.param("ltx_vae_090", 2, (1, 8), marks=pytest.mark.integration),
        pytest.param("ltx_vae_095", 1, (0, 9), marks=pytest.mark.integration),
    ],
)
def test_pieces_give_what_the_whole_gives(name, piece, last):
    """Covers both versions, encoding and decoding, videos shorter than a piece and longer than the look-ahead."""
    config, tensors, _ = read_fixture(FIXTURES / f"{name}.safetensors")
    loaded = pretrained.import_checkpoint("ltx_vae", config, tensors)
    network, space, frames = networks.functional(LTXVAE, loaded.config), 8, 4
    time = jnp.array([0.1, 0.4]) if loaded.config.timed else None
    encode = lambda video, *stream: jnp.concatenate(
        network.apply(loaded.params, video, *stream, method="encode"), axis=-1
    )
    decode = lambda latents, *stream: network.apply(loaded.params, latents, time, *stream, method="decode")
    decode_pieces = jax.jit(lambda latents: apply_in_pieces(decode, latents, piece=piece))
    encode_pieces = jax.jit(lambda video: apply_in_pieces(encode, video, piece=frames * piece, offset=1 - frames))
    for k in last:
        latents = jax.random.normal(jax.random.key(k), (2, k + 1, 2, 3, loaded.config.latent))
        video = jax.jit(decode)(latents)
        assert video.shape == (2, frames * k + 1, 2 * space, 3 * space, 3)
        assert_same(np.asarray(decode_pieces(latents)), np.asarray(video))
        assert_same(np.asarray(encode_pieces(video)), np.asarray(jax.jit(encode)(video)))


def test_latents_are_in_units_of_the_checkpoint(folder):
    """Checks that latents are (mean - m) factor / (scale d), that deviations scale alike, and decode inverts it."""
    config, tensors, _ = read_fixture(FIXTURES / "ltx_vae_095.safetensors")
    codec = codecs.build("ltx_vae", checkpoint=(folder,), scale=2.0, time=0.3)
    network = pretrained.load(folder, dtype=jnp.float32)
    video = videos(codec, 2, 1)
    found = codec.encode(codec.params, video)
    assert found.mean.shape == (2, *codec.latent_shape(video.shape[1:4]))
    mean, log_variance = jitted(network)(
        network.params, method="encode", x=np.moveaxis(video / np.float32(127.5) - 1, -1, 1)
    )
    m, d = (np.asarray(network.params[name]) for name in ("latents_mean", "latents_std"))
    last = lambda a: np.moveaxis(np.asarray(a), 1, -1)
    assert_same(np.asarray(found.mean), (last(mean) - m) * 1.5 / 2 / d)
    assert_same(np.asarray(found.std), np.exp(last(log_variance) / 2) * 1.5 / 2 / d)
    decoded = last(jitted(network)(network.params, method="decode", z=np.asarray(mean), temb=np.full(2, 0.3)))
    made = np.asarray(codec.decode(codec.params, found.mean))
    assert made.dtype == np.uint8 and np.abs(made - (np.clip(decoded, -1, 1) + 1) * 127.5).max() < 0.51


@pytest.mark.integration
def test_pieces_and_tiles_of_a_video(folder):
    """Checks that pieces keep the pixels; tiles keep them in a video of one tile, else away from the overlaps."""
    whole, pieces = (codecs.build("ltx_vae", checkpoint=(folder,), **options) for options in ({}, dict(piece=1)))
    tiles = codecs.build("ltx_vae", checkpoint=(folder,), piece=1, tile=64)
    video = videos(whole, 1, 2, 12, 4)
    latents = whole.encode(whole.params, video).mean
    assert_same(np.asarray(pieces.encode(whole.params, video).mean), np.asarray(latents))
    decoded, in_pieces, in_tiles = (np.asarray(c.decode(c.params, latents)).astype(int) for c in (whole, pieces, tiles))
    assert np.abs(decoded - in_pieces).max() <= 1
    assert in_tiles.shape == decoded.shape and (np.abs(in_tiles - decoded)[:, :, :8] <= 1).all()
    assert np.abs(np.asarray(tiles.encode(whole.params, video).mean) - np.asarray(latents))[:, :, :1].max() < 1e-4
    small = video[:, :, :64]
    assert_same(np.asarray(tiles.encode(whole.params, small).mean), np.asarray(whole.encode(whole.params, small).mean))


@pytest.mark.integration
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_memory_of_pieces_does_not_grow_with_the_video(way):
    def temporaries(piece: int, frames: int) -> int:
        codec = codecs.build("ltx_vae", tiny=True, piece=piece)
        shape = (1, frames, 64, 96, 3) if way == "encode" else (1, *codec.latent_shape((frames, 64, 96)))
        given = jax.ShapeDtypeStruct(shape, jnp.uint8 if way == "encode" else jnp.float32)
        return getattr(codec, way).lower(codec.params, given).compile().memory_analysis().temp_size_in_bytes

    pieces = [temporaries(1, frames) for frames in FRAMES]
    assert max(pieces) < 1.02 * min(pieces), dict(zip(FRAMES, pieces))
    assert temporaries(0, 41) > 2 * temporaries(0, 17)


def test_full_size_is_known_without_a_checkpoint():
    codec = codecs.build("ltx_vae", abstract=True)
    assert codec.latent_shape((17, 256, 384)) == (3, 8, 12, 128)
    assert codec.latent_shape((41, 256, 384)) == (6, 8, 12, 128)
    assert codec.posterior and codec.valid_frames(121) and not codec.valid_frames(120)
    assert set(LTXVAEConfig().downs) <= set(STRIDES)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(), r"the codec takes one folder as config.codec.checkpoint, such as \('LTX-Video/vae',\), got \(\)"),
        (dict(tiny=True, tile=100), "config.codec.tile is 100, piece is 0: tiles are multiples of 128 pixels"),
        (dict(tiny=True, piece=-1), "piece is -1"),
        (dict(tiny=True, time=2.0), r"config.codec.time is 2.0: this decoder takes a time in \[0, 1\]"),
        (dict(tiny=True, steps=3), "the codec ltx_vae has no steps"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        codecs.build("ltx_vae", **options)


def test_bad_videos_and_folders(tmp_path):
    codec = codecs.build("ltx_vae", tiny=True)
    with pytest.raises(ValueError, match="needs 8 k [+] 1 frames, got 16: use 9 or 17"):
        codec.latent_shape((16, 64, 64))
    with pytest.raises(ValueError, match="multiples of 32, got 64 x 65"):
        codec.latent_shape((17, 64, 65))
    config, tensors, _ = read_fixture(FIXTURES / "vae_plain.safetensors")
    with pytest.raises(ValueError, match="holds no autoencoder of LTX-Video: give the folder vae"):
        codecs.build("ltx_vae", checkpoint=(write(tmp_path / "image", config, tensors, "AutoencoderKL"),))
    config, tensors, _ = read_fixture(FIXTURES / "ltx_vae_090.safetensors")
    with pytest.raises(ValueError, match="this decoder takes none, use 0"):
        codecs.build("ltx_vae", checkpoint=(write(tmp_path / "old", config, tensors),), time=0.1)
    with pytest.raises(ValueError, match="this encoder's frames depend on later frames: use 0"):
        codecs.build(
            "ltx_vae", checkpoint=(write(tmp_path / "other", dict(config, encoder_causal=False), tensors),), piece=1
        )
