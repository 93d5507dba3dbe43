"""Writes files whole or not at all, checks that a disk has room for them, and reads JSON."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of the system where a file or folder must not be written."""


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


def read_json(path: str | os.PathLike, cure: str, *, keys: Mapping[str, type] | None = None, kind: type = dict) -> Any:
    """Returns the content of a JSON file.

    Args:
      path: the file.
      cure: the end of the error message, such as "restore it from a copy".
      keys: the entries that the file must have, with their types.
      kind: the type of the whole content.

    Raises:
      ValueError: if the file is missing, not UTF-8, not JSON, of another kind, or lacks an entry. The message names it.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError:
        reason = "does not exist"
    except UnicodeDecodeError as error:
        reason = f"is damaged: it is not UTF-8 ({error.reason} at byte {error.start})"
    except (ValueError, RecursionError) as error:
        reason = f"is damaged: it is not JSON ({error})" if Path(path).stat().st_size else "is empty"
    else:
        reason = _unlike(content, kind, keys or {})
    if reason:
        raise ValueError(f"{path} {reason}: {cure}")
    return content


NAMES = {dict: "an object", list: "an array", str: "a string", int: "a whole number"}


def _unlike(content: Any, kind: type, keys: Mapping[str, type]) -> str:
    """Returns why a content is not of a kind, or lacks an entry; "" if it is as it should be."""
    if not isinstance(content, kind):
        return f"is damaged: it holds {NAMES.get(type(content), type(content).__name__)}, not {NAMES[kind]}"
    missing = [name for name in keys if name not in content]
    if missing:
        return f"is incomplete: it has no {', '.join(missing)}"
    wrong = [f"{name} is not {NAMES[kind]}" for name, kind in keys.items() if not isinstance(content[name], kind)]
    return f"is damaged: {', '.join(wrong)}" if wrong else ""


def read_json_lines(path: str | os.PathLike) -> list[tuple[str, Any]]:
    """Returns (line, content) of each line of a JSON lines file; the content of a damaged line is None.

    Leaves out blank lines, and the NUL bytes before a line that a file system may write after a loss of power.
    """
    lines = (line.strip() for line in Path(path).read_bytes().split(b"\n"))
    return [_read_line(line.strip(b"\0 \t")) for line in lines if line]


def _read_line(line: bytes) -> tuple[str, Any]:
    try:
        text = line.decode("utf-8")
        return text, json.loads(text)
    except (ValueError, RecursionError):
        return "", None


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
