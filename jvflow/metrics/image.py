"""Errors between a video and its reference, one number per example.

    MSE = mean (x - y)^2                                                                    (1)
    PSNR = 10 log10(peak^2 / MSE),   peak the range of the pixels                           (2)
    PSNR_side = 10 log10(r^2 / MSE), r the image side in pixels                             (3)   VLFM, section 6
    SSIM = mean (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))
           with moments under a Gaussian window, C_i = (K_i peak)^2                         (4)   Wang et al. 2004, (13)

(3) is not a PSNR: it grows with the image size at equal quality.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num, UInt8

Pixels = Num[Array | np.ndarray, "b ..."]

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def to_unit_range(video: UInt8[Array | np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Converts pixels from 0 .. 255 to float32 in [-1, 1], the range of all metrics."""
    return np.asarray(video, np.float32) / 127.5 - 1


def _pair(x: Pixels, y: Pixels) -> tuple[Array, Array]:
    """Returns both as float32 arrays; raises ValueError if they cannot be compared."""
    for name, value in (("x", x), ("y", y)):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"{name} is {value.dtype}, pixels must be float: convert to [-1, 1] with x / 127.5 - 1, "
                "or pass float arrays with peak=255"
            )
    if x.shape != y.shape or x.ndim < 4:
        raise ValueError(f"x and y must share one shape (b, ..., h, w, c), got {x.shape} and {y.shape}: crop or resize")
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def _squared_error(x: Array, y: Array) -> Float[Array, "b"]:
    return jnp.mean(jnp.square(x - y), axis=range(1, x.ndim))  # (1)


def psnr(x: Pixels, y: Pixels, peak: float | int = 2.0) -> Float[Array, "b"]:
    """Returns the peak signal-to-noise ratio (2) in dB; identical examples give inf.

    Args:
      x, y: float pixels (b, ..., h, w, c). The error is averaged over frames before the logarithm.
      peak: range of the pixels, 2 for [-1, 1].
    """
    return 10 * jnp.log10(peak**2 / _squared_error(*_pair(x, y)))  # (2)


def psnr_side(x: Pixels, y: Pixels) -> Float[Array, "b"]:
    """Returns the quantity (3) that VLFM calls PSNR, in dB; use it only to compare with that paper."""
    x, y = _pair(x, y)
    height, width = x.shape[-3:-1]
    if height != width:
        raise ValueError(f"the image side is defined for square frames, got {height} x {width}: crop, or use psnr")
    return 10 * jnp.log10(height**2 / _squared_error(x, y))  # (3)


def _blur(x: Array) -> Array:
    """Returns the Gaussian window mean over h and w of (..., h, w, c), where the window fits."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    taps = (taps / taps.sum()).tolist()
    for axis in (x.ndim - 3, x.ndim - 2):
        size = x.shape[axis] - WINDOW + 1
        x = sum(tap * lax.slice_in_dim(x, i, i + size, axis=axis) for i, tap in enumerate(taps))
    return x


def ssim(x: Pixels, y: Pixels, peak: float | int = 2.0) -> Float[Array, "b"]:
    """Returns the structural similarity (4), averaged over frames, channels and places where the window fits.

    Args:
      x, y: float pixels (b, ..., h, w, c) in [-1, 1] when `peak` is 2, in [0, peak] otherwise.
        (4) is defined for intensities of at least 0, so pixels in [-1, 1] are shifted first. The result
        equals the SSIM of the same video stored as uint8.
      peak: range of the pixels.
    """
    x, y = _pair(x, y)
    height, width = x.shape[-3:-1]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"the SSIM window {WINDOW} x {WINDOW} does not fit frames of {height} x {width}: "
            f"use frames of at least {WINDOW} x {WINDOW}, or psnr"
        )
    black = jnp.where(peak == 2.0, -1.0, 0.0)
    x, y = x - black, y - black
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )  # (4)
    return jnp.mean(similarity, axis=range(1, x.ndim))
