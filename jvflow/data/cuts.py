"""Finds the cuts between the shots of a video file.

Frames a and b are thumbnails in [0, 1]. r(a, b) is the residual of each block of b: its difference from the best match
in a, at most REACH pixels away.

    D_k = median over the blocks of max(r(frame k-1, frame k), r(frame k, frame k-1))             (1)

There is a cut before frame k if D_k is the largest of D_{k-2} .. D_{k+2} and

    D_k > THRESHOLD    and    D_k > RATIO * median(D_{k-4} .. D_{k-1}, D_{k+1} .. D_{k+4})        (2)

Matching cancels the motion of objects and of the camera, the median ignores a change of less than half the picture,
and the comparison with neighbouring frames ignores shaking, flicker and fades.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
from einops import rearrange
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from jvflow.data import video

THRESHOLD, RATIO = 0.055, 2.0
THUMBNAIL = (16, 32)
BLOCK, REACH = 4, (3, 5)  # pixels of a thumbnail


def find(path: str | os.PathLike | video.ImageFolder) -> list[float]:
    """Returns the start of each shot after the first (2), in seconds since the first frame.

    A shot also begins after a gap in time. No cut is sought across damaged frames. A file that does not decode to its
    end is searched as far as it decodes.
    """
    times, changes, parts, before, part = [], [], [], None, 0
    try:
        for shown in video.shown(path):
            if shown.part != part:
                parts.append(shown.time)
                part, before = shown.part, None
            if shown.damage:
                before = None
                continue
            thumbnail = video.resize(shown.frame, THUMBNAIL, "squeeze")
            if before is not None:
                times.append(shown.time)
                changes.append(_change(before, thumbnail))
            before = thumbnail
    except ValueError:
        pass  # the caller that decodes the frames gets this error
    return sorted({*parts, *(times[k] for k in range(len(changes)) if _is_cut(changes, k))})


def shots(path: str | os.PathLike | video.ImageFolder, fps: float | int) -> Iterator[tuple[int | None, video.Shown]]:
    """Yields the frames of a file at a constant rate, each with the number of its shot, from 0.

    The number is None where a cut follows within an eighth of a period: `video.shown` accepts a frame that is late by
    that much, so the frame may belong to either shot.

    Raises:
      ValueError: if the file does not decode.
    """
    starts = find(path)
    for shown in video.shown(path, fps=fps):
        shot = bisect_right(starts, shown.time)
        yield shot if shot == bisect_right(starts, shown.time + 1 / (8 * fps)) else None, shown


def _change(before: video.Frame, after: video.Frame) -> float:
    """Returns D_k (1) of two successive thumbnails."""
    return float(np.median(np.maximum(_residual(before, after), _residual(after, before))))


def _residual(a: video.Frame, b: video.Frame) -> Float[np.ndarray, "rows columns"]:
    """Returns r(a, b) of each block of b."""
    padded = np.pad(a.astype(np.int16), ((REACH[0],) * 2, (REACH[1],) * 2, (0, 0)), mode="edge")
    shifted = sliding_window_view(padded, b.shape[:2], axis=(0, 1))  # (places y, places x, c, h, w)
    difference = np.abs(shifted - np.moveaxis(b.astype(np.int16), -1, 0))
    blocks = rearrange(difference, "y x c (h p) (w q) -> (y x) h w (p q c)", p=BLOCK, q=BLOCK)
    return blocks.mean(-1).min(0) / 255


def _is_cut(changes: list[float], k: int) -> bool:
    near = changes[max(0, k - 2) : k] + changes[k + 1 : k + 3]
    around = changes[max(0, k - 4) : k] + changes[k + 1 : k + 5]
    is_peak = changes[k] > THRESHOLD and changes[k] >= max(near, default=0)
    return bool(is_peak and changes[k] > RATIO * np.median(around or [0]))
