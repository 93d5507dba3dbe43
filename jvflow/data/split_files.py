"""Reads the split files of published data sets, and finds the videos that they name.

`config.data.splits` is "train=FILE,test=FILE", with names of `NAMES`, or "FILE" for a table with a column of them. A
file is one of

* a list, one name on a line, where a class or other fields may follow (UCF101, mmaction);
* a table (csv, tsv, jsonl, or a json list of objects) with one of the columns `VIDEO`, and maybe one of `SPLIT`
  (Kinetics, Something-Something). A csv file without such a header is a list;
* HMDB51's lists `*_test_split1.txt`, given as "FILE": 1 is "train", 2 is "test", other videos are not used.

A name is the path of a video below its folder. Its suffix may be another one or absent, and so may leading folders, as
long as one video fits.
"""

import csv
import glob
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jvflow.data import splits, video
from jvflow.files import local_path

NAMES = splits.NAMES | dict(valid="val", validate="val", dev="val", training="train", testing="test")
"""From the names in files to the names of splits."""
VIDEO = ("file_name", "filename", "file", "path", "video_path", "clip_path", "video", "video_name", "vid_name")
VIDEO += ("clip_name", "video_id", "youtube_id", "clip", "name", "id")
"""Columns with the name of a video; the first one that there is counts."""
SPLIT = ("split", "subset")
HMDB, NUMBERS = re.compile(r".*_test_split\d+\.txt"), {"1": "train", "2": "test"}
BEFORE_SPLIT = re.compile(rf",(?=\s*(?:{'|'.join(NAMES)})\s*=)", re.IGNORECASE)
LABELS = re.compile(r"(\s+-?\d+(\.\d+)?)+$")
TO_SUFFIX = re.compile(rf"(.*?({'|'.join(map(re.escape, video.VIDEO_SUFFIXES))}))[\s,;]", re.IGNORECASE)
LEFT_OUT = "in no file of config.data.splits"


@dataclass(frozen=True)
class Selection:
    """The videos that split files name.

    Attributes:
      videos: the videos to read, sorted.
      given: the split of each of them that a file names, {video: split}; others are in "train".
      left_out: names of videos that no file names, if a file names videos of "train".
      notes: sentences on names that were not found, and on videos that are not named.
    """

    videos: list[Path]
    given: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """A row of a file: where it is, the names that it may mean, the best one first, and its split."""

    where: str
    names: list[str]
    split: str | None


def select(folder: Path, found: list[Path], files: str) -> Selection:
    """Returns the videos that split files name; all of them without files.

    Args:
      folder: the folder of the videos.
      found: the videos in it.
      files: `config.data.splits`.

    Raises:
      ValueError: for a file that cannot be read, a file without any video, a name that fits several videos, a video in
        two splits, and if no video is left for "train".
    """
    if not files.strip():
        return Selection(found)
    index = _Index(path.relative_to(folder).as_posix() for path in found)
    named, missing, rows, again = {}, [], 0, 0  # named: {video: (split, where)}
    for file, split in _files(files, folder):
        before = len(missing), rows
        for row in _rows(file, split):
            rows += 1
            name = index.find(row)
            if name is None:
                missing.append(row.names[0])
            elif row.split is not None:
                _, where = named.setdefault(name, (row.split, row.where))
                again += where != row.where
                if named[name][0] != row.split:
                    raise ValueError(
                        f"{name} is in two splits: {named[name][0]} ({where}) and {row.split} ({row.where}): keep one"
                    )
        if len(missing) - before[0] == rows - before[1]:
            names = splits.some([repr(name) for name in missing[before[0] :]], 3) or "none"
            raise ValueError(
                f"{file} names no video of {folder}; its names: {names}; the videos: {splits.some(index.names, 3)}"
            )
    given = {name: split for name, (split, _) in named.items()}
    unnamed = [name for name in index.names if name not in given]
    complete = "train" in given.values()
    if not complete and not unnamed:
        raise ValueError(f"config.data.splits={files} leaves no video of {folder} for the split 'train'")
    notes = [f"{again} rows of config.data.splits name a video again"] * bool(again)
    if missing:
        notes.append(f"{len(missing)} of {rows} names in config.data.splits fit no video: {splits.some(missing)}")
    if unnamed:
        place = "left out" if complete else "in the split 'train'"
        notes.append(f"{len(unnamed)} videos are {LEFT_OUT}, so they are {place}: {splits.some(unnamed)}")
    kept = [path for path, name in zip(found, index.names) if name in given or not complete]
    return Selection(kept, given, unnamed if complete else [], notes)


class _Index:
    """Finds videos by their whole path, by its end, and by the end of a longer path."""

    def __init__(self, names: Iterable[str]):
        self.names = list(names)
        self._exact, self._whole, self._ends = set(self.names), {}, {}
        for name in self.names:
            parts = name.split("/")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                for key in {end, _bare(end)}:
                    (self._ends if start else self._whole).setdefault(key, []).append(name)

    def find(self, row: _Row) -> str | None:
        """Returns the video of a row, or None; raises ValueError if there are several."""
        paths = [[part for part in name.split("/") if part not in ("", ".")] for name in row.names]
        exact = [path for path in map("/".join, paths) if path in self._exact]
        fitting = exact or list(dict.fromkeys(name for path in paths for name in self._fitting(path)))
        if len(fitting) > 1:
            raise ValueError(
                f"{row.where}: {row.names[0]!r} fits several videos, {splits.some(fitting)}: "
                f"write the whole path below the folder, in a csv table with the columns '{VIDEO[0]}' and '{SPLIT[0]}'"
            )
        return fitting[0] if fitting else None

    def _fitting(self, parts: list[str]) -> list[str]:
        path, shorter = "/".join(parts), ["/".join(parts[start:]) for start in range(1, len(parts))]
        keys = [(self._whole, path), (self._ends, path), (self._whole, _bare(path)), (self._ends, _bare(path))]
        keys += [(self._whole, key) for end in shorter for key in (end, _bare(end))]
        return next((table[key] for table, key in keys if key in table), [])


def _bare(name: str) -> str:
    """Returns a name without the suffix of a video file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f".{suffix}".lower() in video.VIDEO_SUFFIXES else name


def _files(text: str, folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yields each file of `config.data.splits`, and its split."""
    for part in BEFORE_SPLIT.split(text):
        name, equals, rest = part.partition("=")
        split = NAMES.get(name.strip().lower()) if equals else None
        pattern = Path(local_path((rest if split else part).strip(), "config.data.splits"))
        places = [pattern, folder / pattern]
        here = [place for place in places if place.is_file()][:1]
        here = here or next((found for place in places if (found := sorted(map(Path, glob.glob(str(place)))))), [])
        if not here or not all(file.is_file() for file in here):
            raise ValueError(
                f"config.data.splits: {part!r} is no file, neither here nor in {folder}: write train=FILE,test=FILE "
                f"with names of {', '.join(NAMES)}, or FILE for a table with a column 'split'"
            )
        yield from ((file, split) for file in here)


def _rows(file: Path, split: str | None) -> Iterator[_Row]:
    """Yields the rows of a file; `split` is that of all of them, or None."""
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}; save it as UTF-8") from error
    numbered = bool(HMDB.fullmatch(file.name))
    if numbered and split:
        raise ValueError(f"{file} numbers its videos, 1 for train and 2 for test: write it without '{split}='")
    seen = {}
    for where, row in _parse(file, text):
        where = f"{file}, {where}"
        if isinstance(row, str):
            number = row.split()[-1]
            if numbered and number not in ("0", "1", "2"):
                raise ValueError(f"{where}: {row!r} does not end in 0, 1 or 2")
            if not numbered and split is None:
                raise ValueError(f"{file} has no column '{SPLIT[0]}': write train={file}, or test={file}")
            yield _Row(where, _names_in_line(row), NUMBERS.get(number) if numbered else split)
            continue
        own = next((str(row[name] or "").strip().lower() for name in SPLIT if name in row), None)
        if own is None and split is None:
            raise ValueError(f"{file} has no column '{SPLIT[0]}': write train={file}, or test={file}")
        if own and own not in NAMES:
            raise ValueError(f"{where}: '{SPLIT[0]}' is {own!r}: write one of {', '.join(NAMES)}, or nothing")
        if own:
            seen[NAMES[own]] = where
        if split and len(seen) > 1:
            raise ValueError(f"{file} has videos of {' and '.join(seen)} in its column: write it without '{split}='")
        yield _Row(where, _names_in_row(where, row), split or NAMES.get(own))


def _parse(file: Path, text: str) -> Iterator[tuple[str, str | dict]]:
    """Yields the place of each row, and its line or its {column: value}."""
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from _parse_table(file, text, "," if kind == ".csv" else "\t")
    elif kind in (".json", ".jsonl"):
        try:
            lines = text.split("\n")
            rows = [json.loads(line) for line in lines if line.strip()] if kind == ".jsonl" else json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is not {kind[1:]}: {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict | str) and row for row in rows):
            raise ValueError(f"{file} must hold a list of objects or of names")
        for number, row in enumerate(rows, start=1):
            yield f"entry {number}", row if isinstance(row, str) else _lower(row)
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"line {number}", line.strip()


def _parse_table(file: Path, text: str, delimiter: str) -> Iterator[tuple[str, str | dict]]:
    rows = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    header = None
    try:
        for number, row in enumerate(rows):
            cells = [cell.strip() for cell in row]
            if number == 0 and not {cell.lower() for cell in cells}.isdisjoint(VIDEO):
                header = cells
            elif header and any(cells):
                yield f"line {rows.line_num}", _lower(dict(zip(header, cells)))
            elif any(cells):
                yield f"line {rows.line_num}", cells[0]
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.line_num}: {error}") from error


def _lower(row: dict) -> dict:
    return {str(name).lower(): value for name, value in row.items()}


def _names_in_line(line: str) -> list[str]:
    """Returns the names that a line may mean: all of it, without numbers at its end, or up to a suffix of videos."""
    to_suffix = TO_SUFFIX.match(line)
    names = [LABELS.sub("", line), line, *([to_suffix[1]] if to_suffix else [])]
    return list(dict.fromkeys(name.replace("\\", "/") for name in names))


def _names_in_row(where: str, row: dict) -> list[str]:
    """Returns the names that a row of a table may mean; Kinetics adds the seconds of a clip to its name."""
    column = next((name for name in VIDEO if row.get(name) not in (None, "")), None)
    if column is None:
        raise ValueError(f"{where}: needs one of the columns {', '.join(VIDEO)}, has {', '.join(row)}")
    name = str(row[column])
    try:
        seconds = "".join(f"_{int(float(row[key])):06d}" for key in ("time_start", "time_end"))
    except (KeyError, TypeError, ValueError):
        return [name]
    return [name + seconds, name]
