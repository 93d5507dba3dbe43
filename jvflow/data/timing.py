"""Turns the presentation times of decoded pictures into intervals, and samples these at a constant rate.

A source may start late, start again, jump, or give no times. Its pictures form parts: within a part time increases, and
each picture is shown until the next one. Picture i begins a new part if its presentation time p_i is unusable after
the picture before it:

    p_i < p_{i-1}    or    p_i > p_{i-1} + LONGEST                                                (1)

The first picture is at 0. A jump ahead keeps its length; a part that begins earlier than the part before it follows it
directly. Without a time, a picture follows the one before it. The last picture of a part lasts as long as it declares,
or as long as the one before it. At a constant rate `fps`, frame k of a part that begins at s and ends at e is the
picture that is shown at

    t_k = s + k / fps,  k = 0, 1, ... while t_k < e                                               (2)

so that a part has at most (e - s) fps + 1 frames. Containers round time stamps (mkv to milliseconds, gif to
centiseconds), so a picture that is late by at most one tick of the container's clock, and by at most an eighth of
1/fps, counts as being at t_k.                                                                    (3)
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

LONGEST = Fraction(2)
"""Seconds that a picture of a video file may last. A longer interval is a gap: no frame is repeated across it."""


@dataclass(frozen=True)
class Stamp:
    """A picture as a decoder returns it, in the order of presentation.

    Attributes:
      time: the presentation time in seconds; None if the source gives none.
      duration: declared seconds; None if the source gives none.
      content: the picture.
      damage: empty, or why the picture is not what was recorded.
      loss: empty, or why the decoder lost pictures between the one before and this one.
    """

    time: Fraction | None
    duration: Fraction | None
    content: Any
    damage: str = ""
    loss: str = ""


@dataclass(frozen=True)
class Interval:
    """A picture that is shown from `start` to `end`, in seconds since the first one, in part number `part`."""

    start: Fraction
    end: Fraction
    part: int
    content: Any
    damage: str = ""


def intervals(stamps: Iterable[Stamp], usual: Fraction, longest: Fraction | None = LONGEST) -> Iterator[Interval]:
    """Yields the interval of each picture (1).

    The time of pictures that the decoder lost becomes an interval with damage, not a longer picture.

    Args:
      stamps: the pictures.
      usual: declared seconds of a picture, used until the first difference of two times.
      longest: the limit in (1); None for no limit.
    """
    before, start, part, shift = None, Fraction(0), 0, None
    usual = usual if longest is None else min(usual, longest)
    trusted = True  # durations agree with the times
    for stamp in stamps:
        if before is not None:
            end = start + _length(before, usual, trusted, longest)
            time = end if stamp.time is None or shift is None else stamp.time + shift
            step = time - start
            if step < 0 or (longest is not None and step > longest):
                yield Interval(start, end, part, before.content, before.damage)
                part += 1
                if step < 0:
                    time, shift = end, None
            else:
                reason = stamp.loss or stamp.damage
                lost = bool(reason) and time > end
                yield Interval(start, end if lost else time, part, before.content, before.damage)
                if lost:
                    yield Interval(end, time, part, before.content, before.damage or reason)
                elif step > 0:
                    trusted = before.duration is None or 2 * before.duration >= step
                    usual = step
            start = time
        if shift is None and stamp.time is not None:
            shift = start - stamp.time
        before = stamp
    if before is not None:
        yield Interval(start, start + _length(before, usual, trusted, longest), part, before.content, before.damage)


def _length(stamp: Stamp, usual: Fraction, trusted: bool, longest: Fraction | None) -> Fraction:
    """Returns how long a picture without a successor lasts."""
    declared = stamp.duration
    usable = declared is not None and declared > 0 and trusted and (longest is None or declared <= longest)
    return declared if usable else usual


def sample(
    pictures: Iterable[Interval], period: Fraction | None, tick: Fraction
) -> Iterator[tuple[Fraction, Interval]]:
    """Yields (time, picture) at a constant rate (2), or each picture at its start if `period` is None.

    Args:
      pictures: the intervals, in order.
      period: seconds from one frame to the next.
      tick: seconds of one tick of the container's clock (3).
    """
    if period is None:
        for picture in pictures:
            yield picture.start, picture
        return
    slack = min(tick, period / 8)  # (3)
    shown, origin, k = None, Fraction(0), 0
    for picture in pictures:
        if shown is not None:
            new_part = picture.part != shown.part
            until = shown.end if new_part else picture.start
            while (new_part and k == 0) or origin + k * period + slack < until:
                yield origin + k * period, shown
                k += 1
        if shown is None or picture.part != shown.part:
            origin, k = picture.start, 0
        shown = picture
    while shown is not None and (k == 0 or origin + k * period + slack < shown.end):
        yield origin + k * period, shown
        k += 1


@dataclass(frozen=True)
class Length:
    """How much a source holds.

    Attributes:
      pictures: number of pictures.
      seconds: seconds that pictures are shown, without gaps.
      parts: number of parts (1).
      fps: pictures per second: the inverse of the mean time between two pictures, without the shortest and the longest
        twentieth; 0 without pictures.
    """

    pictures: int
    seconds: Fraction
    parts: int
    fps: float

    def most_frames(self, fps: Fraction) -> int:
        """Returns an upper bound on the number of frames at a constant rate (2)."""
        return math.ceil(self.seconds * fps) + self.parts


def measure(pictures: Iterable[Interval]) -> Length:
    """Returns the sums over all pictures."""
    lengths, seconds, part = [], Fraction(0), -1
    for picture in pictures:
        seconds += picture.end - picture.start
        lengths.append(picture.end - picture.start)
        part = picture.part
    cut = len(lengths) // 20
    typical = sorted(lengths)[cut : len(lengths) - cut]
    total = sum(typical)
    return Length(len(lengths), seconds, part + 1, float(len(typical) / total) if total else 0.0)


def exact_rate(fps: float | int) -> Fraction:
    """Returns the frame rate as a fraction with a small denominator; raises ValueError if it is out of range."""
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must be in [0.01, 1000] frames per second, not {fps}")
    return Fraction(fps).limit_denominator(1001)  # 29.97... is 30000/1001
