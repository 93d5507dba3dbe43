"""Clips on disk: a tfds data set in ArrayRecord files, with a manifest that says how it was made.

    directory/
      clips-train.array_record-00000-of-00002, ...    one `tf.train.Example` for each clip
      dataset_info.json, features.json                what `tfds.builder_from_directory` reads
      manifest.json                                   key, settings, clips per split, shape of a clip
      report.json                                     bytes, and what its maker says of what came in and what did not

A clip is a `Clip`, or a dict of named columns: arrays, numbers and strings (such as the latents of
`jvflow.data.latents`). The first clip decides the columns; all others have the same.

Writing streams: it holds one clip, whatever the size of a split. (tfds' own generator builder keeps
up to 1 GB, and an unshuffled split beyond that whole, so its public parts are used instead.)
Reading order is writing order. TensorFlow and the network are never touched.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from errno import EIO, ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jvflow.data import key
from jvflow.data.columns import Clip, Columns, as_dict
from jvflow.data.files import write_text

MANIFEST, REPORT = "manifest.json", "report.json"
IDENTITY = "identity.json"  # of what is under way
NAME = "clips"
SHARD_BYTES = 256 * 2**20
"""Of a shard, where `Build.write` is told nothing else."""
HALVES = ("float16", "bfloat16")
"""Types of arrays that are read back as float32."""


class Lazy(Sequence):
    """`count` clips, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Clip | dict]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: SupportsIndex) -> Clip | dict:
        return self._make(range(self._count)[index])


class Source:
    """Random access to one split, for `grain.MapDataset.source`: thread safe and picklable."""

    def __init__(self, directory: Path, split: str):
        self._directory, self._split = directory, split
        self._records = tfds.builder_from_directory(directory).as_data_source(split)

    def __reduce__(self):
        return Source, (self._directory, self._split)

    def __repr__(self) -> str:
        return f"records.Source({str(self._directory)!r}, {self._split!r}, {len(self)} clips)"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict:
        """Returns the columns of a clip: arrays as they were written but for `HALVES`, numbers as float32, strings as str."""
        record = self._records[range(len(self))[index]]
        return {name: _plain(value) for name, value in record.items()}


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if not np.ndim(value):
        return np.float32(value)
    return value.astype(np.float32) if value.dtype.name in HALVES else value


def is_dataset(directory: str | os.PathLike) -> bool:
    """Says whether `write` has completed in this directory."""
    return (Path(directory) / MANIFEST).is_file()


def manifest(directory: str | os.PathLike) -> dict:
    """Returns `{"key": of the settings, "settings": ..., "splits": {name: clips}, "shape": [f, h, w, 3]}`."""
    if not is_dataset(directory):
        raise ValueError(f"{directory} is not a data set: it has no {MANIFEST}; build it first")
    return json.loads((Path(directory) / MANIFEST).read_text("utf-8"))


def report(directory: str | os.PathLike) -> dict:
    """Returns `{"bytes": on disk, ...}` with what `Build.write` was given to say; nothing of a data set of before there were reports."""
    file = Path(directory) / REPORT
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def written(directory: str | os.PathLike) -> int:
    """Bytes that a data set has taken so far, finished or under way."""
    directory = Path(directory).absolute()
    return sum(file.stat().st_size for folder in (directory, _partial(directory)) for file in folder.rglob("*") if file.is_file())


def _partial(directory: Path) -> Path:
    return directory.parent / f".{directory.name}.partial"


def open(directory: str | os.PathLike, split: str) -> Source:
    """Opens one split."""
    splits = manifest(directory)["splits"]
    if split not in splits:
        raise ValueError(f"{directory} has no split {split!r}; available: {', '.join(splits)}")
    return Source(Path(directory), split)


def check_free(directory: str | os.PathLike) -> None:
    """Raises ValueError if there is something at `directory` that `write` would have to replace."""
    directory = Path(directory)
    if is_dataset(directory):
        raise ValueError(f"{directory} already holds a data set: remove it, or choose another name")
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not an empty folder: choose another name")


def write(directory: str | os.PathLike, splits: dict[str, Iterable[Clip | dict]], *, settings: dict, **options) -> None:
    """Writes a data set whose `settings` decide its clips: a `Build` without work of its own. Arguments as of `Build.write`."""
    check_free(directory)
    Build(directory, dict(settings=settings, splits=list(splits))).write(splits, settings=settings, **options)


class Build:
    """A data set under way, in the sibling `.<name>.partial` of its directory; one process builds it at a time.

    What an interrupted build of the same `identity` left is kept, what another one left is removed.

    Attributes:
      scratch: a folder for work that is to be found again after an interruption. It goes with the build.
    """

    def __init__(self, directory: str | os.PathLike, identity: dict):
        self._directory = Path(directory).absolute()
        self._partial = _partial(self._directory)
        self.scratch = self._partial / "scratch"
        self._new = [folder for folder in self._partial.parents if not folder.exists()]
        try:
            text = json.dumps(identity, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"settings must fit JSON: {error}") from error
        file = self._partial / IDENTITY
        if not (file.is_file() and file.read_text("utf-8") == text):
            self.remove()
            self._partial.mkdir(parents=True)
            write_text(file, text)
        self.scratch.mkdir(exist_ok=True)

    def write(
        self, splits: dict[str, Iterable[Clip | dict]], *, settings: dict, shard_bytes: int | None = None,
        measure: Callable[[dict], dict[str, float]] = lambda clip: {}, report: Callable[[dict[str, float]], dict] = lambda sums: {},
    ) -> None:
        """Writes every split and renames the result to the directory, which must not hold a data set.

        An interrupted build continues after its last complete shard, and gives the same bytes. Of a
        split that is a sequence (`Lazy`) only what is missing is asked for. A ValueError, of a clip
        or of its source, leaves nothing.

        Args:
          splits: consumed one after the other, in the given order. Those without clips are left out;
            `train` must have some.
          settings: for the manifest; must fit JSON.
          shard_bytes: a shard is closed by the clip that takes it to this size, `SHARD_BYTES` when None. Less for clips that are
            costly to make: what an interruption loses is at most a shard.
          measure: numbers of a clip's columns, which are summed over all clips.
          report: what is said in `REPORT` with those sums.
        """
        try:
            check_free(self._directory)
            _check_splits(splits)
            counts, shape, sums = _write_splits(self._partial, splits, shard_bytes or SHARD_BYTES, measure)
            size = sum(file.stat().st_size for file in self._partial.glob(f"{NAME}-*"))
            self._note(REPORT, {"bytes": size, **report(sums)})
            self._note(MANIFEST, {"key": key.of(settings), "settings": settings, "splits": counts, "shape": list(shape)})
            shutil.rmtree(self.scratch)
            (self._partial / IDENTITY).unlink()
            self._partial.replace(self._directory)
        except ValueError:
            self.remove()
            raise

    def _note(self, name: str, content: dict) -> None:
        write_text(self._partial / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def remove(self) -> None:
        """Removes what is there of the data set, and the folders that were made for it alone."""
        shutil.rmtree(self._partial, ignore_errors=True)
        with suppress(OSError):  # one that is no longer empty ends it
            for folder in self._new:
                folder.rmdir()


def _check_splits(splits) -> None:
    if "train" not in splits:
        raise ValueError(f"a data set needs a split 'train'; got: {', '.join(splits) or 'none'}")
    for name in splits:
        if not (name.isascii() and name.isalnum()):
            raise ValueError(f"split {name!r} must consist of letters and digits: it names files")


def _write_splits(
    directory: Path, splits: dict[str, Iterable[Clip | dict]], shard_bytes: int, measure: Callable
) -> tuple[dict[str, int], tuple[int, ...], dict[str, float]]:
    """Writes shards and tfds metadata; returns clips per split, the shape of a clip and the sums of what was measured."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=NAME, filetype_suffix="array_record"
    )
    infos, columns, finished = [], None, {}
    for name, clips in splits.items():
        first, rest = _opened(clips)
        if first is None and name == "train":
            raise ValueError("split 'train' is empty: a data set needs at least one clip there")
        if first is None:
            continue
        columns = columns or Columns.of(first)
        finished[name] = shards = _write_shards(directory, name, first, rest, columns, shard_bytes, measure)
        infos.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[shard.clips for shard in shards],
                num_bytes=sum(shard.bytes for shard in shards),
                filename_template=template.replace(split=name),
            )
        )
    for name, shards in finished.items():
        for number in range(len(shards)):
            _done(directory, name, number).unlink()
            final = f"{NAME}-{name}.array_record-{number:05d}-of-{len(shards):05d}"
            (directory / f"{name}-{number}").rename(directory / final)
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=columns.features,
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description="Video clips, written by jvflow.data.records",
        disable_shuffling=True,
    )
    sums = _sums(shard.sums for shards in finished.values() for shard in shards)
    return {info.name: info.num_examples for info in infos}, columns.shape, sums


def _sums(measured: Iterable[dict[str, float]]) -> dict[str, float]:
    sums = {}
    for numbers in measured:
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in numbers.items()}
    return sums


def _opened(clips: Iterable) -> tuple[Any, Callable[[int], Iterator]]:
    """The first clip (None if there is none), and `start -> clips from start on`, for one call, start >= 1."""
    if isinstance(clips, Sequence):
        return (clips[0] if len(clips) else None), lambda start: (clips[i] for i in range(start, len(clips)))
    clips = iter(clips)
    return next(clips, None), lambda start: islice(clips, start - 1, None)


class _Shard(NamedTuple):
    clips: int
    bytes: int
    sums: dict[str, float]


def _write_shards(directory: Path, split: str, first, rest: Callable, columns: Columns, shard_bytes: int, measure: Callable) -> list[_Shard]:
    """Writes the clips in order, shard after shard, and returns those.

    A shard is complete once it is noted as done; those of an interrupted build are kept.
    """
    done = lambda number: _done(directory, split, number)
    shards = []
    while done(len(shards)).is_file():
        shards.append(_Shard(*json.loads(done(len(shards)).read_text("utf-8"))))
    index = sum(shard.clips for shard in shards)
    clips = rest(max(index, 1))
    clip = first if index == 0 else next(clips, None)
    while clip is not None:
        size, measured = 0, []
        writer = ArrayRecordWriter(str(directory / f"{split}-{len(shards)}"), "group_size:1")
        try:
            while clip is not None and size < shard_bytes:
                example = columns.serialize(clip, split, index)
                _on_disk(writer.write, example)
                size, index = size + len(example), index + 1
                measured.append(measure(as_dict(clip)))
                clip = next(clips, None)
        finally:
            _on_disk(writer.close)
        shards.append(_Shard(len(measured), size, _sums(measured)))
        write_text(done(len(shards) - 1), json.dumps(shards[-1]))
    return shards


def _on_disk(write: Callable, *given) -> None:
    """Calls a method of a writer. What it cannot write is an OSError, as of any other file."""
    try:
        write(*given)
    except RuntimeError as error:
        raise OSError(ENOSPC if "No space left" in str(error) else EIO, str(error)) from error


def _done(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-{number}.json"
