"""Processes images in small batches and tiles, so that memory does not grow with a video's length or frame size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

MAX_PIXELS = 2**18
"""How many pixels are encoded or decoded at a time, unless a single image has more."""


def map_images(function: Callable, images: Array, pixels: int):
    """Applies a function to images (n, ...) of `pixels` pixels each, `MAX_PIXELS` at a time."""
    batch = max(MAX_PIXELS // pixels, 1)
    if len(images) <= batch:
        return function(images)
    single = lambda image: jax.tree.map(lambda a: a[0], function(image[None]))
    return jax.lax.map(single, images, batch_size=batch)


def apply_tiled(function: Callable, images: Array, tile: int, factor: int | float) -> Array:
    """Applies a function that scales height and width by `factor` to tiles of images or videos (n, ..., h, w, c).

    Neighbouring tiles overlap by a quarter of a tile, where one fades into the other. Operations over the whole image
    (attention, group norm) see only a tile. An image that is not larger than a tile is processed whole.

    Args:
      tile: height and width of a tile; 0 processes each image whole.
    """
    *n, h, w, c = images.shape
    if not tile or max(h, w) <= tile:
        return function(images)
    (rows, height), (columns, width) = (_tile_starts(size, tile) for size in (h, w))
    corners = [(row, column) for row in rows for column in columns]
    crop = lambda corner: jax.lax.dynamic_slice(images, (*[0] * len(n), *corner, 0), (*n, height, width, c))
    parts = jax.lax.map(lambda corner: function(crop(corner)), jnp.asarray(corners))
    scaled = lambda size: int(round(size * factor))
    fade = jnp.asarray(np.outer(_fade(scaled(height)), _fade(scaled(width))), parts.dtype)[..., None]
    size = (scaled(h), scaled(w))
    total = jnp.zeros((*parts.shape[1:-3], *size, parts.shape[-1]), parts.dtype)
    weight = jnp.zeros((*size, 1), parts.dtype)
    for part, (row, column) in zip(parts, corners):
        at = (
            slice(scaled(row), scaled(row) + part.shape[-3]),
            slice(scaled(column), scaled(column) + part.shape[-2]),
        )
        total = total.at[(..., *at, slice(None))].add(jnp.expand_dims(fade, tuple(range(part.ndim - 3))) * part)
        weight = weight.at[at].add(fade)
    return total / jnp.expand_dims(weight, tuple(range(total.ndim - 3)))


def _tile_starts(size: int, tile: int) -> tuple[list[int], int]:
    """Returns where the tiles along an axis start, and how long they are."""
    if size <= tile:
        return [0], size
    step = tile - tile // 4
    return [*range(0, size - tile, step), size - tile], tile


def _fade(size: int) -> np.ndarray:
    """Returns the weight of a tile along an axis, 1 in its middle half."""
    quarter = max(size // 4, 1)
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
    return np.minimum(distance / quarter, 1.0)


def image_latent_shape(factor: int, channels: int) -> Callable[[tuple], tuple]:
    """Returns the `latent_shape` of a codec that encodes images and divides their height and width by `factor`."""

    def latent_shape(video: tuple) -> tuple:
        f, h, w = video
        if h % factor or w % factor:
            works = tuple(-(-n // factor) * factor for n in (h, w))
            raise ValueError(
                f"the codec needs height and width in multiples of {factor}, got {h} x {w}: use {works[0]} x {works[1]}"
            )
        return f, h // factor, w // factor, channels

    return latent_shape
