"""File locks: one process at a time writes a run, an output folder or a data set.

The lock is `flock` on a small file, which names its owner for other processes. The system releases it when the owner
ends, even by SIGKILL. It works between processes of one machine, and between machines where the file system supports
it, as NFS does. A lock file that a killed process left behind does no harm.
"""

import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from jvflow.files import in_one_line

LOG = logging.getLogger(__name__)
NAME = ".lock"
COMMAND = 200
"""Characters of a command that messages show."""

_held: dict[tuple, int] = {}  # (thread, device, inode) -> descriptor


def inside(folder: str | os.PathLike) -> Path:
    """Returns the lock file of a folder in which one process writes."""
    return Path(folder) / NAME


def next_to(path: str | os.PathLike) -> Path:
    """Returns the lock file, next to it, of a file or folder that is complete or absent."""
    path = Path(path).absolute()
    return path.with_name(f".{path.name}{NAME}")


@contextmanager
def hold(file: Path, what: str | os.PathLike, *, wait: bool = False, log: bool = True) -> Iterator[None]:
    """Holds the lock of a file during the block; a thread that holds it may hold it again.

    Creates the file and its folders; removes the file at the end, and the folders if they are empty.

    Args:
      file: `inside` a folder, or `next_to` a path.
      what: the folder or file that this process writes, for messages.
      wait: wait for a process that holds the lock.
      log: name that process in the log.

    Raises:
      ValueError: if another process holds the lock, and not `wait`. The message names that process.
    """
    new_folders = [folder for folder in file.absolute().parents if not folder.exists()]
    lock = _lock(file, what, wait, log)
    try:
        yield
    finally:
        if lock:
            with suppress(OSError):
                file.unlink()  # before the release, so that nobody else holds it
            os.close(_held.pop(lock))
        with suppress(OSError):  # the first folder that is not empty ends the loop
            for folder in new_folders:
                folder.rmdir()


def _lock(file: Path, what: str | os.PathLike, wait: bool, log: bool) -> tuple | None:
    """Locks the file and writes the owner into it; returns its key in `_held`, or None if this thread holds it."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process removed the folder
            continue
        stat = os.fstat(descriptor)
        key = (threading.get_ident(), stat.st_dev, stat.st_ino)
        if key in _held:
            os.close(descriptor)
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(descriptor)
                owner = _owner(file)
                raise ValueError(
                    f"{in_one_line(what)} is in use by {owner}: wait until it ends, stop it, or give another path"
                ) from None
            if log:
                LOG.info("waits for %s, which writes %s", _owner(file), in_one_line(what))
                log = False  # once
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (ENOLCK, ENOSYS, EOPNOTSUPP):
                os.close(descriptor)
                raise
            LOG.warning("warning: the file system of %s has no locks: run only one process that writes there", what)
        if _is_same(descriptor, file):
            break
        os.close(descriptor)  # the owner removed the file while this process waited
    _held[key] = descriptor
    owner = dict(process=os.getpid(), host=socket.gethostname(), since=time.strftime("%Y-%m-%d %H:%M:%S"))
    with suppress(OSError):  # on a full disk, the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(owner | dict(command=" ".join(sys.argv))).encode())
        os.fchmod(descriptor, 0o666)  # after a kill, a process of another user can lock the file
    return key


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _owner(file: Path) -> str:
    """Returns the process, host, start and command of the owner of a lock."""
    found = "another process"
    for _ in range(10):  # the owner writes the file after it locks it, and removes it at the end
        with suppress(OSError, ValueError):
            owner = json.loads(file.read_bytes())
            command = in_one_line(owner["command"])
            shown = command if len(command) <= COMMAND else f"{command[:COMMAND]}..."
            found = f"process {owner['process']} on {owner['host']}, since {owner['since']} ({shown})"
            if owner["host"] != socket.gethostname() or _runs(owner["process"]):
                return found
        time.sleep(0.1)
    return found


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def _forget() -> None:
    """Closes the locks in a forked process, which would keep them when their owner dies."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
