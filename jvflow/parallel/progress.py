"""Progress of long work: a bar with the time left, on the primary process."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")
DELAY = 2.0
"""Seconds before a bar appears: shorter work shows none."""
SECOND, LINES = 1.0, 10.0
"""Seconds between two updates of a bar on a terminal, and elsewhere: a log file needs few lines."""


class _Bar(tqdm):
    """A bar that a log line does not bring up before its delay; it would then stay open before an error."""

    def refresh(self, *args, **options):
        if self.format_dict["elapsed"] >= self.delay:
            super().refresh(*args, **options)


@contextmanager
def bar(what: str, total: int | None, *, unit: str, done: int = 0, show: bool = True) -> Iterator[Callable[..., None]]:
    """Yields a function `advance(count=1, **values)` that moves a bar on stderr and sets the values at its end.

    The bar has the elapsed time, the time left and the rate. It appears after `DELAY` seconds.

    Args:
      what: the work, such as "encode clips"; "" for none.
      total: units of the whole work; None if nobody knows.
      unit: what is counted, in the singular, such as "clip".
      done: units that an earlier run of the command finished.
      show: False shows nothing; processes other than the primary one never show a bar.
    """
    terminal, ended = sys.stderr.isatty(), threading.Event()
    shown = _Bar(
        total=total,
        initial=done,
        desc=what or None,
        unit=unit,
        disable=not (show and jax.process_index() == 0),
        dynamic_ncols=True,
        delay=DELAY,
        mininterval=0.1 if terminal else LINES,
    )

    def tick() -> None:
        """Shows the bar even if its first unit takes long, and moves its clock."""
        wait = DELAY
        while not ended.wait(wait):
            shown.delay = 0.0
            shown.refresh()
            wait = SECOND if terminal else 6 * LINES

    def advance(count: int = 1, **values) -> None:
        if values:
            shown.set_postfix(refresh=False, **values)
        shown.update(count)

    if not shown.disable:
        threading.Thread(target=tick, daemon=True).start()
    try:
        yield advance
    finally:
        ended.set()
        shown.close()


def track(items: Iterable[T], what: str, *, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields the items, and shows how many of them their reader has finished; see `bar`."""
    with bar(what, len(items) if total is None and isinstance(items, Sized) else total, unit=unit) as advance:
        for item in items:
            yield item
            advance()
