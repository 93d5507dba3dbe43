"""Features of the clips of a folder, computed by all processes of a job.

Each process reads whole videos and computes features on its own devices. The work goes in rounds of a few videos for
each process. After a round, all processes get the outcome of every video. In the order of the folder, they decide which
clips belong to the set, and complete the same report. So the limits on the number of clips, which hold over all videos,
give the set and the report of one process. Where the number is limited, features wait for the end of their round, and
those of the last round may be dropped.

An error of one process is an error of all, with the same message.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from typing import TypeVar

import jax
import numpy as np

from jvflow.metrics.clips import FolderClips, Reading, number_of
from jvflow.metrics.extractor import Extractor
from jvflow.metrics.sums import FeatureSums, Moments, check_finite
from jvflow.parallel import processes

T = TypeVar("T")


def together(work: Callable[[], object]) -> list:
    """Returns the results of `work()` of all processes, in order; the results are values that JSON holds.

    Raises:
      ValueError: on every process, if `work` fails on one, with its message. That process raises its own error.
    """
    failed = []

    def make(_: int) -> dict:
        try:
            return dict(result=json.dumps(work()), error="")
        except Exception as error:  # of any type: the other processes wait for the outcome
            failed.append(error)
            return dict(result="", error=str(error) or type(error).__name__)

    parts = processes.distributed_map(jax.process_count(), make)
    if failed:
        raise failed[0]
    for part in parts:
        if part["error"]:
            raise ValueError(part["error"])
    return [json.loads(part["result"]) for part in parts]


def primary_first(make: Callable[[], T]) -> T:
    """Returns `make()`, called on the primary process first, which writes files alone; see `together` on errors."""
    made = []
    for turn in (True, False):
        together(lambda mine=turn: made.append(make()) if processes.is_primary() is mine else None)
    return made[0]


def from_primary(work: Callable[[], dict]) -> dict:
    """Returns the record `work()` of the primary process on every process."""
    if jax.process_count() == 1:
        return work()
    return together(lambda: work() if processes.is_primary() else None)[0]


def sums(extractor: Extractor, clips: FolderClips) -> Iterator[FeatureSums]:
    """Yields running sums of the features of a folder; the last are those of all clips, on every process.

    With several processes the others are those of this process's videos.
    """
    count = jax.process_count()
    if count == 1:
        yield from extractor.sums(clips)
        return
    size, total = count * _check_equal(extractor, clips), FeatureSums.empty(extractor.width)
    for turn, numbers in clips.turns():
        for begin in range(0, len(numbers), size):
            if clips.left == 0:
                break
            total = _round(extractor, clips, [Reading(n, turn) for n in numbers[begin : begin + size]], total)
            yield total
    clips.finish()
    yield _merged(total)


def _check_equal(extractor: Extractor, clips: FolderClips) -> int:
    """Returns the videos of each process in a round; raises ValueError if processes see other files or weights."""
    names = hashlib.sha256("\n".join(clips.names).encode()).hexdigest()
    seen = together(lambda: dict(names=names, weights=extractor.network.sha256, batch=extractor.batch))
    if len({each["names"] for each in seen}) > 1:
        raise ValueError(f"the processes see different files in {clips.folder}: give a folder that all of them share")
    if len({each["weights"] for each in seen}) > 1:
        raise ValueError("the processes read different weights: give --weights=FILE that all of them share")
    return max(each["batch"] for each in seen)


def _round(extractor: Extractor, clips: FolderClips, readings: list[Reading], total: FeatureSums) -> FeatureSums:
    """Reads this process's part of some videos, and completes the report; returns `total` with its features."""
    mine, held = readings[jax.process_index() :: jax.process_count()], []

    def read() -> list[dict]:
        nonlocal total
        for batch in extractor.batches(chain.from_iterable(clips.read(each, clips.left) for each in mine)):
            check_finite(batch[0])
            if clips.count:
                held.append(batch)
            else:
                total = total.add(*batch)
        return [asdict(each) for each in mine]

    found = [Reading(**entry) for part in together(read) for entry in part]
    used = {each.number: clips.note(each) for each in sorted(found, key=lambda each: each.number)}
    for features, places, videos in held:
        kept, numbers = np.zeros(len(videos), bool), number_of(places)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)[: used[number]]
            kept[rows] = True
            used[number] -= len(rows)
        total = total.add(features[kept], places[kept], videos[kept])
    return total


def _merged(total: FeatureSums) -> FeatureSums:
    """Returns the sums of all processes."""
    moments = total.moments
    item = dict(count=np.int64(moments.count), mean=moments.mean, products=moments.products)
    item |= dict(rows=total.rows, places=total.places, groups=total.groups)
    merged = FeatureSums.empty(len(moments.mean), total.kept)
    for part in processes.from_each(item):
        moments = Moments(int(part["count"]), part["mean"], part["products"])
        merged = merged.merge(FeatureSums(moments, part["rows"], part["places"], part["groups"], total.kept))
    return merged
