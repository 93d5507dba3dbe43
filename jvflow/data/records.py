"""Clips on disk: a tfds data set in ArrayRecord files, with a manifest that says how it was made.

    directory/
      clips-train.array_record-00000-of-00002, ...    one `tf.train.Example` for each clip
      dataset_info.json, features.json                what `tfds.builder_from_directory` reads
      manifest.json                                   settings, clips per split, shape of a clip

A clip is a `Clip`, or a dict of named columns: arrays, numbers and strings (such as the latents of
`jvflow.latents`). The first clip decides the columns; all others have the same.

Writing streams: it holds one clip, whatever the size of a split. (tfds' own generator builder keeps
up to 1 GB, and an unshuffled split beyond that whole, so its public parts are used instead.)
Reading order is writing order. TensorFlow and the network are never touched.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import UInt8

from jvflow.files import write_text

MANIFEST = "manifest.json"
IDENTITY = "identity.json"  # of what is under way
NAME = "clips"
SHARD_BYTES = 256 * 2**20
"""Of a shard, where `Build.write` is told nothing else."""


@dataclass(frozen=True)
class Clip:
    """A clip and where it comes from; `start` is in seconds into the source."""

    video: UInt8[np.ndarray, "f h w 3"]
    fps: float
    start: float
    caption: str = ""
    source: str = ""


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
        """Returns the columns of a clip: arrays as they were written, numbers as float32, strings as str."""
        record = self._records[range(len(self))[index]]
        return {name: _plain(value) for name, value in record.items()}


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return value if np.ndim(value) else np.float32(value)


def is_dataset(directory: str | os.PathLike) -> bool:
    """Says whether `write` has completed in this directory."""
    return (Path(directory) / MANIFEST).is_file()


def manifest(directory: str | os.PathLike) -> dict:
    """Returns `{"settings": ..., "splits": {name: clips}, "shape": [f, h, w, 3]}`."""
    if not is_dataset(directory):
        raise ValueError(f"{directory} is not a data set: it has no {MANIFEST}; build it first")
    return json.loads((Path(directory) / MANIFEST).read_text("utf-8"))


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


def write(directory: str | os.PathLike, splits: dict[str, Iterable[Clip | dict]], *, settings: dict, shard_bytes: int | None = None) -> None:
    """Writes a data set whose `settings` decide its clips: a `Build` without work of its own. Arguments as of `Build.write`."""
    check_free(directory)
    Build(directory, dict(settings=settings, splits=list(splits))).write(splits, settings=settings, shard_bytes=shard_bytes)


class Build:
    """A data set under way, in the sibling `.<name>.partial` of its directory; one process builds it at a time.

    What an interrupted build of the same `identity` left is kept, what another one left is removed.

    Attributes:
      scratch: a folder for work that is to be found again after an interruption. It goes with the build.
    """

    def __init__(self, directory: str | os.PathLike, identity: dict):
        self._directory = Path(directory).absolute()
        self._partial = self._directory.parent / f".{self._directory.name}.partial"
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

    def write(self, splits: dict[str, Iterable[Clip | dict]], *, settings: dict, shard_bytes: int | None = None) -> None:
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
        """
        try:
            check_free(self._directory)
            _check_splits(splits)
            counts, shape = _write_splits(self._partial, splits, shard_bytes or SHARD_BYTES)
            content = {"settings": settings, "splits": counts, "shape": list(shape)}
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (self._partial / MANIFEST).write_text(text + "\n", "utf-8")
            shutil.rmtree(self.scratch)
            (self._partial / IDENTITY).unlink()
            self._partial.replace(self._directory)
        except ValueError:
            self.remove()
            raise

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
    directory: Path, splits: dict[str, Iterable[Clip | dict]], shard_bytes: int
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Writes shards and tfds metadata; returns clips per split and the shape of a clip."""
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
        columns = columns or _Columns.of(first)
        finished[name] = shards = _write_shards(directory, name, first, rest, columns, shard_bytes)
        infos.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[count for count, _ in shards],
                num_bytes=sum(size for _, size in shards),
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
    return {info.name: info.num_examples for info in infos}, columns.shape


def _opened(clips: Iterable) -> tuple[Any, Callable[[int], Iterator]]:
    """The first clip (None if there is none), and `start -> clips from start on`, for one call, start >= 1."""
    if isinstance(clips, Sequence):
        return (clips[0] if len(clips) else None), lambda start: (clips[i] for i in range(start, len(clips)))
    clips = iter(clips)
    return next(clips, None), lambda start: islice(clips, start - 1, None)


@dataclass(frozen=True)
class _Columns:
    """What every clip has: the tfds features, and shape and type of each array."""

    features: tfds.features.FeaturesDict
    arrays: dict[str, tuple]

    @property
    def shape(self) -> tuple:
        """Of the video, or of the first array where there is none."""
        return self.arrays.get("video", next(iter(self.arrays.values())))[0]

    @classmethod
    def of(cls, clip: Clip | dict) -> "_Columns":
        features, arrays = {}, {}
        for name, value in _as_dict(clip).items():
            if isinstance(value, str):
                features[name] = tfds.features.Text()
            elif np.ndim(value) == 0:
                features[name] = tfds.features.Scalar(np.float32)
            else:
                value = np.asarray(value)
                if name == "video" and (value.ndim != 4 or value.shape[-1] != 3):
                    raise ValueError(f"a clip has shape (frames, height, width, 3), not {value.shape}")
                arrays[name] = value.shape, np.dtype(np.uint8) if name == "video" else value.dtype
                features[name] = tfds.features.Tensor(
                    shape=value.shape, dtype=arrays[name][1], encoding=tfds.features.Encoding.BYTES
                )
        return cls(tfds.features.FeaturesDict(features), arrays)

    def serialize(self, clip: Clip | dict, split: str, index: int) -> bytes:
        clip = _as_dict(clip)
        for name, (shape, dtype) in self.arrays.items():
            got = np.shape(clip[name]), np.asarray(clip[name]).dtype
            if got != (shape, dtype):
                raise ValueError(
                    f"all clips have one shape, {shape} {dtype} as the first one; clip {index} of split "
                    f"{split!r} ({clip.get('source') or 'no source'}) is {got[0]} {got[1]}: "
                    "resize and cut the clips before writing"
                )
        return _in_order(self.features.serialize_example(clip | {name: np.asarray(clip[name]) for name in self.arrays}))


def _in_order(example: bytes) -> bytes:
    """A serialized `tf.train.Example` with its columns sorted: the order of a protobuf map changes from run to run.

    Example = field 1 of type Features, Features = a field 1 for each column, both with their length before them.
    """
    (features,) = _fields(example)
    return _field(b"".join(_field(column) for column in sorted(_fields(features))))


def _fields(message: bytes) -> list[bytes]:
    contents, at = [], 0
    while at < len(message):
        if message[at] != 0x0A:  # field 1, with a length
            raise ValueError(f"not a tf.train.Example: byte {at} is {message[at]:#x}")
        length, at, shift = 0, at + 1, 0
        while True:
            byte = message[at]
            length, at, shift = length | (byte & 0x7F) << shift, at + 1, shift + 7
            if byte < 0x80:
                break
        contents.append(message[at : at + length])
        at += length
    return contents


def _field(content: bytes) -> bytes:
    length, left = bytearray(), len(content)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return b"\x0a" + bytes(length) + bytes([left]) + content


def _as_dict(clip: Clip | dict) -> dict:
    return clip if isinstance(clip, dict) else dict(vars(clip))


def _write_shards(directory: Path, split: str, first, rest: Callable, columns: _Columns, shard_bytes: int) -> list[tuple[int, int]]:
    """Writes the clips in order, shard after shard; returns examples and bytes of each shard.

    A shard is complete once it is noted as done; those of an interrupted build are kept.
    """
    done = lambda number: _done(directory, split, number)
    shards = []
    while done(len(shards)).is_file():
        shards.append(tuple(json.loads(done(len(shards)).read_text("utf-8"))))
    index = sum(count for count, _ in shards)
    clips = rest(max(index, 1))
    clip = first if index == 0 else next(clips, None)
    while clip is not None:
        count, size = 0, 0
        writer = ArrayRecordWriter(str(directory / f"{split}-{len(shards)}"), "group_size:1")
        try:
            while clip is not None and size < shard_bytes:
                example = columns.serialize(clip, split, index)
                writer.write(example)
                count, size, index = count + 1, size + len(example), index + 1
                clip = next(clips, None)
        finally:
            writer.close()
        write_text(done(len(shards)), json.dumps([count, size]))
        shards.append((count, size))
    return shards


def _done(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-{number}.json"
