"""Intervals and samples of presentation times: order, gaps, restarts, missing times, and bounds."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jvflow.data import timing
from jvflow.data.timing import LONGEST, Stamp

TICK = Fraction(1, 1000)
USUAL = Fraction(1, 24)

# milliseconds from one picture to the next; None: the picture has no time
STEPS = st.one_of(st.none(), st.integers(0, 200), st.integers(-(10**6), 10**8))
SOURCES = st.tuples(
    st.integers(-(10**9), 10**9), st.lists(STEPS, max_size=40), st.sampled_from([None, 0, 1, 41, 10**7])
)


def stamps_of(source) -> list[Stamp]:
    """Returns pictures numbered from 0 with times from the steps of a source, all with the same duration."""
    clock, steps, duration = source
    duration = None if duration is None else duration * TICK
    stamps = [Stamp(clock * TICK, duration, 0)]
    for number, step in enumerate(steps, 1):
        clock += step or 0
        stamps.append(Stamp(None if step is None else clock * TICK, duration, number))
    return stamps


@settings(max_examples=500, deadline=None)
@given(SOURCES, st.sampled_from([Fraction(1, 2), Fraction(12), Fraction(30000, 1001), Fraction(240)]))
def test_frames_are_in_order_in_their_intervals_and_few(source, fps):
    stamps = stamps_of(source)
    shown = list(timing.intervals(stamps, USUAL))
    assert [interval.content for interval in shown] == list(range(len(stamps)))
    assert all(0 <= interval.end - interval.start <= LONGEST for interval in shown)
    assert all(a.end <= b.start for a, b in zip(shown, shown[1:], strict=False))
    frames = list(timing.sample(iter(shown), 1 / fps, TICK))
    assert [interval.content for _, interval in frames] == sorted(interval.content for _, interval in frames)
    assert all(a < b for (a, _), (b, _) in zip(frames, frames[1:], strict=False))
    half = 1 / (2 * fps)
    assert all(interval.start - half <= time <= interval.end + half for time, interval in frames)
    for part in range(shown[-1].part + 1):
        inside = [interval for interval in shown if interval.part == part]
        duration = inside[-1].end - inside[0].start
        count = sum(interval.part == part for _, interval in frames)
        assert 1 <= count <= duration * fps + 1
        assert all(a.end == b.start for a, b in zip(inside, inside[1:], strict=False))
    length = timing.measure(shown)
    assert len(frames) <= length.most_frames(fps) <= length.seconds * fps + 1 + length.parts


@settings(max_examples=200, deadline=None)
@given(SOURCES)
def test_each_step_of_the_times_is_kept_or_begins_a_part(source):
    """Checks the starts against the differences of the times, where both pictures have one."""
    stamps = stamps_of(source)
    shown = list(timing.intervals(stamps, USUAL))
    for (a, first), (b, second) in zip(zip(stamps, shown), list(zip(stamps, shown))[1:]):
        if a.time is None or b.time is None:
            continue
        step = b.time - a.time
        assert (second.part != first.part) == (step < 0 or step > LONGEST)
        assert second.start - first.start == step if step >= 0 else second.start == first.end


def sampled(times, fps, **options):
    """Returns (times, numbers of the pictures, parts) of the frames at a constant rate."""
    stamps = [Stamp(None if t is None else Fraction(t), None, k) for k, t in enumerate(times)]
    frames = list(timing.sample(timing.intervals(stamps, Fraction(1, 10), **options), 1 / Fraction(fps), TICK))
    return [float(t) for t, _ in frames], [i.content for _, i in frames], [i.part for _, i in frames]


@pytest.mark.parametrize("origin", [-7, 0, 2, 90000])
def test_a_late_or_negative_start_changes_nothing(origin):
    assert sampled([origin, origin + 1, origin + 2], 2) == ([0, 0.5, 1, 1.5, 2, 2.5], [0, 0, 1, 1, 2, 2], [0] * 6)


@pytest.mark.parametrize("gap", [3, 600, 86400])
def test_no_frame_is_repeated_across_a_gap(gap):
    times, numbers, parts = sampled([0, 1, 2, 2 + gap, 3 + gap], 1)
    assert times == [0, 1, 2, 2 + gap, 3 + gap] and numbers == [0, 1, 2, 3, 4] and parts == [0, 0, 0, 1, 1]
    assert sampled([0, 2, 4], 1)[1] == [0, 0, 1, 1, 2, 2]  # the limit itself is no gap


def test_times_that_start_again_follow_directly():
    times, numbers, parts = sampled([5, 6, 7, 5, 6, 7, 0, 1], 1)
    assert times == list(range(8)) == numbers and parts == [0, 0, 0, 1, 1, 1, 2, 2]


def test_missing_times_follow_the_picture_before():
    assert sampled([None, None, None], 10) == ([0, 0.1, 0.2], [0, 1, 2], [0, 0, 0])
    assert sampled([0, 1, None, 3], 1)[:2] == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert sampled([None, 8, 9], 1)[1] == [0, 1, 2]  # the second picture begins after the declared 0.1 s


def test_pictures_at_one_time_are_replaced():
    assert sampled([0, 1, 1, 2], 1)[1] == [0, 2, 3]


def test_slow_images_have_no_gap():
    assert sampled([0, 10, 20], Fraction(1, 5), longest=None)[1:] == ([0, 0, 1, 1, 2, 2], [0] * 6)


def test_lost_pictures_are_damage_and_not_a_longer_picture():
    tenth = Fraction(1, 10)
    stamps = [Stamp(k * tenth, tenth, k, loss="x" * (k == 6)) for k in (0, 1, 2, 6, 7)]
    frames = list(timing.sample(timing.intervals(stamps, tenth), tenth, TICK))
    assert [None if i.damage else i.content for _, i in frames] == [0, 1, 2, None, None, None, 6, 7]


def test_the_rate_is_that_of_the_times_and_not_of_the_durations():
    """Checks a browser's recording, whose pictures declare a millisecond, and one whose rate changes for a moment."""
    stamps = [Stamp(Fraction(t, 1000), TICK, None) for t in range(0, 8000, 80)]
    length = timing.measure(timing.intervals(stamps, TICK))
    assert length.fps == pytest.approx(12.5) and length.seconds == 8 and length.most_frames(Fraction(24)) == 193
    times = [*range(0, 4000, 40), 5000, *range(602000, 606000, 40)]
    stamps = [Stamp(Fraction(t, 1000), None, None) for t in times]
    length = timing.measure(timing.intervals(stamps, TICK))
    assert length.fps == pytest.approx(25) and length.parts == 2 and length.seconds < 11
