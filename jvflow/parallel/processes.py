"""Jobs of several processes: work of the primary process only, and work that all processes share.

All processes see one file system, and the primary process (number 0) writes. Shared work is divided among them, and
its results are gathered in order, so that they do not depend on the number of processes. With one process every
function here calls its argument directly.
"""

import io
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from jvflow.files import local_path
from jvflow.parallel import locks, progress

LOG = logging.getLogger(__name__)
COORDINATOR, COUNT, INDEX = "JVFLOW_COORDINATOR", "JVFLOW_PROCESSES", "JVFLOW_PROCESS"
"""Environment variables: HOST:PORT of process 0, the number of processes, and the number of this one."""
DETECT = "JVFLOW_DISTRIBUTED"
"""Environment variable: "1" reads these three values from the scheduler (Slurm, GKE, TPU virtual machines, MPI)."""
TIMEOUT = "JVFLOW_TIMEOUT"
"""Environment variable: seconds to wait for the other processes at the start; default 300."""
HEARTBEAT = 15
"""Seconds without a heartbeat after which a process counts as dead and the others end."""

PIECE = 2**16
"""Bytes; messages between processes are padded to a multiple."""

DONE, GO_ON, FAILED = range(3)
PRIMARY_FAILED = "the primary process failed: see its error message"


def start() -> None:
    """Connects this process to the others of its job, if the environment names them. Call it before any use of JAX.

    Raises:
      ValueError: if settings are incomplete or wrong, or if the coordinator does not answer.
    """
    given = {name: os.environ[name] for name in (COORDINATOR, COUNT, INDEX) if os.environ.get(name)}
    detect = os.environ.get(DETECT) == "1"
    if not given and not detect:
        return
    timeout = _parse_int(TIMEOUT, os.environ.get(TIMEOUT, "300"))
    where = {}
    if given:
        missing = {COORDINATOR, COUNT, INDEX} - set(given)
        if missing:
            raise ValueError(
                f"{' and '.join(sorted(given))} without {' and '.join(sorted(missing))}: "
                "set all three for a job of several processes"
            )
        count, index = _parse_int(COUNT, given[COUNT]), _parse_int(INDEX, given[INDEX])
        if not re.fullmatch(r".+:\d+", given[COORDINATOR]) or not 0 <= index < count:
            raise ValueError(
                f"{COORDINATOR}={given[COORDINATOR]} {COUNT}={count} {INDEX}={index}: "
                "give HOST:PORT of process 0, the number of processes, and the number of this process, counted from 0"
            )
        where = dict(coordinator_address=given[COORDINATOR], num_processes=count, process_id=index)
        LOG.info("process %d of %d waits up to %d s for the others at %s", index, count, timeout, given[COORDINATOR])
        if index:
            _wait_for_coordinator(given[COORDINATOR], timeout)  # JAX would abort without naming the cause
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=2 * HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:300]
        cure = "see the line above"
        if detect:
            cure = f"{DETECT}=1 needs a scheduler that JAX supports; otherwise set {COORDINATOR}, {COUNT} and {INDEX}"
        raise ValueError(f"this process cannot join the others of its job ({reason}): {cure}") from error
    barrier("the start")  # the first message gives up after 30 s, later ones after about 30 minutes


def _wait_for_coordinator(address: str, timeout: int) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=timeout).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"the coordinator at {address} does not answer within {timeout} s ({error}): "
                    "check that process 0 runs there and that this machine can reach its port; "
                    f"{TIMEOUT} sets the seconds to wait"
                ) from error
        time.sleep(0.2)


def _parse_int(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{name}={text!r} is not a whole number")
    return int(text)


def is_primary() -> bool:
    """Returns whether this process is the primary one, which writes files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has called it with this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def primary_first(work: Callable[[], Any]) -> Any:
    """Returns `work()`, called on the primary process first, so that the others find the files that it writes."""
    if jax.process_count() > 1:
        on_primary(work)
    return work()


def on_primary(work: Callable[[], Any]) -> None:
    """Calls `work` on the primary process while the others wait. An error there raises ValueError on the others."""
    if jax.process_count() == 1:
        work()
        return
    error = None
    if is_primary():
        try:
            work()
        except Exception as raised:  # of any type: the other processes wait for the outcome
            error = raised
    failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
    if error is not None:
        raise error
    if failed:
        raise ValueError(PRIMARY_FAILED)


@contextmanager
def one_writer(path, name: str, *, whole: bool = False) -> Iterator[Path]:
    """Yields the path of an output as a `local_path`; during the block, no other job writes there.

    Args:
      path: a folder, or with `whole` a file or folder that is complete or absent.
      name: the flag that gives the path.

    Raises:
      ValueError: if another job holds the lock of the path; the message names its primary process. Also if a folder is
        needed and the path is a file.
    """
    path = Path(local_path(path, name))
    if not whole and path.exists() and not path.is_dir():
        raise ValueError(f"{name}={path} is a file: give a folder, which may be new")
    with ExitStack() as stack:
        file = locks.next_to(path) if whole else locks.inside(path)
        on_primary(lambda: stack.enter_context(locks.hold(file, path)))
        yield path


def distributed_map(count: int, make: Callable[[int], Any], what: str = "") -> list:
    """Returns `[make(0), ..., make(count - 1)]` on every process; each item is made by one process.

    An item is a tuple of arrays, or a dict of arrays, strings and numbers. Shows progress if `what` names the work.
    """
    with progress.bar(what, share(count), unit="batch", show=bool(what)) as advance:

        def made(index: int):
            item = make(index)
            advance()
            return item

        if jax.process_count() == 1:
            return [made(i) for i in range(count)]
        return [item for first in range(0, count, jax.process_count()) for item in _make_round(first, count, made)]


def share(count: int) -> int:
    """Returns how many of `count` items of `distributed_map` this process makes, up to one more."""
    return -(-count // jax.process_count())


def from_each(item: tuple | dict) -> Iterator[tuple | dict]:
    """Yields the item of each process, in order, on every process; see `distributed_map` for the kinds of items.

    Memory holds one item at a time, so items may be large. Every process must take all of them.
    """
    if jax.process_count() == 1:
        yield item
        return
    content = _pack(item)
    sizes = np.ravel(multihost_utils.process_allgather(np.int64(len(content))))
    for process, size in enumerate(sizes):
        mine = process == jax.process_index()
        part = _padded(content if mine else b"", size)
        yield _unpack(multihost_utils.broadcast_one_to_all(part, is_source=mine)[:size].tobytes())


class AnyProcess:
    """A logical "or" over the requests of all processes.

    A call returns the "or" of the requests in the call before it, so that it never waits for communication.
    """

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


def serve_items(sources: Mapping[str, Sequence], use: Callable[[dict[str, Sequence]], None]) -> None:
    """Calls `use(sources)` on the primary process, while all processes make the items that it reads.

    When it reads an item, each process makes one: this item and the next ones.
    """
    if jax.process_count() == 1:
        use(sources)
        return
    names = list(sources)
    ask = lambda name, index: multihost_utils.broadcast_one_to_all(np.array([name, index], np.int64))
    if is_primary():
        try:
            use({name: _Served(sources[name], lambda i, n=number: ask(n, i)) for number, name in enumerate(names)})
        finally:
            ask(-1, -1)
        return
    while (asked := ask(-1, -1))[0] >= 0:
        source = sources[names[int(asked[0])]]
        _make_round(int(asked[1]), len(source), source.__getitem__)


def local_rows(count: int) -> Int[np.ndarray, "n"]:
    """Returns the indices of this process's part of `count` rows.

    Every process gets the same number of rows, in order; if there are too few, the last row is repeated.
    """
    each = -(-count // jax.process_count())
    return np.minimum(np.arange(each) + each * jax.process_index(), count - 1)


def gather_stream(local: Iterator[tuple], count: int, use: Callable[[Iterator[tuple]], None]) -> None:
    """Calls `use(items)` on the primary process.

    Each item is a tuple of arrays of `count` rows. It is gathered from the next item of `local` on every process, which
    has the process's `local_rows`.
    """
    if jax.process_count() == 1:
        use(local)
        return
    signal = lambda word: int(multihost_utils.broadcast_one_to_all(np.int32(word)))
    gather = lambda: tuple(multihost_utils.process_allgather(np.asarray(a), tiled=True)[:count] for a in next(local))
    if not is_primary():
        while (word := signal(0)) == GO_ON:
            gather()
        if word == FAILED:
            raise ValueError(PRIMARY_FAILED)
        return

    def items():
        while True:
            signal(GO_ON)
            yield gather()

    try:
        use(items())
    except Exception:  # of any type: the other processes wait for the outcome
        signal(FAILED)
        raise
    signal(DONE)


class _Served(Sequence):
    """A sequence on the primary process whose items all processes make, one round at a time."""

    def __init__(self, source: Sequence, ask: Callable[[int], Any]):
        self._source, self._ask, self._made = source, ask, {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex):
        index = range(len(self))[index]
        if index not in self._made:
            self._ask(index)
            self._made = dict(enumerate(_make_round(index, len(self), self._source.__getitem__), index))
        return self._made[index]


def _make_round(first: int, count: int, make: Callable[[int], Any]) -> list:
    """Returns the items `make(first)`, `make(first + 1)`, ... below `count`, one from each process."""
    mine = first + jax.process_index()
    parts = _exchange(_pack(make(mine)) if mine < count else b"")
    return [_unpack(part) for part in parts[: count - first]]


def _exchange(part: bytes) -> list[bytes]:
    """Returns the bytes of every process, on every process."""
    sizes = np.ravel(multihost_utils.process_allgather(np.int64(len(part))))
    rows = multihost_utils.process_allgather(_padded(part, sizes.max()))
    return [row[:size].tobytes() for row, size in zip(rows, sizes)]


def _padded(content: bytes, size: int) -> np.ndarray:
    """Returns the bytes in an array of at least `size`, a multiple of PIECE: JAX compiles a program for each size."""
    array = np.zeros(-(-int(size) // PIECE) * PIECE, np.uint8)
    array[: len(content)] = np.frombuffer(content, np.uint8)
    return array


def _pack(item: tuple | dict) -> bytes:
    """Serializes a tuple of arrays, or a dict of arrays, strings and numbers, without pickle."""
    named = item if isinstance(item, dict) else {str(i): value for i, value in enumerate(item)}
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(value) for name, value in named.items()})
    return file.getvalue()


def _unpack(content: bytes) -> tuple | dict:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        named = {name: file[name] if file[name].ndim else file[name][()] for name in file.files}
    named = {name: str(value) if isinstance(value, np.str_) else value for name, value in named.items()}
    return tuple(named.values()) if set(named) == set(map(str, range(len(named)))) else named
