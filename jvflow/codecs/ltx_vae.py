"""The autoencoder of LTX-Video as a codec, with public weights: 32 x 32 pixels of 8 frames to a place, of which the first frame has one for itself.

    latents = (mean - m) / d        mean and size of each of the 128 channels stand in the checkpoint, so that latents are of about unit size
    video   = decoder(latents d + m, time)

The decoder of 0.9.5 is told how much noise there is in its latents; without any, its time is 0. It takes a video whole or in pieces
(`jvflow.networks.streaming`), frames whole or in tiles (`base.tiled`): pieces change nothing but rounding, tiles what is near their edges.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jvflow import networks, weights
from jvflow.codecs.base import Codec, Posterior, by_image, divided, tiled
from jvflow.networks.ltx_vae import STRIDES, LTXVAE, LTXVAEConfig
from jvflow.networks.streaming import WHOLE, streamed

TINY = LTXVAEConfig(channels=(8, 16, 16, 32, 32), blocks=(1,) * 5, decoder_channels=(16, 32, 64), decoder_blocks=(1,) * 4, latent=16)


def codec(*folders: str | Path, scale: float = 1.0, piece: int = 0, tile: int = 0, time: float = 0.0, tiny: bool = False, abstract: bool = False) -> Codec:
    """The codec of a folder with config.json and safetensors (see `jvflow.weights.load`).

    Args:
      folders: one, of the autoencoder.
      scale: latents are divided by it besides.
      piece: latent frames that are encoded or decoded at a time: memory does not grow with the length of a video. 0: all at once.
      tile: pixels, a multiple of 128: larger frames are taken apart into tiles of so many. 0: each frame whole.
      time: that the decoder is told, in [0, 1].
      tiny: without weights a very small model of this shape with random parameters, to try out a configuration.
      abstract: without weights the shapes of the latents of 0.9.5 alone; nothing can be encoded.
    """
    if tiny and not folders:
        network = networks.functional(LTXVAE, TINY)
        params, config, factor = jax.jit(network.init)(jax.random.key(0)), TINY, 1.0
    elif abstract and not folders:
        params, config, factor = None, LTXVAEConfig(), 1.0
    else:
        params, config, factor = _read(folders)
    space, frames = reductions(config)
    if tile % (4 * space) or piece < 0:
        raise ValueError(f"config.codec.tile is {tile}, piece is {piece}: tiles are multiples of {4 * space} pixels, pieces 0 or more latent frames")
    if not 0 <= time <= 1 or (time and not config.timed):
        raise ValueError(f"config.codec.time is {time}: this decoder {'takes a time in [0, 1]' if config.timed else 'is told none, use 0'}")
    if piece and not config.causal:
        raise ValueError(f"config.codec.piece is {piece}, but the frames of this encoder see those after them: use 0")
    options = dict(config=config, factor=factor / scale, piece=piece, tile=tile)

    def latent_shape(video):
        if (video[0] - 1) % frames:
            short = (video[0] - 1) // frames * frames + 1
            raise ValueError(f"the codec needs {frames} k + 1 frames, got {video[0]}: use {short} or {short + frames}")
        return (video[0] - 1) // frames + 1, *divided(space, config.latent)(video)[1:]

    return Codec(
        encode=jax.jit(partial(_encode, **options)),
        decode=jax.jit(partial(_decode, **options, time=time)),
        latent_shape=latent_shape,
        valid_frames=lambda count: count >= 1 and (count - 1) % frames == 0,
        params=params,
        posterior=True,
        frames=frames,
    )


def _read(folders) -> tuple:
    if len(folders) != 1:
        raise ValueError(f"the codec ltx_vae takes one folder as config.codec.weights, such as ('LTX-Video/vae',), got {folders}")
    loaded = weights.load(folders[0], dtype=jnp.float32)
    if not isinstance(loaded.config, LTXVAEConfig):
        raise ValueError(f"{folders[0]} holds no autoencoder of LTX-Video: give the folder vae of the model")
    return loaded.params, loaded.config, json.loads((Path(folders[0]) / weights.CONFIG).read_text()).get("scaling_factor", 1.0)


def reductions(config: LTXVAEConfig) -> tuple[int, int]:
    """Pixels and frames to a place of the latents."""
    strides = [STRIDES.get(down, (2, 2, 2)) for down in config.downs if down]
    return config.patch * 2 ** sum(h == 2 for _, h, _ in strides), 2 ** sum(f == 2 for f, _, _ in strides)


def _encode(params, video: UInt8[Array, "b f h w 3"], *, config: LTXVAEConfig, factor: float, piece: int, tile: int) -> Posterior:
    apply, (space, each) = networks.functional(LTXVAE, config).apply, reductions(config)

    def moments(video, frames=WHOLE):
        return jnp.concatenate(apply(params, video.astype(jnp.float32) / 127.5 - 1, frames, method="encode"), axis=-1)

    whole = (lambda video: streamed(moments, video, piece=each * piece, offset=1 - each)) if piece else moments
    made = by_image(lambda videos: tiled(whole, videos, tile, 1 / space), video, video[0, ..., 0].size)
    mean, log_variance = jnp.split(made, 2, axis=-1)
    middle, size = _of_channels(params)
    return Posterior((mean - middle) * factor / size, jnp.exp(log_variance / 2) * factor / size)


def _decode(params, latents: Float[Array, "b f h w c"], *, config: LTXVAEConfig, factor: float, piece: int, tile: int, time: float) -> UInt8[Array, "b f h w 3"]:
    apply, (space, each) = networks.functional(LTXVAE, config).apply, reductions(config)
    tiles = tile and max(latents.shape[2:4]) * space > tile  # which fade into one another before they are rounded

    def made(latents, frames=WHOLE):
        video = apply(params, latents, jnp.full(len(latents), time) if config.timed else None, frames, method="decode")
        return video if tiles else as_pixels(video)

    def whole(latents):
        middle, size = _of_channels(params)
        latents = latents * size / factor + middle
        return streamed(made, latents, piece=piece) if piece else made(latents)

    video = by_image(lambda some: tiled(whole, some, tile // space, space), latents, each * space**2 * latents[0, ..., 0].size)
    return as_pixels(video) if tiles else video


def _of_channels(params) -> tuple[Array, Array]:
    return tuple(params[name].reshape(1, 1, 1, 1, -1) for name in ("latents_mean", "latents_std"))


def as_pixels(video: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """[-1, 1] to 0 .. 255."""
    return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)
