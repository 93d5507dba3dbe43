"""Windows of a video over time, and the motion in each.

    window i   frames i stride .. i stride + length - 1                                     (1)
    motion     mean |x_{k+1} - x_k| over the pairs of neighbours inside a window            (2)

A distance between sets of frames rewards frozen video. Report it with (2), the generated motion over the real one.
"""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Num, UInt8

LENGTH, STRIDE = 32, 16
"""Frames of a window, and frames between the starts of two windows: the protocol of Bi-flow, section 3.1."""


def _starts(frames: int, length: int, stride: int) -> np.ndarray:
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride must be at least 1, got {length} and {stride}")
    if frames < length:
        raise ValueError(
            f"a window needs {length} frames, the video has {frames}: use at least {length}, or a shorter length"
        )
    return np.arange(0, frames - length + 1, stride)


def windows(
    video: Num[Array | np.ndarray, "b f ..."], length: int = LENGTH, stride: int = STRIDE
) -> Num[Array | np.ndarray, "b n length ..."]:
    """Cuts (b, f, h, w, c) into its n = (f - length) // stride + 1 windows (1), copied, of the same array type.

    Drops the frames after the last whole window.
    """
    starts = _starts(video.shape[1], length, stride)
    return video[:, starts[:, None] + np.arange(length)]


def flatten_windows(windows: Num[Array | np.ndarray, "b n ..."]) -> Num[Array | np.ndarray, "bn ..."]:
    """Joins the axes of videos and windows; feature maps take the result."""
    return rearrange(windows, "b n ... -> (b n) ...")


def motion(
    video: Num[Array | np.ndarray, "b f h w c"], length: int = LENGTH, stride: int = STRIDE
) -> Float[Array | np.ndarray, "b n"]:
    """Returns the mean absolute difference of neighbouring frames (2), in units of the pixels, for each window (1)."""
    if not jnp.issubdtype(video.dtype, jnp.floating):
        raise ValueError(f"video is {video.dtype}, differences need float pixels: convert with x / 127.5 - 1")
    if length < 2:
        raise ValueError(f"motion needs windows of at least 2 frames, got length {length}")
    _starts(video.shape[1], length, stride)
    change = abs(video[:, 1:] - video[:, :-1]).mean((2, 3, 4))
    return windows(change, length - 1, stride).mean(2)  # (2): a window of L frames holds L - 1 differences


def motion_ratio(made: UInt8[np.ndarray, "b f h w c"], real: UInt8[np.ndarray, "n f h w c"]) -> float | None:
    """Returns the motion (2) of generated videos over that of real ones, or None if the real ones stand still.

    A window is a whole video, of at least 2 frames.
    """
    mean = lambda videos: float(
        np.mean([np.abs(np.diff(video.astype(np.int16), axis=0)).mean(dtype=np.float64) for video in videos])
    )
    still = mean(real)
    return mean(made) / still if still else None
