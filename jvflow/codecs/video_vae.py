"""The autoencoders of LTX-Video and Wan as codecs, with public weights: some frames of 8 x 8 or 32 x 32 pixels are one place, the first frame has one for itself.

    latents = (mean - m) / d        mean and size of each channel come with the model, so that latents are of about unit size
    video   = decoder(latents d + m)

The decoder of LTX-Video 0.9.5 is told how much noise there is in its latents as well; without any, its time is 0. Both take a video whole or in pieces
(`jvflow.networks.streaming`), frames whole or in tiles (`base.tiled`): pieces change nothing but rounding, tiles what is near their edges.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jvflow import networks
from jvflow import pretrained
from jvflow.codecs.base import Codec, Posterior, by_image, divided, tiled
from jvflow.pretrained.lazy import Held
from jvflow.networks.ltx_vae import STRIDES, LTXVAE, LTXVAEConfig
from jvflow.networks.streaming import WHOLE, apply_in_pieces
from jvflow.networks.wan_vae import WanVAE, WanVAEConfig

TINY_LTX = LTXVAEConfig(
    channels=(8, 16, 16, 32, 32), blocks=(1,) * 5, decoder_channels=(16, 32, 64), decoder_blocks=(1,) * 4, latent=16
)
TINY_WAN = WanVAEConfig(width=4, decoder_width=4, blocks=1)


def ltx(
    *folders: str | Path,
    scale: float = 1.0,
    piece: int = 0,
    tile: int = 0,
    time: float = 0.0,
    tiny: bool = False,
    abstract: bool = False,
) -> Codec:
    """The codec of a folder with config.json and safetensors (see `jvflow.pretrained.load`).

    Args:
      folders: one, of the autoencoder.
      scale: latents are divided by it besides.
      piece: latent frames that are encoded or decoded at a time: memory does not grow with the length of a video. 0: all at once.
      tile: pixels, a multiple of four places: larger frames are taken apart into tiles of so many. 0: each frame whole.
      time: that the decoder is told, in [0, 1].
      tiny: without weights a very small model of this shape with random parameters, to try out a configuration.
      abstract: without weights the shapes of the latents of 0.9.5 alone; nothing can be encoded.
    """
    held, config, public = _model(folders, LTXVAEConfig, LTXVAE, TINY_LTX, tiny, abstract)
    if not 0 <= time <= 1 or (time and not config.timed):
        raise ValueError(
            f"config.codec.time is {time}: this decoder {'takes a time in [0, 1]' if config.timed else 'is told none, use 0'}"
        )
    if piece and not config.causal:
        raise ValueError(f"config.codec.piece is {piece}, but the frames of this encoder see those after them: use 0")
    apply = networks.functional(LTXVAE, config).apply
    strides = [STRIDES.get(down, (2, 2, 2)) for down in config.downs if down]

    def decode(params, latents, frames):
        return apply(params, latents, jnp.full(len(latents), time) if config.timed else None, frames, method="decode")

    return _codec(
        held,
        scale=scale / public.get("scaling_factor", 1.0),
        piece=piece,
        tile=tile,
        model=_Model(
            partial(apply, method="encode"),
            decode,
            lambda params: (params["latents_mean"], params["latents_std"]),
            space=config.patch * 2 ** sum(h == 2 for _, h, _ in strides),
            frames=2 ** sum(f == 2 for f, _, _ in strides),
            channels=config.latent,
        ),
    )


def wan(
    *folders: str | Path, scale: float = 1.0, piece: int = 1, tile: int = 0, tiny: bool = False, abstract: bool = False
) -> Codec:
    """The codec of a folder with config.json and safetensors; arguments as of `ltx`, with the shapes of Wan 2.1."""
    held, config, public = _model(folders, WanVAEConfig, WanVAE, TINY_WAN, tiny, abstract)
    apply = networks.functional(WanVAE, config).apply
    moments = tuple(
        np.asarray(public.get(name, [value] * config.latent), np.float32)
        for name, value in (("latents_mean", 0.0), ("latents_std", 1.0))
    )
    return _codec(
        held,
        scale=scale,
        piece=piece,
        tile=tile,
        model=_Model(
            partial(apply, method="encode"),
            partial(apply, method="decode"),
            lambda params: moments,
            space=2 ** (len(config.levels) - 1),
            frames=2 ** sum(config.halves),
            channels=config.latent,
        ),
    )


def _model(folders, kind: type, module: type, tiny_config, tiny: bool, abstract: bool) -> tuple[Held, Any, dict]:
    """Parameters, sizes, and the public config."""
    if folders or not (tiny or abstract):
        name = {LTXVAE: "LTX-Video", WanVAE: "Wan"}[module]
        if len(folders) != 1:
            raise ValueError(
                f"the codec takes one folder as config.codec.weights, such as ('{name}/vae',), got {folders}"
            )
        config = pretrained.look(folders[0]).network.config
        if not isinstance(config, kind):
            raise ValueError(f"{folders[0]} holds no autoencoder of {name}: give the folder vae of the model")
        return (
            Held(lambda: pretrained.load(folders[0], dtype=jnp.float32).params),
            config,
            json.loads((Path(folders[0]) / pretrained.CONFIG).read_text()),
        )
    if tiny:
        return Held(lambda: jax.jit(networks.functional(module, tiny_config).init)(jax.random.key(0))), tiny_config, {}
    return Held(), kind(), {}


# --- any such model -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """An autoencoder of videos.

    Attributes:
      encode: `(params, video, frames) -> (mean, log variance)`, video in [-1, 1].
      decode: `(params, latents, frames) -> video`.
      moments: `params -> (m, d)`, mean and size of each channel of the latents.
      space, frames: pixels and frames to a place.
      channels: of the latents.
    """

    encode: Callable
    decode: Callable
    moments: Callable
    space: int
    frames: int
    channels: int


def _codec(held, *, model: _Model, scale: float, piece: int, tile: int) -> Codec:
    if tile % (4 * model.space) or piece < 0:
        raise ValueError(
            f"config.codec.tile is {tile}, piece is {piece}: tiles are multiples of {4 * model.space} pixels, pieces 0 or more latent frames"
        )
    frames, options = model.frames, dict(model=model, scale=scale, piece=piece, tile=tile)

    def latent_shape(video):
        if (video[0] - 1) % frames:
            short = (video[0] - 1) // frames * frames + 1
            raise ValueError(f"the codec needs {frames} k + 1 frames, got {video[0]}: use {short} or {short + frames}")
        return (video[0] - 1) // frames + 1, *divided(model.space, model.channels)(video)[1:]

    return Codec(
        encode=jax.jit(partial(_encode, **options)),
        decode=jax.jit(partial(_decode, **options)),
        latent_shape=latent_shape,
        valid_frames=lambda count: count >= 1 and (count - 1) % frames == 0,
        held=held,
        posterior=True,
        frames=frames,
    )


def _encode(
    params, video: UInt8[Array, "b f h w 3"], *, model: _Model, scale: float, piece: int, tile: int
) -> Posterior:
    def moments(video, frames=WHOLE):
        return jnp.concatenate(model.encode(params, video.astype(jnp.float32) / 127.5 - 1, frames), axis=-1)

    whole = (
        (lambda video: apply_in_pieces(moments, video, piece=model.frames * piece, offset=1 - model.frames))
        if piece
        else moments
    )
    made = by_image(lambda videos: tiled(whole, videos, tile, 1 / model.space), video, video[0, ..., 0].size)
    mean, log_variance = jnp.split(made, 2, axis=-1)
    middle, size = _of_channels(model, params)
    return Posterior((mean - middle) / (size * scale), jnp.exp(log_variance / 2) / (size * scale))


def _decode(
    params, latents: Float[Array, "b f h w c"], *, model: _Model, scale: float, piece: int, tile: int
) -> UInt8[Array, "b f h w 3"]:
    space = model.space
    tiles = tile and max(latents.shape[2:4]) * space > tile  # which fade into one another before they are rounded

    def made(latents, frames=WHOLE):
        video = model.decode(params, latents, frames)
        return video if tiles else as_pixels(video)

    def whole(latents):
        middle, size = _of_channels(model, params)
        latents = latents * (size * scale) + middle
        return apply_in_pieces(made, latents, piece=piece) if piece else made(latents)

    video = by_image(
        lambda some: tiled(whole, some, tile // space, space),
        latents,
        model.frames * space**2 * latents[0, ..., 0].size,
    )
    return as_pixels(video) if tiles else video


def _of_channels(model: _Model, params) -> tuple[Array, Array]:
    return tuple(jnp.asarray(a).reshape(1, 1, 1, 1, -1) for a in model.moments(params))


def as_pixels(video: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """[-1, 1] to 0 .. 255."""
    return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)
