"""Codecs: they map uint8 video to the latents that a flow is learned on, and back.

A codec is a few pure functions; its parameters, if it has any, are their first argument. The codec "pixels" is defined
here. Each other codec is in a file of this package, imported when it is built.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from jvflow.pretrained import LazyParams

CODECS = {
    "tiny": "tiny.build",
    "stable_diffusion": "stable_diffusion.build",
    "stable_diffusion_ddim": "stable_diffusion.build_ddim",
    "ltx_vae": "video_vae.build_ltx",
    "wan_vae": "video_vae.build_wan",
}
"""The module in this package, and its function, that builds each codec except "pixels"."""


class Posterior(NamedTuple):
    """Mean and standard deviation of the latents of a video; std is None if the mean is exact."""

    mean: Float[Array, "b f h w c"]
    std: Float[Array, "b f h w c"] | None = None


@dataclass(frozen=True)
class Codec:
    """An autoencoder as pure functions.

    Attributes:
      encode: `(params, video uint8 (b, f, h, w, 3)) -> Posterior`.
      decode: `(params, latents) -> video uint8`.
      latent_shape: `(f, h, w) -> (f', h', w', c)`; raises ValueError for a size that cannot be encoded.
      valid_frames: `f -> bool`, whether f frames can be encoded.
      latent_range: range to which predicted latents are clamped when they are fed back, or None.
      lazy: its parameters, read when `params` is first used, or None.
      posterior: whether `encode` gives a standard deviation.
      frames_per_latent: how many frames of video a latent frame stands for. If more than one, each chunk of a video
        is encoded separately (`encode_chunks`).
    """

    encode: Callable[[Any, Array], Posterior]
    decode: Callable[[Any, Array], Array]
    latent_shape: Callable[[tuple], tuple]
    valid_frames: Callable[[int], bool]
    latent_range: tuple[float, float] | None = None
    lazy: LazyParams | None = None
    posterior: bool = False
    frames_per_latent: int = 1

    @property
    def params(self) -> Any:
        """Its parameters, or None if it has none."""
        return self.lazy and self.lazy.get()


def build(name: str, *, checkpoint: Sequence = (), scale: float = 1.0, abstract: bool = False, **options) -> Codec:
    """Returns the codec `name`, "pixels" or a key of `CODECS`, with its own options.

    Args:
      checkpoint: files or the folder of its parameters.
      scale: latents are divided by it, so that they have about unit variance.
      abstract: without a checkpoint, use only the shapes of the public model's latents, if there is one.
    """
    if name == "pixels":
        own = dict(checkpoint=checkpoint or None, scale=None if scale == 1 else scale)
        given = options | {key: value for key, value in own.items() if value is not None}
        if given:
            raise ValueError(f"the codec pixels has no checkpoint, scale or other option, got {given}: leave it out")
        return PIXELS
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}: use one of pixels, {', '.join(CODECS)}")
    module, function = CODECS[name].split(".")
    make = getattr(importlib.import_module(f"jvflow.codecs.{module}"), function)
    known = inspect.signature(make).parameters
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ValueError(f"the codec {name} has no {', '.join(unknown)}: remove config.codec.{unknown[0]}")
    if abstract and not checkpoint and "abstract" in known:
        options["abstract"] = True
    return make(*checkpoint, scale=scale, **options)


def encode_chunks(codec: Codec, params, video: Array, chunks: int) -> Posterior:
    """Encodes a video (b, chunks f, h, w, 3); a codec that merges frames encodes each chunk of f frames separately."""
    if codec.frames_per_latent == 1:
        return codec.encode(params, video)
    posterior = codec.encode(params, rearrange(video, "b (n f) ... -> (b n) f ...", n=chunks))
    return jax.tree.map(lambda a: rearrange(a, "(b n) f ... -> b (n f) ...", n=chunks), posterior)


def decode_chunks(codec: Codec, params, latents: Array, chunks: int) -> Array:
    """Decodes the latents of `encode_chunks`."""
    if codec.frames_per_latent == 1:
        return codec.decode(params, latents)
    video = codec.decode(params, rearrange(latents, "b (n f) ... -> (b n) f ...", n=chunks))
    return rearrange(video, "(b n) f ... -> b (n f) ...", n=chunks)


def _encode_pixels(params, video: UInt8[Array | np.ndarray, "b f h w c"]) -> Posterior:
    """Maps uint8 to [-1, 1]; the round trip is exact."""
    return Posterior(video.astype(jnp.float32) / 127.5 - 1.0)


def _decode_pixels(params, latents: Float[Array | np.ndarray, "b f h w c"]) -> UInt8[Array, "b f h w c"]:
    return jnp.round(jnp.clip((latents + 1.0) * 127.5, 0, 255)).astype(jnp.uint8)


PIXELS = Codec(
    _encode_pixels, _decode_pixels, lambda video: (*video, 3), lambda frames: frames >= 1, latent_range=(-1.0, 1.0)
)
