"""Finds the copies of one video in a folder: files with equal bytes, or recompressed ones.

A signature divides a video into 2 to PARTS parts of equal length. Each part is the mean over time of its frames, as
8 x 16 cells of luma; the frame's mean is subtracted, and all cells are scaled to a standard deviation of SCALE. Two
videos are copies if their lengths differ by at most 0.2 s or 3 %, and over the cells of all parts

    99th percentile of |a - b| <= 18,    max |a - b| <= 27                                        (1)

Compression, other sizes, frame rates and ranges of the picture keep (1): at most 16 and 24 in copies of real videos
(crf 40, 160 x 120, 12 fps, VP9). Different recordings do not, because something moves: at least 26 and 31 in 20 sign
language videos of one room. Videos of less detail than MIN_DETAIL (standard deviation in units of 255) have no
signature: only equal bytes make them copies. Copies that are shortened, mirrored or framed otherwise are not found.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

PARTS, FIRST_STEP = 4, 1 / 16  # number; seconds
SCALE, PERCENTILE, MAXIMUM, MIN_DETAIL = 40.0, 18.0, 27.0, 6.0
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Signature(NamedTuple):
    """The parts of a video.

    Attributes:
      seconds: length of the video.
      step: seconds of a part.
      cells: the parts, scaled.
    """

    seconds: float
    step: float
    cells: Float[np.ndarray, "n 8 16"]


class Recorder:
    """Makes the signature of a video from its thumbnails, in constant memory."""

    def __init__(self):
        self._step, self._parts, self._shown = FIRST_STEP, [], None  # a part: [sum of cells times seconds, seconds]
        self._first, self._before, self._time = None, 0.0, 0.0

    def add(self, time: float, thumbnail: UInt8[np.ndarray, "16 32 3"]) -> None:
        """Adds the frame that is shown from `time` on, in seconds; the first frame may begin late."""
        self._first = time if self._first is None else self._first
        time -= self._first
        self._show_until(time)
        cells = (thumbnail.astype(np.float32) @ LUMA).reshape(8, 2, 16, 2).mean(axis=(1, 3))
        self._shown, self._before, self._time = cells, self._time, time

    def _show_until(self, end: float) -> None:
        """Adds the frame that is shown now to the parts that it covers."""
        at = self._time
        while self._shown is not None and at < end - 1e-9:
            number = int(at / self._step + 1e-9)
            if number == PARTS:
                pairs = zip(self._parts[::2], self._parts[1::2])
                self._parts, self._step = [[a[0] + b[0], a[1] + b[1]] for a, b in pairs], 2 * self._step
                continue
            if number == len(self._parts):
                self._parts.append([0.0, 0.0])
            until = min(end, (number + 1) * self._step)
            self._parts[number][0] += (until - at) * self._shown
            self._parts[number][1] += until - at
            at = until

    def finish(self) -> Signature | None:
        """Returns the signature; None for a video without detail. The last frame counts as long as the one before."""
        seconds = 2 * self._time - self._before
        self._show_until(seconds)
        whole = [part for number, part in enumerate(self._parts) if part[1] >= self._step / 2 or not number]
        if not whole:
            return None
        cells = np.array([total / time for total, time in whole])
        cells = cells - cells.mean(axis=(1, 2), keepdims=True)
        detail = cells.std()
        return Signature(seconds, self._step, SCALE / detail * cells) if detail >= MIN_DETAIL else None


def _slack(seconds: float) -> float:
    """Returns by how many seconds the lengths of copies may differ."""
    return max(0.2, 0.03 * seconds)


def alike(a: Signature, b: Signature) -> bool:
    """Returns whether two signatures are those of one video (1)."""
    if abs(a.seconds - b.seconds) > _slack(min(a.seconds, b.seconds)):
        return False
    while a.step != b.step:
        a, b = (a, _halved(b)) if b.step < a.step else (_halved(a), b)
    number = min(len(a.cells), len(b.cells))
    difference = np.abs(a.cells[:number] - b.cells[:number])
    return bool(np.quantile(difference, 0.99) <= PERCENTILE and difference.max() <= MAXIMUM)


def _halved(signature: Signature) -> Signature:
    """Returns the signature with parts of twice the length."""
    cells = signature.cells[: len(signature.cells) // 2 * 2]
    pairs = (cells[::2] + cells[1::2]) / 2 if len(cells) else signature.cells
    return signature._replace(step=2 * signature.step, cells=pairs)


def group(
    names: Sequence[str], identities: Sequence[Hashable], signatures: Sequence[Signature | None]
) -> list[list[str]]:
    """Groups the names of videos: copies of one video are in one group.

    Args:
      names: names of videos.
      identities: of each video, equal for equal content (such as a hash).
      signatures: of each video; None where there is none.
    """
    leader = list(range(len(names)))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    def join(i: int, j: int) -> None:
        leader[max(find(i), find(j))] = min(find(i), find(j))

    first = {}
    for i, identity in enumerate(identities):
        join(i, first.setdefault(identity, i))
    found = sorted((i for i, s in enumerate(signatures) if s), key=lambda i: signatures[i].seconds)
    seconds = np.array([signatures[i].seconds for i in found])
    coarse = np.array([_coarse(signatures[i]) for i in found])
    for place, i in enumerate(found):
        end = np.searchsorted(seconds, seconds[place] + _slack(seconds[place]), "right")
        near = np.abs(coarse[place + 1 : end] - coarse[place]).max(axis=1, initial=0) <= MAXIMUM
        for j in (found[place + 1 + k] for k in np.flatnonzero(near)):
            if alike(signatures[i], signatures[j]):
                join(i, j)
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(find(i), []).append(name)
    return list(groups.values())


def _coarse(signature: Signature) -> Float[np.ndarray, "8"]:
    """Returns the first part in 2 x 4 cells, a quick test."""
    return signature.cells[0].reshape(2, 4, 4, 4).mean(axis=(1, 3)).reshape(8)
