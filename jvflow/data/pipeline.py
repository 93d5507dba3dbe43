"""Reads training batches, held-out clips and the frames that samples start from, from a data set on disk.

    ArrayRecord files -> `Source` -> shuffled clips -> `_crop` -> rows of this process -> `Batch`

The batch of step k depends only on (data, seed, k): clips are shuffled and cropped before their rows are divided
among the processes, so neither a restart nor another number of processes changes it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Array, Bool, Float, Int, UInt8

from jvflow.data import records, video
from jvflow.data.columns import inverted_column, latent_columns

Videos = UInt8[np.ndarray, "b f h w 3"]
COUNT = 4  # samples, where nobody asks for a number
HALF_DTYPES = ("float16", "bfloat16")  # stored arrays of these types are read as float32
MEMORY_CACHE_BYTES = 512 * 2**20  # a data set of at most this size stays in memory once it is decoded
warn_once = cache(logging.getLogger(__name__).warning)


class Batch(NamedTuple):
    """Clips as they enter a compiled step.

    Attributes:
      video: uint8 (b, f, h, w, 3); None where latents replace it.
      fps: frames per second of each window (b,).
      start: seconds into its source (b,).
      latent_mean, latent_std: latents of a data set that has them, (b, f, h, w, c); std where the codec has one.
      inverted, inverted_error: the window's second chunk inverted to noise, (b, f / 2, h, w, c), and its error (b,);
        from a data set with inversions (`jvflow.flowframes.inversion`), where the window asks for them.
      text_tokens, text_mask: the captions, as a text encoder's `tokenize` returns them, if `batches` is given it.
      text_embedding: replaces the tokens where the data set has embeddings, (b, m, d).
    """

    video: UInt8[Array, "b f h w 3"] | None
    fps: Float[Array, "b"]
    start: Float[Array, "b"]
    latent_mean: Float[Array, "b f h w c"] | None = None
    latent_std: Float[Array, "b f h w c"] | None = None
    inverted: Float[Array, "b n h w c"] | None = None
    inverted_error: Float[Array, "b"] | None = None
    text_tokens: Int[Array, "b n"] | None = None
    text_mask: Bool[Array, "b m"] | None = None
    text_embedding: Float[Array, "b m d"] | None = None


@dataclass(frozen=True)
class Window:
    """The frames of a clip that make a training example.

    Attributes:
      frames: number of frames.
      every: step between these frames: 2 takes every other frame.
      anywhere: whether the window starts at a random frame, or at the clip's first.
      chunk: frames of a chunk; the window then starts with one of the clip's chunks. 0 for no chunks.
      encoded: latent frames of a chunk, where the codec encodes a chunk as a whole; 0 where it encodes each frame.
      inverted: whether the second of two chunks comes with its inversion.
    """

    frames: int
    every: int = 1
    anywhere: bool = True
    chunk: int = 0
    encoded: int = 0
    inverted: bool = False

    def __post_init__(self):
        given = f"got frames {self.frames}, every {self.every}"
        if self.frames < 1 or self.every < 1:
            raise ValueError(f"a window needs at least 1 frame, and a step of at least 1, {given}")
        if self.inverted and (self.frames, self.every) != (2 * self.chunk, 1):
            chunks = f"two consecutive chunks of {self.chunk} frames"
            raise ValueError(f"a window with inversions has {chunks}, {given}")
        if self.encoded and (self.frames % max(self.chunk, 1) or self.every > 1):
            raise ValueError(f"a window of encoded chunks needs whole chunks of {self.chunk} frames, {given}")

    @property
    def span(self) -> int:
        """Frames of the clip from the window's first frame to its last."""
        return (self.frames - 1) * self.every + 1


class Source:
    """Random access to the clips of one split, for `grain.MapDataset.source`: thread safe and picklable.

    `video=False` leaves out the video where it has records of its own, see `jvflow.data.latents`.
    """

    def __init__(self, directory: Path, split: str, video: bool = True):
        self._arguments = directory, split, video
        self._records = tfds.builder_from_directory(directory).as_data_source(split)
        apart = video and (directory / records.VIDEO).is_dir()
        self._video = records.open_video(directory, split, len(self._records)) if apart else None

    def __reduce__(self):
        return Source, self._arguments

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict:
        """Returns a clip's columns: arrays as stored (`HALF_DTYPES` as float32), numbers as float32, strings as str."""
        place = range(len(self))[index]
        record = self._records[place]
        if self._video is not None:
            record |= dict(video=self._video[place]["video"])
        return {name: _decode(value) for name, value in record.items()}


def _decode(value):
    if isinstance(value, bytes):
        return value.decode()
    if not np.ndim(value):
        return np.float32(value)
    return value.astype(np.float32) if value.dtype.name in HALF_DTYPES else value


def open_split(directory, split: str, *, video: bool = True) -> Source:
    """Opens one split of a data set, see `Source`; raises ValueError if there is no data set, or no such split."""
    if not (Path(directory) / "dataset_info.json").is_file():
        raise ValueError(f"{directory} is not a data set: it has no dataset_info.json; `jvflow encode` makes one")
    splits = list(tfds.builder_from_directory(directory).info.splits)
    if split not in splits:
        raise ValueError(f"{directory} has no split {split!r}; available: {', '.join(splits)}")
    return Source(Path(directory), split, video)


def held_out(directory, prefer: str = "test") -> str:
    """Returns the split to sample and evaluate from: `prefer`, else a held-out one, else "train" with a warning."""
    have = tfds.builder_from_directory(directory).info.splits
    if not (found := [name for name in (prefer, "test", "val") if name in have]):
        warn_once("warning: %s has no held-out clips: clips of training take their place", directory)
    return [*found, "train"][0]


def _crop(window: Window, have: int, latents, tokenize, embedded, clip: dict, rng: np.random.Generator) -> dict:
    """Cuts one row of a batch out of a clip of `have` frames. Other arguments as for `batches`."""
    chunk, step, chunk_latents = window.chunk, window.chunk or 1, window.encoded or window.chunk
    places = (have - window.span) // step + 1
    place = int(rng.integers(places)) if window.anywhere else 0  # counts chunks, or frames where there are no chunks
    first = step * place
    frames = np.arange(first, first + window.span, window.every)  # copies: a slice would keep the whole clip in memory
    row = dict(
        video=None if latents else clip["video"][frames],
        fps=np.float32(clip["fps"] / window.every),
        start=np.float32(clip["start"] + first / clip["fps"]),
    )
    if latents:
        mean, std = latent_columns(chunk if window.encoded else 0)
        if window.encoded:
            frames = np.arange(chunk_latents * place, chunk_latents * (place + window.frames // chunk))
        row |= dict(latent_mean=clip[mean][frames], latent_std=clip[std][frames] if std in clip else None)
    if window.inverted:
        column = inverted_column(chunk)
        second = np.arange(chunk_latents * (place + 1), chunk_latents * (place + 2))
        row |= dict(inverted=clip[column][second], inverted_error=np.float32(clip[f"{column}_error"][place + 1]))
    if embedded:
        row |= dict(text_embedding=clip["text_embedding"], text_mask=clip["text_mask"])
    elif tokenize:
        tokens, mask = tokenize([clip["caption"]])
        row |= dict(text_tokens=tokens[0], text_mask=mask[0])
    return row


class _BatchRows:
    """Some rows of every global batch, in order. All rows of a batch are examples of one window, drawn at random."""

    def __init__(self, examples: list, seed: int, batch_size: int, rows: Sequence[int]):
        self._examples, self._seed, self._batch_size, self._rows = examples, seed, batch_size, rows

    def __len__(self) -> int:
        return len(self._examples[0]) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> dict:
        batch, row = divmod(index, len(self._rows))
        windows = len(self._examples)
        drawn = int(np.random.default_rng((self._seed, batch)).integers(windows)) if windows > 1 else 0
        return self._examples[drawn][batch * self._batch_size + self._rows[row]]


def batches(
    directory,
    *,
    windows: Sequence[Window],
    batch_size: int,
    seed: int,
    threads: int = 1,
    step: int = 0,
    rows: Sequence[int] | None = None,
    latents: bool = False,
    tokenize: Callable | None = None,
    embedded: bool = False,
    split: str = "train",
) -> Iterator[Batch]:
    """Yields the batches of a split endlessly, as NumPy arrays, from step `step` on. Reads at most two batches ahead.

    Args:
      directory: a data set (`jvflow.data.records`).
      windows: the frames to cut out of each clip; each batch draws one window.
      batch_size: rows of the global batch.
      seed: determines order and windows.
      threads: number of threads that read rows ahead; 0 reads on demand.
      step: number of batches that were used before.
      rows: the rows of the global batch that this process needs; all when None.
      latents: read the stored latents (`jvflow.data.latents`) instead of the video.
      tokenize: a text encoder's `tokenize`, for the captions.
      embedded: read the stored embeddings of the captions instead of tokenizing.
    """
    source = open_split(directory, split, video=not latents)
    first, need = source[0], max(window.span for window in windows)
    have = len(first["video"]) if "video" in first else records.manifest(directory)["shape"][0]
    clip_bytes = sum(np.asarray(value).nbytes for value in first.values())
    if have < need:
        raise ValueError(f"clips have {have} frames, training needs {need}: build them with data.frames >= {need}")
    read_clip = cache(source.__getitem__) if clip_bytes * len(source) <= MEMORY_CACHE_BYTES else source.__getitem__
    shuffled = grain.MapDataset.range(len(source)).map(read_clip).seed(seed).shuffle().repeat()
    examples = [shuffled.random_map(partial(_crop, window, have, latents, tokenize, embedded)) for window in windows]
    rows = range(batch_size) if rows is None else rows
    local_rows = grain.MapDataset.source(_BatchRows(examples, seed, batch_size, rows))
    ahead = 2 * len(rows) if threads else 0  # grain buffers what comes before `to_iter_dataset`: rows, not batches
    options = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
    iterator = iter(local_rows.to_iter_dataset(options).batch(len(rows)).map(lambda columns: Batch(**columns)))
    iterator.set_state({"next_index": step * len(rows)})
    return iterator


def clips(directory, split: str, *, count: int | None = None, frames: int | None = None) -> Videos:
    """Returns the first `frames` frames of the first `count` clips of a split; None for all."""
    return np.stack([clip["video"][:frames] for clip in islice(open_split(directory, split), count)])


def captions(directory, split: str, *, count: int | None = None) -> list[str]:
    """Returns the captions of the first `count` clips of a split; None for all."""
    return [clip["caption"] for clip in islice(open_split(directory, split, video=False), count)]


def start_frames(data, dataset: Callable[[], Path], count: int | None, need: int, path=None) -> Videos:
    """Returns the `need` frames that each of `count` samples starts from; None for `COUNT` of them, or all there are.

    Args:
      data, path: `config.data`; an image, video or folder of images to start all samples from (`video.first_frames`).
      dataset: returns the folder of the data set, whose clips `held_out` chooses when `path` is None.

    Raises ValueError if there are fewer held-out clips than `count`, or too few frames at `path`.
    """
    if path is not None:
        return np.repeat(video.first_frames(path, need, data)[None], count or COUNT, axis=0)
    directory = dataset()
    found = clips(directory, held_out(directory), count=count or COUNT, frames=need)
    if (have := len(found)) < (count or 0):
        raise ValueError(f"{count} streams need as many held-out clips, there are {have}: use --count={have}")
    if have < (count or COUNT):
        warn_once("warning: %d samples, not %d: there are no more held-out clips", have, COUNT)
    return found
