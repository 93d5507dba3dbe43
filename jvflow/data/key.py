"""What decides the content of a data set, as a short key: equal keys are equal clips, wherever and by however many processes they were made.

The settings in a manifest hold what decides, and nothing else. Of a folder: the content of its videos, captions, frames, rate, size, fit, splits and
seed; of latents besides: codec and text encoder with checksums of their weights, dtype and chunks; of inversions besides: model and solver.
Not in them: where a file lies and when it was written, pieces, shards, and how many processes there were.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def of(settings: dict) -> str:
    """The key of a data set with these settings: the first 12 hexadecimal digits of the sha256 of their JSON, names sorted."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def check(directory, there: dict, here: dict) -> None:
    """Raises a ValueError that names what differs, when the data set in a directory has other settings than those that are asked for."""
    if there == here:
        return
    before, now = _flat(there), _flat(here)
    differing = [f"{name}: {before.get(name, 'absent')} / {now.get(name, 'absent')}" for name in sorted(before | now) if before.get(name) != now.get(name)]
    more = [f"and {len(differing) - 5} more"] * (len(differing) > 5)
    raise ValueError(
        f"{directory} holds another data set (key {of(there)}) than is asked for ({of(here)}); what differs, there / here: {'; '.join(differing[:5] + more)}: "
        "take the settings and files that it was made with, remove it, or choose another name"
    )


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


class Hashes:
    """The sha256 of files. What was read once is noted in the file `known`, if one is given, and not read again while a file's size and times stay as they are."""

    def __init__(self, known: Path | None = None):
        self._file, self._known = known, {}
        for line in known.read_text("utf-8").splitlines() if known and known.is_file() else ():
            with suppress(ValueError):  # a line that was not written to its end
                name, stamp, digest = json.loads(line)
                self._known[name] = stamp, digest

    def __call__(self, files: Sequence[Path]) -> str:
        """Of the content of one file, or of several in order; their names do not matter."""
        digests = [self._of(file.absolute()) for file in files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def _of(self, file: Path) -> str:
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        before, digest = self._known.get(str(file), (None, None))
        if before != stamp:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            self._known[str(file)] = stamp, digest
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as known:
                    known.write(json.dumps([str(file), stamp, digest]) + "\n")
        return digest
