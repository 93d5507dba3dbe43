"""Timing on a machine with other work: functions run in turn, and the medians of their rounds are compared."""

import time
from collections.abc import Callable

import numpy as np


def seconds(work: Callable[[], None]) -> float:
    """Returns the wall time of one call."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def in_turn(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each function; calls each once to warm up, then once in every round."""
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for number in range(rounds):
        order = list(works) if number % 2 else list(works)[::-1]
        for name in order:
            times[name].append(seconds(works[name]))
    return {name: float(np.median(values)) for name, values in times.items()}
