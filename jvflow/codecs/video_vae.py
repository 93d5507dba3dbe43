"""The autoencoders of LTX-Video and Wan as codecs, with public checkpoints.

A latent pixel stands for 32 x 32 pixels and 8 frames (LTX-Video), or for 8 x 8 pixels and 4 frames (Wan). The first
latent frame stands for one frame.

    latents = (mean - m) / d        the model's mean m and deviation d of each channel: about unit variance
    video   = decoder(latents d + m)

From LTX-Video 0.9.1 on the decoder also takes a time, the noise level of its latents, 0 by default. Both codecs process
a video whole or in pieces (`jvflow.networks.streaming`), and frames whole or in tiles (`jvflow.codecs.tiling`). Pieces
change only rounding; tiles change pixels near their edges.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jvflow import networks, pretrained
from jvflow.codecs import Codec, Posterior
from jvflow.codecs.tiling import apply_tiled, image_latent_shape, map_images
from jvflow.networks import precision
from jvflow.networks.ltx_vae import LTXVAE, STRIDES, LTXVAEConfig
from jvflow.networks.streaming import WHOLE, apply_in_pieces
from jvflow.networks.wan_vae import WanVAE, WanVAEConfig
from jvflow.pretrained import LazyParams

TINY_LTX = LTXVAEConfig(
    channels=(8, 16, 16, 32, 32), blocks=(1,) * 5, decoder_channels=(16, 32, 64), decoder_blocks=(1,) * 4, latent=16
)
TINY_WAN = WanVAEConfig(width=4, decoder_width=4, blocks=1)


def build_ltx(
    *folders: str | Path,
    scale: float = 1.0,
    piece: int = 0,
    tile: int = 0,
    time: float = 0.0,
    dtype: str = "float32",
    tiny: bool = False,
    abstract: bool = False,
) -> Codec:
    """Returns the codec of LTX-Video.

    Args:
      folders: one folder or file of an autoencoder, see `jvflow.pretrained.load`.
      scale: latents are also divided by it.
      piece: how many latent frames are encoded or decoded at a time, so that memory does not grow with the length of
        a video; 0 for all at once.
      tile: side of a tile in pixels, a multiple of four latent pixels; larger frames are split. 0 for no tiles.
      time: noise level that the decoder takes, in [0, 1].
      dtype: dtype of kernels and their products, float32 or bfloat16; norms are float32.
      tiny: without a folder, a very small model with random parameters, to try out a configuration.
      abstract: without a folder, give only the shapes of the latents of 0.9.5; the codec cannot encode.
    """
    lazy, config, settings = _load(folders, LTXVAEConfig, LTXVAE, TINY_LTX, dtype, tiny, abstract)
    if not 0 <= time <= 1 or (time and not config.timed):
        raise ValueError(
            f"config.codec.time is {time}: this decoder takes "
            + ("a time in [0, 1]" if config.timed else "none, use 0")
        )
    if piece and not config.causal:
        raise ValueError(f"config.codec.piece is {piece}, but this encoder's frames depend on later frames: use 0")
    apply = networks.functional(precision.computed_in(LTXVAE, dtype), config).apply
    strides = [STRIDES.get(down, (2, 2, 2)) for down in config.downs if down]

    def decode(params, latents, stream):
        return apply(params, latents, jnp.full(len(latents), time) if config.timed else None, stream, method="decode")

    model = VideoVAE(
        encode=partial(apply, method="encode"),
        decode=decode,
        statistics=lambda params: (params["latents_mean"], params["latents_std"]),
        space=config.patch * 2 ** sum(h == 2 for _, h, _ in strides),
        frames=2 ** sum(f == 2 for f, _, _ in strides),
        channels=config.latent,
    )
    return _build(lazy, model=model, scale=scale / settings.get("scaling_factor", 1.0), piece=piece, tile=tile)


def build_wan(
    *folders: str | Path,
    scale: float = 1.0,
    piece: int = 1,
    tile: int = 0,
    dtype: str = "float32",
    tiny: bool = False,
    abstract: bool = False,
) -> Codec:
    """Returns the codec of Wan 2.1; arguments as in `build_ltx`."""
    lazy, config, settings = _load(folders, WanVAEConfig, WanVAE, TINY_WAN, dtype, tiny, abstract)
    apply = networks.functional(precision.computed_in(WanVAE, dtype), config).apply
    statistics = _wan_statistics(settings, config.latent, folders)
    model = VideoVAE(
        encode=partial(apply, method="encode"),
        decode=partial(apply, method="decode"),
        statistics=lambda params: statistics,
        space=2 ** (len(config.levels) - 1),
        frames=2 ** sum(config.halves),
        channels=config.latent,
    )
    return _build(lazy, model=model, scale=scale, piece=piece, tile=tile)


def _wan_statistics(settings: Mapping, channels: int, folders: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation of each latent channel; Wan 2.1's own if the config of the model has none."""
    if not settings:  # a model without a folder
        return np.zeros(channels, np.float32), np.ones(channels, np.float32)
    mean, deviation = (np.asarray(settings[name], np.float32) for name in ("latents_mean", "latents_std"))
    if not len(mean) == len(deviation) == channels:
        raise ValueError(
            f"latents_mean and latents_std of {folders[0]} have {len(mean)} and {len(deviation)} entries (Wan 2.1's if "
            f"its config.json has none), its latents have {channels} channels: write as many into its config.json"
        )
    return mean, deviation


def _load(
    folders: tuple, config_type: type, module: type, tiny_config: Any, dtype: str, tiny: bool, abstract: bool
) -> tuple[LazyParams | None, Any, Mapping]:
    """Returns parameters, sizes, and the values of all keys of the public config; none without a folder."""
    precision.check_dtype("config.codec.dtype", dtype)
    if folders or not (tiny or abstract):
        name, kind = {LTXVAE: ("LTX-Video", "ltx_vae"), WanVAE: ("Wan", "wan_vae")}[module]
        if len(folders) != 1:
            raise ValueError(
                f"the codec takes one folder as config.codec.checkpoint, such as ('{name}/vae',), got {folders}"
            )
        found, config_json, files = pretrained.open_folder(folders[0], kind)
        if found != kind:
            raise ValueError(f"{folders[0]} holds no autoencoder of {name}: give the folder vae of the model")
        public = pretrained.find_model(kind, config_json, files)
        read = lambda: pretrained.load(folders[0], kind=kind, dtype=jnp.dtype(dtype)).params
        return LazyParams(read), public.network.config, public.settings
    if tiny:
        init = networks.functional(module, tiny_config).init
        return LazyParams(lambda: precision.cast(jax.jit(init)(jax.random.key(0)), dtype)), tiny_config, {}
    return None, config_type(), {}


# --- any such model -------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoVAE:
    """An autoencoder of videos.

    Attributes:
      encode: `(params, video, stream) -> (mean, log variance)`, video in [-1, 1].
      decode: `(params, latents, stream) -> video`.
      statistics: `params -> (m, d)`, mean and deviation of each channel of the latents.
      space, frames: a latent pixel stands for space x space pixels and this number of frames.
      channels: channels of the latents.
    """

    encode: Callable
    decode: Callable
    statistics: Callable
    space: int
    frames: int
    channels: int


def _build(lazy: LazyParams | None, *, model: VideoVAE, scale: float, piece: int, tile: int) -> Codec:
    if tile % (4 * model.space) or piece < 0:
        raise ValueError(
            f"config.codec.tile is {tile}, piece is {piece}: tiles are multiples of {4 * model.space} pixels, "
            "pieces 0 or more latent frames"
        )
    frames, options = model.frames, dict(model=model, scale=scale, piece=piece, tile=tile)

    def latent_shape(video: tuple) -> tuple:
        if (video[0] - 1) % frames:
            short = (video[0] - 1) // frames * frames + 1
            raise ValueError(f"the codec needs {frames} k + 1 frames, got {video[0]}: use {short} or {short + frames}")
        return (video[0] - 1) // frames + 1, *image_latent_shape(model.space, model.channels)(video)[1:]

    return Codec(
        encode=jax.jit(partial(_encode, **options)),
        decode=jax.jit(partial(_decode, **options)),
        latent_shape=latent_shape,
        valid_frames=lambda count: count >= 1 and (count - 1) % frames == 0,
        lazy=lazy,
        posterior=True,
        frames_per_latent=frames,
    )


def _encode(
    params, video: UInt8[Array, "b f h w 3"], *, model: VideoVAE, scale: float, piece: int, tile: int
) -> Posterior:
    def moments(video, stream=WHOLE):
        encoded = model.encode(params, video.astype(jnp.float32) / 127.5 - 1, stream)
        return jnp.concatenate(encoded, axis=-1).astype(jnp.float32)

    def encode(video):
        if not piece:
            return moments(video)
        return apply_in_pieces(moments, video, piece=model.frames * piece, offset=1 - model.frames)

    encoded = map_images(
        lambda videos: apply_tiled(encode, videos, tile, 1 / model.space), video, video[0, ..., 0].size
    )
    mean, log_variance = jnp.split(encoded, 2, axis=-1)
    m, d = _channel_statistics(model, params)
    return Posterior((mean - m) / (d * scale), jnp.exp(log_variance / 2) / (d * scale))


def _decode(
    params, latents: Float[Array, "b f h w c"], *, model: VideoVAE, scale: float, piece: int, tile: int
) -> UInt8[Array, "b _ _ _ 3"]:
    space = model.space
    tiled = tile and max(latents.shape[2:4]) * space > tile  # tiles are blended before they are rounded

    def decode_piece(latents, stream=WHOLE):
        video = model.decode(params, latents, stream).astype(jnp.float32)
        return video if tiled else to_uint8(video)

    def decode(latents):
        m, d = _channel_statistics(model, params)
        latents = latents * (d * scale) + m
        return apply_in_pieces(decode_piece, latents, piece=piece) if piece else decode_piece(latents)

    pixels = model.frames * space**2 * latents[0, ..., 0].size
    video = map_images(lambda latents: apply_tiled(decode, latents, tile // space, space), latents, pixels)
    return to_uint8(video) if tiled else video


def _channel_statistics(model: VideoVAE, params) -> tuple[Array, Array]:
    return tuple(jnp.asarray(a).reshape(1, 1, 1, 1, -1) for a in model.statistics(params))


def to_uint8(video: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Maps [-1, 1] to 0 .. 255."""
    return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)
