"""Captions and splits of videos: from one table, or from a text file next to each video.

A table is a csv file with a header, or a jsonl file with one object per line. Each row has `file_name`, the path of the
video below the folder, and `caption` or `text`, or `split` (`jvflow.data.splits`), or both; other columns are ignored.
The table is the file that the config names, or `metadata.csv` or `metadata.jsonl` in the folder. A video without a
caption there takes it from `name.txt` next to `name.mp4`; without that file its caption is empty.
"""

import csv
import difflib
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from jvflow.data.splits import NAMES

TABLES = ("metadata.csv", "metadata.jsonl")
NAME, CAPTION, SPLIT = "file_name", ("caption", "text"), "split"


class Row(NamedTuple):
    """The entries of a video in a table; None where the table has none."""

    caption: str | None
    split: str | None


def find_table(folder: str | os.PathLike, path: str = "") -> Path | None:
    """Returns the table of a folder: the file at `path` if given, else one of `TABLES` in the folder, else None."""
    if path:
        if not Path(path).is_file():
            raise ValueError(f"the table of captions {path} is not a file")
        return Path(path)
    found = [Path(folder) / name for name in TABLES if (Path(folder) / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{folder} has two tables of captions, {' and '.join(TABLES)}: name one with config.data.captions"
        )
    return found[0] if found else None


def read_table(file: Path) -> dict[str, Row]:
    """Reads a table and returns {file name: row}.

    Raises:
      ValueError: for a file that is neither csv nor jsonl, or not UTF-8, for a row that cannot be read, for missing
        columns, for an unknown split, and for a video that is named twice. The message gives the line and the cure.
    """
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{file} is neither csv nor jsonl: write captions in one of these formats")
    try:
        text = file.read_text("utf-8-sig")  # drops the byte order mark that spreadsheets write
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error
    rows, lines = {}, {}
    for line, entries in (_csv_rows if file.suffix.lower() == ".csv" else _jsonl_rows)(file, text):
        name, row = _row(f"{file}, line {line}", entries)
        if name in rows:
            raise ValueError(f"{file} names {name} in line {lines[name]} and in line {line}: keep one of them")
        rows[name], lines[name] = row, line
    if not rows:
        raise ValueError(f"{file} has no row: remove it, or give each video a line")
    return rows


def _row(where: str, entries: dict) -> tuple[str, Row]:
    """Returns the name of a video and its row."""
    column = next((name for name in CAPTION if name in entries), None)
    if NAME not in entries or (column is None and SPLIT not in entries):
        has = ", ".join(map(repr, entries)) or "none"
        raise ValueError(
            f"{where}: needs the columns '{NAME}' and '{CAPTION[0]}' (or '{CAPTION[1]}', or '{SPLIT}'), has {has}"
        )
    for name in (NAME, column, SPLIT):
        if not isinstance(entries.get(name, ""), str):
            raise ValueError(
                f"{where}: '{NAME}', '{column or CAPTION[0]}' and '{SPLIT}' must be text, '{name}' is {entries[name]!r}"
            )
    split = entries.get(SPLIT, "").strip().lower()
    if split and split not in NAMES:
        raise ValueError(f"{where}: '{SPLIT}' is {split!r}: write {', '.join(NAMES)}, or nothing")
    caption = None if column is None else entries[column].strip()
    return Path(entries[NAME]).as_posix(), Row(caption, NAMES.get(split))


def match(file: Path, table: Mapping[str, Row], names: Collection[str]) -> dict[str, Row]:
    """Returns the table with the names of the videos as they are on disk, where "é" may be one character or two.

    Raises ValueError if two rows of the table in `file` name one video.
    """
    on_disk, rows = {_composed(name): name for name in names}, {}
    for name, row in table.items():
        found = name if name in names else on_disk.get(_composed(name), name)
        if found in rows:
            raise ValueError(f"{file} names {found} in two rows, which spell it in two forms of Unicode: keep one")
        rows[found] = row
    return rows


def _composed(name: str) -> str:
    return normalize("NFC", name)


def read_text_file(path: Path) -> str:
    """Returns the caption in the text file next to a video file or a folder of images; empty without a file."""
    file = path.with_name(path.name + ".txt") if path.is_dir() else path.with_suffix(".txt")
    if not (file.name.isascii() or os.path.isfile(file)):
        alike = [other for other in file.parent.iterdir() if _composed(other.name) == _composed(file.name)]
        file = alike[0] if alike else file
    try:
        return file.read_text("utf-8-sig").strip() if os.path.isfile(file) else ""  # False for a name that is too long
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error


def _not_utf8(file: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{file} is not UTF-8: {error}; save it as UTF-8")


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            given = {name: value for name, value in row.items() if name is not None and value is not None}
            if None in row:
                raise ValueError(
                    f"{file}, line {rows.line_num}: has {len(row[None])} fields more than the header: "
                    "put a caption that has commas in double quotes"
                )
            yield rows.line_num, given
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.line_num + 1}: {error}") from error


def _jsonl_rows(file: Path, text: str) -> Iterator[tuple[int, dict]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {line}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'{file}, line {line}: must be an object such as {{"{NAME}": ..., "{CAPTION[0]}": ...}}')
        yield line, row


# --- captions of samples --------------------------------------------------------------------------


def unlike(captions: Sequence[str], known: Sequence[str]) -> str:
    """Returns a sentence on the first caption with words that no known caption has, and the nearest one; "" if none.

    Words are compared without case and punctuation.
    """
    vocabulary = {word for caption in known for word in _words(caption)}
    for caption in captions:
        if new := list(dict.fromkeys(word for word in _words(caption) if word not in vocabulary)):
            near = difflib.get_close_matches(caption, sorted(set(known)), n=1, cutoff=0)
            nearest = f"the nearest one is {near[0]!r}" if near and near[0] else "they are empty"
            return f"no caption of training has {', '.join(map(repr, new))} of {caption!r}: {nearest}"
    return ""


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())
