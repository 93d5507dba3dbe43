"""Features of video windows that need no download: `WindowPCA`, fitted to real windows alone.

Three groups of numbers describe a window x (length, h, w, c), each averaged over areas (A) to grid x grid cells:

    appearance   A x                                                                        (1)
    detail       A mean_c |x - box(x)|,      box the 3 x 3 mean: blur lowers it, pixel noise raises it    (2)
    change       A mean_c |x_{k+1} - x_k|,   low where the video is frozen, high where it flickers        (3)

Each group is scaled to total variance 1 on the real windows and projected on its leading right singular vectors. The
vectors are computed without centring: they span the mean too, so that a change of level in (2) or (3) stays inside the
subspace. Scores are not whitened: one constant scales their mean variance to 1. The Frechet distance of these features
is the "window-PCA Frechet distance"; it is not FVD and is not comparable with FVD.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Num

DISTANCE_NAME = "window-PCA Frechet distance"
"""The name of the distance with `WindowPCA` features in reports."""

CHUNK = 16
"""The number of windows that are processed at a time."""

Windows = Num[Array | np.ndarray, "m length h w c"]


def _area(size: int, grid: int) -> np.ndarray:
    """Returns the (grid, size) matrix of an area average: the share of each pixel in each cell."""
    edges = np.linspace(0, size, grid + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None).astype(np.float32) * (grid / size)


def _box(x: Array) -> Array:
    """Returns the 3 x 3 mean over h and w of (n, f, h, w, c), with the border repeated."""
    height, width = x.shape[2:4]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = (x[:, :, :height] + x[:, :, 1 : height + 1] + x[:, :, 2:]) / 3
    return (x[:, :, :, :width] + x[:, :, :, 1 : width + 1] + x[:, :, :, 2:]) / 3


@partial(jax.jit, static_argnames="grid")
def _describe(x: Array, grid: int) -> tuple[Array, ...]:
    """Returns the groups (1), (2) and (3), each (n, -1)."""
    rows, columns = _area(x.shape[2], grid), _area(x.shape[3], grid)

    def pooled(x):
        cells = jnp.einsum("yh,nfhwc,xw->nfyxc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)
        return rearrange(cells, "n f y x c -> n (f y x c)")

    detail = jnp.abs(x - _box(x)).mean(-1, keepdims=True)
    change = jnp.abs(x[:, 1:] - x[:, :-1]).mean(-1, keepdims=True)
    return pooled(x), pooled(detail), pooled(change)


def _check(windows: Windows, grid: int):
    if windows.ndim != 5 or windows.shape[1] < 2 or min(windows.shape[2:4]) < grid:
        raise ValueError(
            f"windows must be (m, length >= 2, h >= {grid}, w >= {grid}, c) for grid {grid}, got {windows.shape}: "
            "join batch and window axes, or use a smaller grid"
        )
    if not jnp.issubdtype(windows.dtype, jnp.floating):
        raise ValueError(f"windows are {windows.dtype}, pixels must be float in [-1, 1]: convert with x / 127.5 - 1")


def _chunks(windows: Windows, grid: int):
    """Yields the groups of `CHUNK` windows at a time."""
    for i in range(0, len(windows), CHUNK):
        yield [np.asarray(group) for group in _describe(jnp.asarray(windows[i : i + CHUNK], jnp.float32), grid)]


@dataclass(frozen=True, eq=False)
class WindowPCA:
    """Maps windows (m, length, h, w, c) in [-1, 1] to features (m, d) in float64. Made by `fit_window_pca`.

    Attributes:
      mean: mean of the concatenated groups (1), (2), (3) over the real windows, (raw,).
      basis: block-diagonal directions, one block per group, including the group's scale, (raw, d).
      scale: the divisor of the scores.
      grid: cells per side of the area average.
      shape: (length, h, w, c) of the windows that it was fitted to.
    """

    mean: Float[np.ndarray, "raw"]
    basis: Float[np.ndarray, "raw d"]
    scale: float
    grid: int
    shape: tuple[int, int, int, int]

    def __call__(self, windows: Windows) -> Float[np.ndarray, "m d"]:
        _check(windows, self.grid)
        if windows.shape[1:] != self.shape:
            raise ValueError(
                f"fitted to windows of {self.shape}, got {windows.shape[1:]}: fit again to real windows of this shape"
            )
        scores = [np.zeros((0, self.basis.shape[1]))]
        for groups in _chunks(windows, self.grid):
            scores.append((np.concatenate(groups, axis=1).astype(np.float64) - self.mean) @ self.basis)
        return np.concatenate(scores) / self.scale


def _directions(raw: Float[np.ndarray, "n raw"], count: int) -> Float[np.ndarray, "raw count"]:
    """Returns the leading right singular vectors, by way of the smaller Gram matrix; 0 beyond the rank."""
    n, width = raw.shape
    gram = raw @ raw.T if n <= width else raw.T @ raw
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    values, vectors = values[: -count - 1 : -1], vectors[:, : -count - 1 : -1]
    kept = values > 1e-6 * values[0]
    if n <= width:
        vectors = raw.T.astype(np.float64) @ (vectors / np.sqrt(np.where(kept, values, 1)))
    return vectors * kept


def fit_window_pca(real_windows: Windows, *, dimensions: int = 32, grid: int = 8) -> WindowPCA:
    """Fits a `WindowPCA` to real windows (n, length, h, w, c) in [-1, 1]; the result depends on them alone.

    Args:
      real_windows: real windows only, because features that are fitted to a generator do not measure it.
      dimensions: d, shared equally among the three groups; at least 3.
      grid: cells per side of the area average.
    """
    _check(real_windows, grid)
    n = len(real_windows)
    if dimensions < 3:
        raise ValueError(f"dimensions must be at least 3, one for each group of features, got {dimensions}")
    if n < dimensions + 2:
        raise ValueError(
            f"{dimensions} dimensions need at least {dimensions + 2} real windows, got {n}: "
            "use more videos, a smaller stride or fewer dimensions"
        )
    groups = [np.concatenate(parts) for parts in zip(*_chunks(real_windows, grid))]
    counts = [len(part) for part in np.array_split(np.arange(dimensions), len(groups))]
    blocks = []
    for name, raw, count in zip(("appearance", "detail", "change"), groups, counts):
        variance = float(raw.var(axis=0, dtype=np.float64).sum())
        if not variance > 1e-12:
            raise ValueError(
                f"the {name} of the real windows has total variance {variance}: use real videos that move and differ"
            )
        blocks.append(_directions(raw, count) / np.sqrt(variance))
    basis = np.zeros((sum(len(block) for block in blocks), dimensions))
    row = column = 0
    for block in blocks:
        basis[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    mean = np.concatenate([raw.mean(axis=0, dtype=np.float64) for raw in groups])
    scores = np.concatenate([raw @ block for raw, block in zip(groups, blocks)], axis=1)
    return WindowPCA(mean, basis, float(np.sqrt(scores.var(axis=0).mean())), grid, tuple(real_windows.shape[1:]))


FEATURE_MAPS = {"window_pca": fit_window_pca}


def feature_map(name: str) -> Callable:
    """Returns the function that fits the feature map `name` to real windows."""
    if name not in FEATURE_MAPS:
        raise ValueError(f"unknown feature map {name!r}: use one of {', '.join(FEATURE_MAPS)}")
    return FEATURE_MAPS[name]
