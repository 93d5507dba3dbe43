"""Scene cuts of a video file.

With D_k the mean absolute difference of frames k - 1 and k, in small and in [0, 1], a cut is before
frame k where

    D_k > THRESHOLD    and    D_k > RATIO * mean(D_{k-2}, D_{k-1}, D_{k+1}, D_{k+2})              (1)

The first says that the picture changes, the second that it does so in one frame: fast motion,
flicker and fades change several in a row.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from jvflow.data import video

THRESHOLD, RATIO = 0.06, 2.5
THUMBNAIL = (36, 64)


def find(path: str | os.PathLike) -> list[float]:
    """Returns where the shots after the first begin (1), in seconds since the first frame.

    A file that does not decode to its end is searched as far as it does.
    """
    times, differences, before = [], [], None
    try:
        for time, frame in video.frames(path):
            thumbnail = video.resize(frame, THUMBNAIL, "squeeze").astype(np.float32) / 255
            if before is not None:
                times.append(time)
                differences.append(np.abs(thumbnail - before).mean())
            before = thumbnail
    except ValueError:
        pass  # whoever wants the frames hears of it
    return [times[k] for k, difference in enumerate(differences) if _is_cut(difference, differences, k)]


def shots(path: str | os.PathLike, fps: float) -> Iterator[tuple[int | None, video.Frame]]:
    """Yields the frames of a file at a constant rate, each with the number of its shot, from 0.

    The number is None where a cut follows within an eighth of a period: `video.frames` may count a
    frame that is late by that much as being there, so the frame may belong to either shot.

    Raises:
      ValueError: where the file does not decode.
    """
    begins = find(path)
    for time, frame in video.frames(path, fps=fps):
        shot = bisect_right(begins, time)
        yield shot if shot == bisect_right(begins, time + 1 / (8 * fps)) else None, frame


def _is_cut(difference, differences, k) -> bool:
    around = differences[max(0, k - 2) : k] + differences[k + 1 : k + 3]
    return difference > THRESHOLD and difference > RATIO * np.mean(around or [0.0])
