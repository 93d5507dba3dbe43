"""Clips on disk: a tfds data set in ArrayRecord files, with a manifest that says how it was made.

    directory/
      clips-train.array_record-00000-of-00002, ...    one `tf.train.Example` for each clip
      dataset_info.json, features.json                what `tfds.builder_from_directory` reads
      manifest.json                                   settings, clips per split, shape of a clip

`write` streams: it holds one clip, whatever the size of a split. (tfds' own generator builder keeps
up to 1 GB, and an unshuffled split beyond that whole, so its public parts are used instead.)
Reading order is writing order. TensorFlow and the network are never touched.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import UInt8

MANIFEST = "manifest.json"
NAME = "clips"
SHARD_BYTES = 256 * 2**20
"""A shard is closed by the clip that takes it to this size."""


@dataclass(frozen=True)
class Clip:
    """A clip and where it comes from; `start` is in seconds into the source."""

    video: UInt8[np.ndarray, "f h w 3"]
    fps: float
    start: float
    caption: str = ""
    source: str = ""


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
        """Returns video (f, h, w, 3) uint8, fps and start as float32, caption and source as str."""
        record = self._records[range(len(self))[index]]
        return {
            "video": record["video"],
            "fps": np.float32(record["fps"]),
            "start": np.float32(record["start"]),
            "caption": record["caption"].decode(),
            "source": record["source"].decode(),
        }


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


def write(
    directory: str | os.PathLike, splits: dict[str, Iterable[Clip]], *, settings: dict
) -> None:
    """Writes every split and renames the result to `directory`, which must not hold a data set.

    Until then everything lies in the sibling `.<name>.partial`, which an interrupted build leaves
    behind and the next one removes; so one process builds a directory at a time. The splits are
    consumed one after the other, in the given order. Splits without clips are left out; `train`
    must have some. `settings` must fit JSON.
    """
    directory = Path(directory).absolute()
    check_free(directory)
    if "train" not in splits:
        raise ValueError(f"a data set needs a split 'train'; got: {', '.join(splits) or 'none'}")
    for name in splits:
        if not (name.isascii() and name.isalnum()):
            raise ValueError(f"split {name!r} must consist of letters and digits: it names files")
    try:
        json.dumps(settings)
    except TypeError as error:
        raise ValueError(f"settings must fit JSON: {error}") from error
    partial = directory.parent / f".{directory.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        counts, shape = _write_splits(partial, splits)
        content = {"settings": settings, "splits": counts, "shape": list(shape)}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (partial / MANIFEST).write_text(text + "\n", "utf-8")
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_splits(
    directory: Path, splits: dict[str, Iterable[Clip]]
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Writes shards and tfds metadata; returns clips per split and the shape of a clip."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=NAME, filetype_suffix="array_record"
    )
    infos, features, shape = [], None, None
    for name, clips in splits.items():
        clips = iter(clips)
        first = next(clips, None)
        if first is None and name == "train":
            raise ValueError("split 'train' is empty: a data set needs at least one clip there")
        if first is None:
            continue
        if features is None:
            shape = np.shape(first.video)
            if len(shape) != 4 or shape[-1] != 3:
                raise ValueError(f"a clip has shape (frames, height, width, 3), not {shape}")
            features = _features(shape)
        examples = _examples(chain([first], clips), features, shape, name)
        lengths, size = _write_shards(directory, name, examples)
        infos.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=lengths,
                num_bytes=size,
                filename_template=template.replace(split=name),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description="Video clips, written by jvflow.data.records",
        disable_shuffling=True,
    )
    return {info.name: info.num_examples for info in infos}, shape


def _features(shape: tuple[int, ...]) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
        {
            "video": tfds.features.Tensor(
                shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
            ),
            "fps": tfds.features.Scalar(np.float32),
            "start": tfds.features.Scalar(np.float32),
            "caption": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
    )


def _examples(
    clips: Iterable[Clip], features: tfds.features.FeaturesDict, shape: tuple[int, ...], split: str
) -> Iterator[bytes]:
    for index, clip in enumerate(clips):
        got = np.shape(clip.video), np.asarray(clip.video).dtype
        if got != (shape, np.uint8):
            raise ValueError(
                f"all clips have one shape, {shape} uint8 as the first one; clip {index} of split "
                f"{split!r} ({clip.source or 'no source'}) is {got[0]} {got[1]}: "
                "resize and cut the clips before writing"
            )
        yield features.serialize_example(dict(vars(clip), video=np.asarray(clip.video)))


def _write_shards(directory: Path, split: str, examples: Iterator[bytes]) -> tuple[list[int], int]:
    """Writes the examples in order; returns examples per shard, and bytes in all."""
    lengths, total = [], 0
    example = next(examples, None)
    while example is not None:
        writer = ArrayRecordWriter(str(directory / f"{split}-{len(lengths)}"), "group_size:1")
        try:
            count, size = 0, 0
            while example is not None and size < SHARD_BYTES:
                writer.write(example)
                count, size = count + 1, size + len(example)
                example = next(examples, None)
        finally:
            writer.close()
        lengths, total = lengths + [count], total + size
    for i in range(len(lengths)):
        name = f"{NAME}-{split}.array_record-{i:05d}-of-{len(lengths):05d}"
        (directory / f"{split}-{i}").rename(directory / name)
    return lengths, total
