"""The version of the format in which a run is stored: its config.json, its checkpoints, and what it exports.

Each of them carries the entry `format_version`. Runs of before this entry existed lack it: they are version 0, which
has the same files as version 1. CONTRIBUTING.md says when to raise the version.
"""

from collections.abc import Mapping
from pathlib import Path

VERSION = 1
"""The version that this jvflow writes; it reads this one and all before."""
ENTRY = "format_version"


class LaterVersion(ValueError):
    """A file was written by a later version of jvflow, in a format that this one does not know."""


def check_version(found: Mapping, file: str | Path) -> int:
    """Returns the version that the content of a file names; 0 if it names none.

    Raises:
      LaterVersion: if the version is above `VERSION`.
      ValueError: if it is not a whole number from 0 on.
    """
    version = found.get(ENTRY, 0)
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise ValueError(
            f"{file} is damaged: {ENTRY} is {version!r}, not a whole number from 0 to {VERSION}: restore it from a copy"
        )
    if version > VERSION:
        raise LaterVersion(
            f"{file} has format version {version}, and this jvflow reads versions up to {VERSION}: a later jvflow "
            "wrote it, so install a later jvflow"
        )
    return version
