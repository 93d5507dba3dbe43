"""What a codec is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float


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
      latent_shape: `(f, h, w) -> (f', h', w', c)`; a ValueError for a size that cannot be encoded.
      valid_frames: whether a number of frames can be encoded.
      range: what decoded latents are clamped to when they are fed back, or None.
      params: its parameters, None where it has none.
      posterior: whether `encode` gives a standard deviation.
    """

    encode: Callable[[Any, Array], Posterior]
    decode: Callable[[Any, Array], Array]
    latent_shape: Callable[[tuple], tuple]
    valid_frames: Callable[[int], bool]
    range: tuple[float, float] | None = None
    params: Any = None
    posterior: bool = False


AT_ONCE = 2**18
"""Pixels that are encoded or decoded at a time, unless an image has more: memory does not grow with the length of a video."""


def by_image(function: Callable, images: Array, pixels: int) -> Array:
    """The function of images (n, ...), each of so many pixels, `AT_ONCE` pixels at a time."""
    some = max(AT_ONCE // pixels, 1)
    if len(images) <= some:
        return function(images)
    return jax.lax.map(lambda image: jax.tree.map(lambda a: a[0], function(image[None])), images, batch_size=some)


def divided(factor: int, channels: int) -> Callable[[tuple], tuple]:
    """The `latent_shape` of a codec of images, whose height and width it divides."""

    def latent_shape(video):
        f, h, w = video
        if h % factor or w % factor:
            cure = tuple(-(-n // factor) * factor for n in (h, w))
            raise ValueError(f"the codec needs height and width in multiples of {factor}, got {h} x {w}: use {cure[0]} x {cure[1]}")
        return f, h // factor, w // factor, channels

    return latent_shape
