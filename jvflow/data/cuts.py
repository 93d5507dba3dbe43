"""Finds the cuts between the shots of a video file.

Frames a and b are thumbnails in [0, 1]. r(a, b) is the residual of each block of b: its difference from the best match
in a, at most REACH pixels away.

    D_k = median over the blocks of max(r(frame k-1, frame k), r(frame k, frame k-1))             (1)

There is a cut before frame k if D_k is the largest of D_{k-2} .. D_{k+2} and

    D_k > THRESHOLD    and    D_k > RATIO * median(D_{k-4} .. D_{k-1}, D_{k+1} .. D_{k+4})        (2)

Matching cancels the motion of objects and of the camera, the median ignores a change of less than half the picture,
and the comparison with neighbouring frames ignores shaking, flicker and fades.
"""

import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from jvflow.data import copies, video

THRESHOLD, RATIO = 0.055, 2.0
THUMBNAIL = (16, 32)
BLOCK, REACH = 4, (3, 5)  # pixels of a thumbnail


class Scan(NamedTuple):
    """The cuts and the length of a video, and what identifies its copies.

    Attributes:
      starts: start of each shot after the first (2), in seconds since the first frame. A shot also begins after a gap.
      ends: for each of `starts` the end of the shot before it: the start itself, or the last frame before a gap.
      last: time of the last frame; -1 if there is none.
      signature: see `jvflow.data.copies`.
    """

    starts: list[float]
    ends: list[float]
    last: float
    signature: copies.Signature | None

    def lengths(self, fps: float | int) -> list[int]:
        """Returns the number of frames of each shot at a constant rate, without those that `shots` numbers None."""
        begin = [math.ceil(start * fps - 1e-6) for start in (0.0, *self.starts)]
        end = [
            math.ceil(start * fps - 1 / 8 - 1e-6) if end == start else math.floor(end * fps + 1e-6) + 1
            for start, end in zip(self.starts, self.ends)
        ]
        end.append(math.floor(self.last * fps + 1e-6) + 1)
        return [max(b - a, 0) for a, b in zip(begin, end)] if self.last >= 0 else []

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the scan as arrays, which `from_arrays` reads."""
        signature = self.signature or copies.Signature(0.0, 0.0, np.zeros((0, 1, 1)))
        named = signature._asdict() | dict(starts=self.starts, ends=self.ends, last=self.last)
        return {name: np.asarray(value) for name, value in named.items()}

    @classmethod
    def from_arrays(cls, arrays) -> "Scan":
        """Returns the scan from its arrays."""
        signature = copies.Signature(float(arrays["seconds"]), float(arrays["step"]), arrays["cells"])
        starts, ends = arrays["starts"].tolist(), arrays["ends"].tolist()
        return cls(starts, ends, float(arrays["last"]), signature if len(signature.cells) else None)


NONE = Scan([], [], -1.0, None)
"""The scan of a video without frames."""


def scan(path: str | os.PathLike | video.ImageFolder) -> Scan:
    """Looks through a video once. A file that does not decode to its end is searched as far as it decodes.

    Seeks no cut across damaged frames.
    """
    times, changes, gaps, before, part, last, recorder = [], [], {}, None, 0, -1.0, copies.Recorder()
    try:
        for shown in video.shown(path):
            if shown.part != part:
                gaps[shown.time] = last
                part, before = shown.part, None
            last = shown.time
            if shown.damage:
                before = None
                continue
            thumbnail = video.resize(shown.frame, THUMBNAIL, "squeeze")
            recorder.add(shown.time, thumbnail)
            if before is not None:
                times.append(shown.time)
                changes.append(_change(before, thumbnail))
            before = thumbnail
    except ValueError:
        pass  # the caller that decodes the frames gets this error
    shots = {times[k]: times[k] for k in range(len(changes)) if _is_cut(changes, k)} | gaps
    starts = sorted(shots)
    return Scan(starts, [shots[start] for start in starts], last, recorder.finish())


def scan_once(file: Path, path: str | os.PathLike | video.ImageFolder) -> Scan:
    """Returns the scan of a video, from `file`.npz if an interrupted build has written it."""
    kept, partial = file.with_suffix(".npz"), file.with_suffix(".partial")
    if not kept.is_file():
        with partial.open("wb") as opened:
            np.savez(opened, **scan(path).arrays())
        partial.replace(kept)
    with np.load(kept) as arrays:
        return Scan.from_arrays(arrays)


def find(path: str | os.PathLike | video.ImageFolder) -> list[float]:
    """Returns the start of each shot after the first (2), see `scan`."""
    return scan(path).starts


def shots(
    path: str | os.PathLike | video.ImageFolder, fps: float | int, starts: Sequence[float] | None = None
) -> Iterator[tuple[int | None, video.Shown]]:
    """Yields the frames of a file at a constant rate, each with the number of its shot, from 0.

    The number is None where a cut follows within an eighth of a period: `video.shown` accepts a frame that is late by
    that much, so the frame may belong to either shot.

    Args:
      path: the video.
      fps: frames per second.
      starts: the starts of its shots if they are known, see `find`.

    Raises:
      ValueError: if the file does not decode.
    """
    starts = find(path) if starts is None else starts
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
