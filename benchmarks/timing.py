"""Timing on a machine that is not quiet: two things are timed in turn, and compared by the medians of their rounds."""

import time
from collections.abc import Callable

import numpy as np


def seconds(work: Callable[[], None]) -> float:
    """Wall time of one call."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def in_turn(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, every one called once unmeasured, then once in every round."""
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for number in range(rounds):
        order = list(works) if number % 2 else list(works)[::-1]
        for name in order:
            times[name].append(seconds(works[name]))
    return {name: float(np.median(values)) for name, values in times.items()}
