"""Writing files so that a name never holds half of what belongs under it, where there is room for them."""

import os
import shutil
from pathlib import Path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as UTF-8: it has all of the text, or is as it was."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def mebibytes(count: int) -> str:
    """A number of bytes to be read."""
    return f"{count / 2**20:,.1f} MiB"


def check_room(directory: str | os.PathLike, need: int, what: str, cure: str = "take another disk, or fewer, shorter or smaller clips") -> None:
    """Raises a ValueError when the disk of a folder, which may not be there yet, has less than `need` bytes free. `what` are several things, which take them."""
    directory = Path(directory).absolute()
    free = shutil.disk_usage(next(folder for folder in (directory, *directory.parents) if folder.exists())).free
    if need > free:
        raise ValueError(
            f"{what} take up to {mebibytes(need)}, and {mebibytes(free)} are free where {directory} goes: make room, {cure}"
        )
