"""A short key of everything that determines the content of a data set: equal keys mean equal clips.

The settings in a manifest hold everything that determines the content, and nothing else. For a folder: the content of
its videos, its captions, frames, rate, size, fit, splits and seed. For latents also: codec and text encoder with
checksums of their checkpoints, dtype and chunks. For inversions also: model and solver. The settings leave out paths,
times of writing, shards, the size of the pieces that are encoded at a time, and the number of processes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jvflow.files import READ_ONLY
from jvflow.parallel import locks


def dataset_key(settings: dict) -> str:
    """Returns the first 12 hexadecimal digits of the sha256 of the settings as JSON with sorted names."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def check_settings(directory, have: dict, want: dict) -> None:
    """Raises ValueError with the differences if the data set in `directory` has other settings than wanted."""
    if have == want:
        return
    raise ValueError(
        f"{directory} holds another data set (key {dataset_key(have)}) than the wanted one ({dataset_key(want)}); "
        f"{differences(have, want)}: "
        "take the settings and files that it was made with, remove it, or choose another name"
    )


def differences(have: dict, want: dict) -> str:
    """Returns the differences between two settings as text."""
    before, now = _flat(have), _flat(want)
    differing = [
        f"{name}: {before.get(name, 'absent')} / {now.get(name, 'absent')}"
        for name in sorted(before | now)
        if before.get(name) != now.get(name)
    ]
    more = [f"and {len(differing) - 5} more"] * (len(differing) > 5)
    return f"differences, there / here: {'; '.join(differing[:5] + more)}"


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


class FileHashes:
    """The sha256 hashes of files.

    Each file is read once: its hash is appended to the file `known`, if one is given, and is valid as long as the size
    and the times of the file do not change. Processes take turns, so that they do not hash the same files. Nothing is
    appended where this process may not write.
    """

    def __init__(self, known: Path | None = None):
        self._file, self._known, self._read = known, {}, 0
        self._read_known()

    def __call__(self, files: Sequence[Path]) -> str:
        """Returns the hash of a file's content, or of the contents of several files in order; names do not matter."""
        digests = [self._hash(file.absolute()) for file in files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def _hash(self, file: Path) -> str:
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if not self._knows(file, stamp):
            with ExitStack() as stack:
                with _where_writable():
                    if self._file:
                        stack.enter_context(locks.hold(locks.next_to(self._file), self._file, wait=True, log=False))
                self._read_known()
                if not self._knows(file, stamp):
                    self._add(file, stamp)
        return self._known[str(file)][1]

    def _knows(self, file: Path, stamp: list[int]) -> bool:
        return self._known.get(str(file), (None, None))[0] == stamp

    def _add(self, file: Path, stamp: list[int]) -> None:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        self._known[str(file)] = stamp, digest
        with _where_writable():
            if self._file:
                with self._file.open("a", encoding="utf-8") as known:
                    known.write(json.dumps([str(file), stamp, digest]) + "\n")

    def _read_known(self) -> None:
        """Reads the lines that were added since the last call."""
        if self._file and self._file.is_file():
            with self._file.open("rb") as known:
                known.seek(self._read)
                lines = known.read()
            self._read += len(lines)
            for line in lines.splitlines():
                with suppress(ValueError, TypeError):  # an interruption can leave half a line
                    name, stamp, digest = json.loads(line)
                    self._known[name] = stamp, digest


@contextmanager
def _where_writable() -> Iterator[None]:
    """Skips the block where this process may not write."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
