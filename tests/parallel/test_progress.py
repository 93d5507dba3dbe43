"""Tests that long work shows its progress, and short work nothing."""

import sys
import threading
import time

import pytest
from tqdm import tqdm

from jvflow.parallel import progress


@pytest.fixture
def fast(monkeypatch):
    """Lets bars appear after 20 ms."""
    monkeypatch.setattr(progress, "DELAY", 0.02)


def test_a_bar_appears_before_the_first_unit_is_done(fast, capfd):
    with progress.bar("encode clips", 8, unit="clip"):
        time.sleep(0.3)
        shown = capfd.readouterr().err
    assert "encode clips:   0%" in shown and "0/8" in shown


def test_a_bar_ends_at_its_total_with_values(fast, capfd):
    with progress.bar("train", 4, unit="step") as advance:
        for number in range(4):
            time.sleep(0.03)
            advance(loss=f"{number / 2}")
    last = capfd.readouterr().err.splitlines()[-1]
    assert "4/4" in last and "step" in last and "loss=1.5" in last


def test_a_bar_of_resumed_work_starts_where_that_stopped(fast, capfd):
    with progress.bar("write clips", 10, unit="clip", done=7) as advance:
        time.sleep(0.1)
        assert "7/10" in capfd.readouterr().err
        advance(3)


@pytest.mark.parametrize("show", [True, False])
def test_short_or_hidden_work_shows_nothing(capfd, show):
    with progress.bar("generate", 2, unit="batch", show=show) as advance:
        advance(2)
    assert capfd.readouterr().err == ""


def test_track_yields_the_items_and_counts_those_that_are_done(fast, capfd):
    read = []
    for item in progress.track("abc", "compare videos", unit="pair"):
        time.sleep(0.04)
        read.append(item)
    assert read == list("abc") and "3/3" in capfd.readouterr().err.splitlines()[-1]


def test_an_error_ends_the_bar(fast):
    threads = threading.active_count()
    with pytest.raises(ValueError, match="damaged"), progress.bar("encode", 3, unit="clip"):
        raise ValueError("damaged")
    time.sleep(0.1)
    assert threading.active_count() <= threads


def test_a_log_line_brings_up_no_bar_before_its_delay(capfd):
    with pytest.raises(ValueError), progress.bar("cut videos", 3, unit="video"):
        tqdm.write("a log line", file=sys.stderr)
        raise ValueError
    assert capfd.readouterr().err.strip("\r") == "a log line\n"  # an error that follows has a line of its own
