"""What a codec is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from jvflow.pretrained.lazy import Held


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
      held: its parameters, which are read when `params` is asked for.
      posterior: whether `encode` gives a standard deviation.
      frames: of video to a latent frame; where these are more than one, a chunk of a video is encoded by itself (`encode_chunks`).
    """

    encode: Callable[[Any, Array], Posterior]
    decode: Callable[[Any, Array], Array]
    latent_shape: Callable[[tuple], tuple]
    valid_frames: Callable[[int], bool]
    range: tuple[float, float] | None = None
    held: Held = field(default_factory=Held)
    posterior: bool = False
    frames: int = 1

    @property
    def params(self) -> Any:
        """Its parameters, None where it has none."""
        return self.held.get()


def encode_chunks(codec: Codec, params, video: Array, chunks: int) -> Posterior:
    """Video (b, chunks f, h, w, 3), chunks of f frames each by itself, to their latents one after the other."""
    if codec.frames == 1:
        return codec.encode(params, video)
    apart = codec.encode(params, rearrange(video, "b (n f) ... -> (b n) f ...", n=chunks))
    return jax.tree.map(lambda a: rearrange(a, "(b n) f ... -> b (n f) ...", n=chunks), apart)


def decode_chunks(codec: Codec, params, latents: Array, chunks: int) -> Array:
    """The way back of `encode_chunks`."""
    if codec.frames == 1:
        return codec.decode(params, latents)
    apart = codec.decode(params, rearrange(latents, "b (n f) ... -> (b n) f ...", n=chunks))
    return rearrange(apart, "(b n) f ... -> b (n f) ...", n=chunks)


AT_ONCE = 2**18
"""Pixels that are encoded or decoded at a time, unless an image has more: memory does not grow with the length of a video."""


def by_image(function: Callable, images: Array, pixels: int) -> Array:
    """The function of images (n, ...), each of so many pixels, `AT_ONCE` pixels at a time."""
    some = max(AT_ONCE // pixels, 1)
    if len(images) <= some:
        return function(images)
    return jax.lax.map(lambda image: jax.tree.map(lambda a: a[0], function(image[None])), images, batch_size=some)


def tiled(function: Callable, images: Array, tile: int, factor: float) -> Array:
    """A function of images or videos (n, ..., h, w, c) that changes height and width by `factor`, on tiles of `tile` x `tile`: memory does not grow with the image.

    Neighbouring tiles share a quarter of a tile, across which one fades into the other. What the function does over the whole of an image
    (attention, group norm) it does over a tile. An image that is no larger than a tile is taken whole.
    """
    *n, h, w, c = images.shape
    if not tile or max(h, w) <= tile:
        return function(images)
    (rows, height), (columns, width) = (_starts(size, tile) for size in (h, w))
    corners = jnp.asarray([(row, column) for row in rows for column in columns])
    some = lambda corner: function(jax.lax.dynamic_slice(images, (*[0] * len(n), *corner, 0), (*n, height, width, c)))
    made = jax.lax.map(some, corners)
    scaled = lambda size: int(round(size * factor))
    fade = jnp.asarray(np.outer(_fade(scaled(height)), _fade(scaled(width))), made.dtype)[..., None]
    size = (scaled(h), scaled(w))
    total, weight = jnp.zeros((*made.shape[1:-3], *size, made.shape[-1]), made.dtype), jnp.zeros((*size, 1), made.dtype)
    for part, (row, column) in zip(made, [(row, column) for row in rows for column in columns]):
        at = (slice(scaled(row), scaled(row) + part.shape[-3]), slice(scaled(column), scaled(column) + part.shape[-2]))
        total, weight = total.at[(..., *at, slice(None))].add(jnp.expand_dims(fade, tuple(range(part.ndim - 3))) * part), weight.at[at].add(fade)
    return total / jnp.expand_dims(weight, tuple(range(total.ndim - 3)))


def _starts(size: int, tile: int) -> tuple[list[int], int]:
    """Where the tiles along an axis begin, and how long they are."""
    if size <= tile:
        return [0], size
    step = tile - tile // 4
    return [*range(0, size - tile, step), size - tile], tile


def _fade(size: int) -> np.ndarray:
    """The weight of a tile along an axis, 1 in its middle half."""
    quarter = max(size // 4, 1)
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
    return np.minimum(distance / quarter, 1.0)


def divided(factor: int, channels: int) -> Callable[[tuple], tuple]:
    """The `latent_shape` of a codec of images, whose height and width it divides."""

    def latent_shape(video):
        f, h, w = video
        if h % factor or w % factor:
            cure = tuple(-(-n // factor) * factor for n in (h, w))
            raise ValueError(f"the codec needs height and width in multiples of {factor}, got {h} x {w}: use {cure[0]} x {cure[1]}")
        return f, h // factor, w // factor, channels

    return latent_shape
