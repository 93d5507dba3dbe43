"""Many processes as one program: what one of them does alone, and what all do in parts.

All processes see one file system, and the first one writes. Work that can be divided is dealt out,
and comes together again in its order, so that no result depends on how many processes there are.
With one process every function here is the plain call.
"""

import io
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

LOG = logging.getLogger(__name__)
COORDINATOR, COUNT, INDEX = "JVFLOW_COORDINATOR", "JVFLOW_PROCESSES", "JVFLOW_PROCESS"
"""Environment variables: HOST:PORT of the first process, how many there are, and which this one is."""
DETECT = "JVFLOW_DISTRIBUTED"
"""Environment variable: "1" takes those three from the scheduler (Slurm, GKE, TPU virtual machines, MPI)."""
TIMEOUT = "JVFLOW_TIMEOUT"
"""Environment variable: seconds to wait for the other processes at the start, 300 when absent."""
DONE, GO_ON, FAILED = range(3)
OTHER = "the first process could not go on, and says why"
HEARTBEAT = 15
"""Seconds without a sign of life after which a process counts as dead, and the others end."""


def start() -> None:
    """Joins this process to the others of its job, where the environment says that there are some. Before any other use of JAX.

    Raises:
      ValueError: for settings that are incomplete, and when the coordinator does not answer.
    """
    given = {name: os.environ[name] for name in (COORDINATOR, COUNT, INDEX) if os.environ.get(name)}
    detect = os.environ.get(DETECT) == "1"
    if not given and not detect:
        return
    timeout = _whole(TIMEOUT, os.environ.get(TIMEOUT, "300"))
    where = {}
    if given:
        missing = {COORDINATOR, COUNT, INDEX} - set(given)
        if missing:
            raise ValueError(f"{' and '.join(sorted(given))} without {' and '.join(sorted(missing))}: a job of many processes sets all three")
        count, index = _whole(COUNT, given[COUNT]), _whole(INDEX, given[INDEX])
        if not re.fullmatch(r".+:\d+", given[COORDINATOR]) or not 0 <= index < count:
            raise ValueError(
                f"{COORDINATOR}={given[COORDINATOR]} {COUNT}={count} {INDEX}={index}: give HOST:PORT of the first process, their number, "
                "and the number of this one from 0 on"
            )
        where = dict(coordinator_address=given[COORDINATOR], num_processes=count, process_id=index)
        LOG.info("process %d of %d, the others have %d s to come to %s", index, count, timeout, given[COORDINATOR])
        if index:
            _reach(given[COORDINATOR], timeout)  # JAX would abort without a word on what to do
    try:
        jax.distributed.initialize(
            **where, initialization_timeout=timeout, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=2 * HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0][:300]
        cure = f"{DETECT}=1 asks a scheduler for them; without one set {COORDINATOR}, {COUNT} and {INDEX}" if detect else "see the line before"
        raise ValueError(f"this process cannot join the others of its job ({said}): {cure}") from error


def _reach(address: str, timeout: int) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=timeout).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"the coordinator at {address} does not answer within {timeout} s ({error}): is process 0 running there, and its port open to "
                    f"this machine? {TIMEOUT} is the number of seconds to wait"
                ) from error
        time.sleep(0.2)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{name}={text!r} is not a whole number")
    return int(text)


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def primary_first(work: Callable[[], Any]) -> Any:
    """What `work` gives: on the first process first, so that the others find what it builds."""
    if jax.process_count() > 1:
        on_primary(work)
    return work()


def on_primary(work: Callable[[], Any]) -> None:
    """Calls `work` on the first process while the others wait. What is wrong with it is an error on all."""
    if jax.process_count() == 1:
        work()
        return
    error = None
    if is_primary():
        try:
            work()
        except Exception as raised:  # the others have to know of any
            error = raised
    failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
    if error is not None:
        raise error
    if failed:
        raise ValueError(OTHER)


def distributed_map(count: int, make: Callable[[int], Any]) -> list:
    """`[make(0), ..., make(count - 1)]` on every process, each made by one of them: tuples of arrays, or dicts of arrays, strings and numbers."""
    if jax.process_count() == 1:
        return [make(i) for i in range(count)]
    return [made for low in range(0, count, jax.process_count()) for made in _round(low, count, make)]


class AnyProcess:
    """Whether any process has asked for something, the same answer on all: that of the call before, so that no call waits for its own."""

    def __init__(self, mesh: Mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._split, self._before = NamedSharding(mesh, PartitionSpec(mesh.axis_names)), None
        self._any = jax.jit(jnp.any, out_shardings=everywhere)

    def __call__(self, asked: bool) -> bool:
        if jax.process_count() == 1:
            return asked
        before = self._before
        mine = np.full(jax.local_device_count(), asked)
        self._before = self._any(jax.make_array_from_process_local_data(self._split, mine))
        return before is not None and bool(before)


def serve_items(sources: dict[str, Sequence], use: Callable[[dict[str, Sequence]], None]) -> None:
    """Calls `use(sources)` on the first process; what it asks of them is made by all: the item asked for, and those after it."""
    if jax.process_count() == 1:
        use(sources)
        return
    names = list(sources)
    ask = lambda name, index: multihost_utils.broadcast_one_to_all(np.array([name, index], np.int64))
    if is_primary():
        try:
            use({name: _Served(source, lambda index, number=number: ask(number, index)) for number, (name, source) in enumerate(sources.items())})
        finally:
            ask(-1, -1)
        return
    while (asked := ask(-1, -1))[0] >= 0:
        source = sources[names[int(asked[0])]]
        _round(int(asked[1]), len(source), source.__getitem__)


def local_rows(count: int) -> Int[np.ndarray, "n"]:
    """Which of `count` rows are this process's part: as many on each, in order, the last one again where there are no more."""
    each = -(-count // jax.process_count())
    return np.minimum(np.arange(each) + each * jax.process_index(), count - 1)


def gather_stream(mine: Iterator[tuple], count: int, use: Callable[[Iterator[tuple]], None]) -> None:
    """Calls `use(items)` on the first process. Each item that it takes, a tuple of arrays of `count` rows, is made by all, see `share`."""
    if jax.process_count() == 1:
        use(mine)
        return
    said = lambda word: int(multihost_utils.broadcast_one_to_all(np.int32(word)))
    together = lambda: tuple(multihost_utils.process_allgather(np.asarray(part), tiled=True)[:count] for part in next(mine))
    if not is_primary():
        while (word := said(0)) == GO_ON:
            together()
        if word == FAILED:
            raise ValueError(OTHER)
        return

    def items():
        while True:
            said(GO_ON)
            yield together()

    try:
        use(items())
    except Exception:  # the others have to know of any
        said(FAILED)
        raise
    said(DONE)


class _Served(Sequence):
    """On the first process: a sequence whose items are made by all, a round at a time."""

    def __init__(self, source: Sequence, ask: Callable[[int], Any]):
        self._source, self._ask, self._made = source, ask, {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex):
        index = range(len(self))[index]
        if index not in self._made:
            self._ask(index)
            self._made = dict(enumerate(_round(index, len(self), self._source.__getitem__), index))
        return self._made[index]


def _round(low: int, count: int, make: Callable[[int], Any]) -> list:
    """`make(low)` and those after it, one of each process."""
    mine = low + jax.process_index()
    parts = _exchange(_packed(make(mine)) if mine < count else b"")
    return [_unpacked(part) for part in parts[: count - low]]


def _exchange(part: bytes) -> list[bytes]:
    """The bytes of every process, on every process."""
    sizes = np.ravel(multihost_utils.process_allgather(np.int64(len(part))))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(part)] = np.frombuffer(part, np.uint8)
    return [row[:size].tobytes() for row, size in zip(multihost_utils.process_allgather(padded), sizes)]


def _packed(item: tuple | dict) -> bytes:
    """A tuple of arrays, or a dict of arrays, strings and numbers, without pickle."""
    named = item if isinstance(item, dict) else {str(i): value for i, value in enumerate(item)}
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(value) for name, value in named.items()})
    return file.getvalue()


def _unpacked(content: bytes) -> tuple | dict:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        named = {name: file[name] if file[name].ndim else file[name][()] for name in file.files}
    named = {name: str(value) if isinstance(value, np.str_) else value for name, value in named.items()}
    return tuple(named.values()) if set(named) == set(map(str, range(len(named)))) else named
