"""Writes clips as a tfds data set in ArrayRecord files, with a manifest of everything that determines its content.

    directory/
      clips-train.array_record-00000-of-00002, ...    one `tf.train.Example` for each clip
      dataset_info.json, features.json                read by `tfds.builder_from_directory`
      manifest.json                                   key, clips and videos per split, shape of a clip, settings
      report.json                                     size in bytes, and a report on the build
      clips/                                          of latents: the data set with the video, in the same order

A clip is a `Clip`, or a dict of named columns: arrays, numbers and strings (such as the latents of
`jvflow.data.latents`). The first clip determines the columns; all others must have the same.

Writing streams: one clip is in memory at a time, whatever the size of a split. (tfds' own generator builder keeps
up to 1 GB, and beyond that the whole of an unshuffled split, so this module uses its public parts instead.) Clips are
read (`jvflow.data.pipeline.open_split`) in the order in which they were written. Neither needs TensorFlow or internet.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EIO, ENOSPC
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jvflow.data.columns import Clip, Columns, as_dict
from jvflow.data.dataset_key import dataset_key
from jvflow.files import read_json, write_text
from jvflow.parallel import locks, progress

LOG = logging.getLogger(__name__)
MANIFEST, REPORT = "manifest.json", "report.json"
IDENTITY = "identity.json"  # of an unfinished build
NAME = "clips"
VIDEO = "clips"
"""The folder of the data set that holds the video, where training does not read it."""
INFO = ("dataset_info.json", "features.json")
"""The JSON files that tfds reads."""
SHARD_BYTES = 256 * 2**20
"""Default size of a shard."""


class LazyClips(Sequence):
    """A sequence of `count` clips, each made when it is read."""

    def __init__(self, count: int, make: Callable[[int], Clip | dict]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: SupportsIndex) -> Clip | dict:
        return self._make(range(self._count)[index])


def is_dataset(directory: str | os.PathLike) -> bool:
    """Returns whether `directory` holds a finished data set."""
    return (Path(directory) / MANIFEST).is_file()


def manifest(directory: str | os.PathLike) -> dict:
    """Returns the manifest of a data set.

    It is `{"key": dataset_key(settings), "splits": {split: clips}, "shape": [f, h, w, 3], "settings": ...}`. A data set
    of videos also has `"videos": {split: {video: clips}}`.
    """
    if not is_dataset(directory):
        raise ValueError(
            f"{directory} is not a data set, it has no {MANIFEST}: make it with `jvflow train`, or with "
            f"`jvflow encode --config=... --out={directory}`"
        )
    keys = dict(settings=dict, splits=dict, shape=list)
    return read_json(Path(directory) / MANIFEST, rebuild(directory), keys=keys)


def report(directory: str | os.PathLike) -> dict:
    """Returns the report that `Build.write` stored: `{"bytes": size on disk, ...}`; {} if there is none."""
    file = Path(directory) / REPORT
    return read_json(file, "restore it, or remove it: it holds no clips") if file.is_file() else {}


def check_readable(directory: str | os.PathLike) -> None:
    """Raises ValueError if a JSON file of the data set, which tfds reads, is missing or damaged."""
    files = [Path(directory) / name for name in INFO]
    for file in files:
        read_json(file, rebuild(directory))
    try:
        tfds.builder_from_directory(directory)
    except Exception as error:  # tfds and protobuf raise many types for wrong entries
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{' or '.join(map(str, files))} is damaged ({reason}): {rebuild(directory)}") from error


def rebuild(directory: str | os.PathLike) -> str:
    """Returns the end of an error message: how to replace a damaged data set."""
    return f"restore it, or remove {directory} and run the command that built it again"


def bytes_written(directory: str | os.PathLike) -> int:
    """Returns the bytes on disk of a data set, finished or not."""
    directory = Path(directory).absolute()
    folders = (directory, _partial(directory))
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def _partial(directory: Path) -> Path:
    return directory.parent / f".{directory.name}.partial"


def check_free(directory: str | os.PathLike) -> None:
    """Raises ValueError if there is something at `directory` that `write` would have to replace."""
    directory = Path(directory)
    if is_dataset(directory):
        raise ValueError(f"{directory} already holds a data set: remove it, or choose another name")
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not an empty folder: choose another name")


def write(
    directory: str | os.PathLike,
    splits: Mapping[str, Iterable],
    *,
    settings: dict,
    video_from: Path | None = None,
    **options,
) -> None:
    """Writes a data set; `video_from` and `options` are options of `Build.write`."""
    check_free(directory)
    identity = dict(settings=settings, splits=list(splits)) | (dict(video="apart") if video_from else {})
    with begin(directory, identity) as build:
        build.write(splits, settings=settings, video_from=video_from, **options)


def video_folder(directory: str | os.PathLike) -> Path | None:
    """Returns the data set with the video of a data set: itself, the one inside it, or None for mere latents."""
    directory = Path(directory)
    if (directory / VIDEO).is_dir():
        return directory / VIDEO
    return directory if "video" in tfds.builder_from_directory(directory).info.features else None


def open_video(directory: str | os.PathLike, split: str, count: int) -> Sequence:
    """Opens the video that lies apart from the `count` clips of a split; raises ValueError for another number."""
    apart = Path(directory) / VIDEO
    video = tfds.builder_from_directory(apart).as_data_source(split)
    if len(video) != count:
        given = f"{apart} has {len(video)} clips in its split {split!r}, and the latents are of {count}"
        raise ValueError(f"{given}: {rebuild(directory)}")
    return video


def _link(source: Path, folder: Path) -> None:
    """Gives a finished data set a second folder, without using space where the file system has links."""
    folder.mkdir()
    for file in sorted([*source.glob(f"{NAME}-*"), *(source / name for name in (*INFO, REPORT, MANIFEST))]):
        if file.is_file():
            try:
                os.link(file, folder / file.name)
            except OSError:
                shutil.copy(file, folder / file.name)


@contextmanager
def begin(directory: str | os.PathLike, identity: dict) -> Iterator["Build"]:
    """Yields a `Build` of `directory`, alone there. A ValueError in the block removes the build."""
    with locks.hold(locks.next_to(directory), directory, wait=True):
        check_free(directory)
        build = Build(directory, identity)
        try:
            yield build
        except ValueError:
            build.remove()
            raise


class Build:
    """The build of a data set, in the sibling folder `.<name>.partial` of its directory; use `begin`.

    It continues from the files of an interrupted build with the same `identity`, and removes the files of any other.

    Attributes:
      scratch: a folder for intermediate files: kept after an interruption, removed at the end.
    """

    def __init__(self, directory: str | os.PathLike, identity: dict):
        self._directory = Path(directory).absolute()
        self._partial = _partial(self._directory)
        self.scratch = self._partial / "scratch"
        try:
            text = json.dumps(identity, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"settings must be valid JSON: {error}") from error
        file = self._partial / IDENTITY
        if not (file.is_file() and file.read_text("utf-8") == text):
            self.remove()
            self._partial.mkdir(parents=True)
            write_text(file, text)
        self.scratch.mkdir(exist_ok=True)

    def write(
        self,
        splits: Mapping[str, Iterable],
        *,
        settings: dict,
        shard_bytes: int | None = None,
        measure: Callable[[dict], dict[str, Real]] = lambda clip: {},
        report: Callable[[dict[str, float]], dict] = lambda sums: {},
        extra: Callable[[Path], None] = lambda folder: None,
        videos: Mapping[str, Mapping[str, int]] | None = None,
        video_from: Path | None = None,
    ) -> None:
        """Writes every split and renames the result to the directory, which must not hold a data set.

        An interrupted build continues after its last complete shard, and gives the same bytes. From a split that is a
        sequence (`LazyClips`) it reads only the missing clips.

        Args:
          splits: clips of each split, read one split after the other, in the given order. Empty splits are left out,
            but `train` must have clips.
          settings: everything that determines the content, for the manifest; must be valid JSON.
          shard_bytes: a shard is closed when it reaches this size; `SHARD_BYTES` when None. Choose less for clips that
            are costly to make: an interruption loses at most one shard.
          measure: returns numbers for a clip's columns; they are summed over all clips.
          report: returns the content of `REPORT` from those sums.
          extra: writes further files of the data set into the given folder.
          videos: the number of clips of each video, for the manifest: {split: {video: clips}}.
          video_from: a data set of the same clips in the same order, which holds their video in place of this one.
        """
        check_free(self._directory)
        _check_splits(splits)
        known = all(isinstance(clips, Sequence) for clips in splits.values())
        total, done = sum(map(len, splits.values())) if known else None, _clips_written(self._partial, splits)
        if done:
            LOG.info("%s: continues after %d clips of an interrupted build", self._directory, done)
        with progress.bar("write clips", total, unit="clip", done=done) as advance:

            def measured(clip: dict) -> dict[str, Real]:
                advance()
                return measure(clip)

            counts, shape, sums = _write_splits(self._partial, splits, shard_bytes or SHARD_BYTES, measured)
        if video_from:
            shape = manifest(video_from)["shape"]
            shutil.rmtree(self._partial / VIDEO, ignore_errors=True)
            _link(video_from, self._partial / VIDEO)
        size = sum(file.stat().st_size for file in self._partial.rglob(f"{NAME}-*"))
        self._write_json(REPORT, {"bytes": size, **report(sums)})
        extra(self._partial)
        content = {"key": dataset_key(settings), "splits": counts, "shape": list(shape)}
        self._write_json(MANIFEST, content | ({"videos": videos} if videos else {}) | {"settings": settings})
        shutil.rmtree(self.scratch)
        (self._partial / IDENTITY).unlink()
        self._partial.replace(self._directory)

    def _write_json(self, name: str, content: dict) -> None:
        write_text(self._partial / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def remove(self) -> None:
        """Removes the unfinished data set."""
        shutil.rmtree(self._partial, ignore_errors=True)


def _check_splits(splits: Iterable[str]) -> None:
    if "train" not in splits:
        raise ValueError(f"a data set needs a split 'train'; got: {', '.join(splits) or 'none'}")
    for name in splits:
        if not (name.isascii() and name.isalnum()):
            raise ValueError(f"split {name!r} must consist of letters and digits: it names files")


def _write_splits(
    directory: Path, splits: Mapping[str, Iterable], shard_bytes: int, measure: Callable
) -> tuple[dict[str, int], tuple[int, ...], dict[str, float]]:
    """Writes shards and tfds metadata; returns clips per split, a clip's shape and the sums of measured numbers."""
    template = tfds.core.ShardedFileTemplate(data_dir=directory, dataset_name=NAME, filetype_suffix="array_record")
    infos, columns, finished = [], None, {}
    for name, clips in splits.items():
        first, clips_from = _first_and_rest(clips)
        if first is None and name == "train":
            raise ValueError("split 'train' is empty: a data set needs at least one clip there")
        if first is None:
            continue
        columns = columns or Columns.of(first)
        finished[name] = shards = _write_shards(directory, name, first, clips_from, columns, shard_bytes, measure)
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


def _sums(measured: Iterable[dict[str, Real]]) -> dict[str, float]:
    sums = {}
    for numbers in measured:
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in numbers.items()}
    return sums


def _first_and_rest(clips: Iterable) -> tuple[Any, Callable[[int], Iterator]]:
    """Returns the first clip, or None, and a function that yields the clips from n >= 1 on; call it once."""
    if isinstance(clips, Sequence):
        return (clips[0] if len(clips) else None), lambda start: (clips[i] for i in range(start, len(clips)))
    clips = iter(clips)
    return next(clips, None), lambda start: islice(clips, start - 1, None)


class _Shard(NamedTuple):
    clips: int
    bytes: int
    sums: dict[str, float]


def _write_shards(
    directory: Path,
    split: str,
    first: Clip | dict,
    clips_from: Callable[[int], Iterator],
    columns: Columns,
    shard_bytes: int,
    measure: Callable,
) -> list[_Shard]:
    """Writes the clips in order, shard after shard, and returns the shards.

    Each shard's file `_done` is written last: shards that have one are kept from an interrupted build.
    """
    done = lambda number: _done(directory, split, number)
    shards = []
    while done(len(shards)).is_file():
        shards.append(_Shard(*read_json(done(len(shards)), f"remove {directory} and build again", kind=list)))
    index = sum(shard.clips for shard in shards)
    clips = clips_from(max(index, 1))
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


def _on_disk(write: Callable, *args) -> None:
    """Calls a method of an ArrayRecord writer, and turns its RuntimeError into the OSError that other files raise."""
    try:
        write(*args)
    except RuntimeError as error:
        raise OSError(ENOSPC if "No space left" in str(error) else EIO, str(error)) from error


def _clips_written(directory: Path, splits: Iterable[str]) -> int:
    """Returns the number of clips in the complete shards of an unfinished data set."""
    shards = (file for split in splits for file in directory.glob(f"{split}-*.json"))
    return sum(read_json(file, f"remove {directory} and build again", kind=list)[0] for file in shards)


def _done(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-{number}.json"
