"""Writing files so that a name never holds half of what belongs under it."""

import os
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
