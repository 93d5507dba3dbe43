"""Codecs: uint8 video to what a flow is learned on, and back.

A codec is four pure functions. Its parameters, where it has any, are the first argument.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

__all__ = ["Codec", "Posterior", "build", "pixels"]


class Posterior(NamedTuple):
    """Mean and standard deviation of the latents of a clip, (b, f, h, w, c) each; std None when exact."""

    mean: Float[Array, "b f h w c"]
    std: Float[Array, "b f h w c"] | None = None


@dataclass(frozen=True)
class Codec:
    """An autoencoder as pure functions.

    Attributes:
      encode: `(params, video uint8 (b, f, h, w, 3)) -> Posterior`.
      decode: `(params, latents) -> video uint8`.
      latent_shape: `(f, h, w) -> (f', h', w', c)`.
      valid_frames: whether a number of frames can be encoded.
      range: what decoded latents are clamped to when they are fed back, or None.
    """

    encode: Callable[[Any, Array], Posterior]
    decode: Callable[[Any, Array], Array]
    latent_shape: Callable[[tuple], tuple]
    valid_frames: Callable[[int], bool]
    range: tuple[float, float] | None = None


def _encode_pixels(params, video: UInt8[Array, "b f h w c"]) -> Posterior:
    return Posterior(video.astype(jnp.float32) / 127.5 - 1.0)


def _decode_pixels(params, latents: Float[Array, "b f h w c"]) -> UInt8[Array, "b f h w c"]:
    return jnp.round(jnp.clip((latents + 1.0) * 127.5, 0, 255)).astype(jnp.uint8)


pixels = Codec(
    encode=_encode_pixels,
    decode=_decode_pixels,
    latent_shape=lambda video: (*video, 3),
    valid_frames=lambda frames: frames >= 1,
    range=(-1.0, 1.0),
)
"""Pixels in [-1, 1]; the round trip is exact."""


def build(name: str) -> Codec:
    """A codec by its name ("pixels")."""
    if name != "pixels":
        raise ValueError(f"unknown codec {name!r}: use 'pixels'")
    return pixels
