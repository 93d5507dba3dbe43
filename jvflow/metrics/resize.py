"""Resizes clips to the input of a feature network, as the public code bases do.

Every rule is linear and separable, so that it is a sparse matrix for each axis. For output pixel i of n, from m pixels:

    tf1          source = i m / n                        TensorFlow 1: no half-pixel centres, no antialias  (1)
    half_pixel   source = (i + 1/2) m / n - 1/2          PyTorch and jax.image, no antialias                (2)
    antialias    the triangle of half-width max(m / n, 1) around the centre of (2)                          (3)

(1) and (2) interpolate between the two pixels next to the source.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Num
from scipy import sparse

FILTERS = ("tf1", "half_pixel", "antialias")
FITS = ("squash", "short_side")

Clip = Num[np.ndarray, "f h w c"]


@lru_cache(maxsize=64)
def _matrix(size: int, target: int, rule: str) -> sparse.csr_array:
    """Returns the (target, size) matrix of one axis."""
    scale = size / target
    if rule == "antialias":
        support = max(scale, 1.0)
        centre = (np.arange(target) + 0.5) * scale
        weights = np.maximum(0, 1 - abs(np.arange(size)[None] + 0.5 - centre[:, None]) / support)
        return sparse.csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    source = np.arange(target) * scale if rule == "tf1" else (np.arange(target) + 0.5) * scale - 0.5
    source = np.clip(source, 0, size - 1)
    low = np.floor(source).astype(int)
    high, part = np.minimum(low + 1, size - 1), source - low
    rows = np.arange(target)
    matrix = sparse.coo_array((1 - part, (rows, low)), (target, size))
    return (matrix + sparse.coo_array((part, (rows, high)), (target, size))).tocsr().astype(np.float32)


def resize(clip: Clip, height: int, width: int, rule: str) -> Float[np.ndarray, "f height width c"]:
    """Returns a clip (f, h, w, c) of another size in float32, in the range of its pixels."""
    clip = np.asarray(clip, np.float32)
    frames, h, w, channels = clip.shape
    if (h, w) == (height, width):
        return clip
    columns = clip.transpose(1, 0, 2, 3).reshape(h, -1)
    clip = (_matrix(h, height, rule) @ columns).reshape(height, frames, w, channels)
    rows = clip.transpose(2, 1, 0, 3).reshape(w, -1)
    return (_matrix(w, width, rule) @ rows).reshape(width, frames, height, channels).transpose(1, 2, 0, 3)


def fit(clip: Clip, size: int, how: str, rule: str) -> Float[np.ndarray, "f size size c"]:
    """Returns a square clip.

    Args:
      clip: pixels (f, h, w, c).
      size: pixels of its sides.
      how: "squash" resizes the whole frame and changes its aspect. "short_side" resizes the short side to `size` and
        the long one in proportion, rounded up, and crops the centre.
      rule: one of `FILTERS`.
    """
    if how == "squash":
        return resize(clip, size, size, rule)
    h, w = clip.shape[1:3]
    height, width = (size, -(-size * w // h)) if h <= w else (-(-size * h // w), size)
    top, left = (height - size) // 2, (width - size) // 2
    return resize(clip, height, width, rule)[:, top : top + size, left : left + size]
