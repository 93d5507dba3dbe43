"""Writes files whole or not at all, and checks that a disk has room for them."""

import os
import shutil
from pathlib import Path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as UTF-8; if that fails, the file stays as it was."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def mebibytes(count: int) -> str:
    """Formats a number of bytes."""
    return f"{count / 2**20:,.1f} MiB"


def check_room(
    directory: str | os.PathLike,
    need: int,
    what: str,
    cure: str = "use another disk, or fewer, shorter or smaller clips",
) -> None:
    """Raises ValueError if the disk of a folder has less than `need` bytes free; the folder need not exist yet.

    `what` is the subject of the message, in the plural.
    """
    directory = Path(directory).absolute()
    free = shutil.disk_usage(next(folder for folder in (directory, *directory.parents) if folder.exists())).free
    if need > free:
        raise ValueError(
            f"{what} take up to {mebibytes(need)}, and {mebibytes(free)} are free where {directory} goes: "
            f"make room, {cure}"
        )
