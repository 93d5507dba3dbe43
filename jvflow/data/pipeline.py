"""From `config.data` to batches: grain over ArrayRecord clips, random access from end to end.

The batch of step k is a function of (data, seed, k) alone: shuffling and random crops happen before
the rows are dealt out to processes, so neither a restart nor another number of processes changes it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jvflow.data import folder, key, procedural, records
from jvflow.data.files import check_room

PROCEDURAL = "procedural:"
TEST_SEEDS = 1_000_000  # scene seeds of the test split start here
KEPT = 512 * 2**20
"""Bytes of decoded clips that are kept in memory, at most: a data set that fits is decoded once."""

ENDLESS = 2**52
"""Examples of a data set that is repeated for ever: grain counts batches in floats."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Clips as they enter a compiled step.

    Attributes:
      video: uint8 (b, f, h, w, 3), None where latents stand for it.
      fps: frames per second of each clip (b,).
      start: seconds into its source (b,).
      latent_mean, latent_std: of a data set with latents, (b, f, h, w, c); std where the codec has one.
      inverted, inverted_error: the window's second chunk inverted to noise, (b, f / 2, h, w, c), and its error (b,);
        of a data set with inversions (`jvflow.flowframes.inversion`), where the window asks for them.
      text_tokens, text_mask: of the captions, as a text encoder's `tokenize` returns them, where one was given.
      text_embedding: in place of the tokens, of a data set that has them (b, m, d).
    """

    video: Array | None
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
    """Which frames of a clip are trained on: `frames` of them, every `every`-th, from a random one on, or from the first.

    With `chunk` frames in a chunk the window starts at one of the clip's chunks; `encoded` latent frames stand for each where a codec takes
    chunks as one (0: one for each frame). With `inverted` its second chunk comes with its inversion.
    """

    frames: int
    every: int = 1
    anywhere: bool = True
    chunk: int = 0
    encoded: int = 0
    inverted: bool = False

    def __post_init__(self):
        if self.frames < 1 or self.every < 1:
            raise ValueError(f"a window needs at least 1 frame, and every 1st of them or fewer, got frames {self.frames}, every {self.every}")
        if self.inverted and (self.frames, self.every) != (2 * self.chunk, 1):
            raise ValueError(f"a window with inversions has two chunks of {self.chunk} frames one after the other, got frames {self.frames}, every {self.every}")
        if self.encoded and (self.frames % max(self.chunk, 1) or self.every > 1):
            raise ValueError(f"a window of encoded chunks has whole ones of {self.chunk} frames, got frames {self.frames}, every {self.every}")

    @property
    def span(self) -> int:
        """Frames of the clip from the first of the window to the last."""
        return (self.frames - 1) * self.every + 1


def prepare(data, workdir, frames: int = 1) -> Path:
    """The data set that `config.data` means, built on first use. Its clips must have `frames` frames.

    `data.path` is a folder of videos, a data set that was built before, or `procedural:KIND`. What
    is built lies in `data.cache` (`WORKDIR/data` when empty) under a name with the key of everything that
    decides its content: a file that changed is another key, one that moved is not.
    """
    if data.frames < frames:
        raise ValueError(f"config.data.frames is {data.frames}, this experiment needs {frames} of each clip")
    directory = _prepared(data, workdir)
    have = records.manifest(directory)["shape"][0]
    if have < frames:
        raise ValueError(f"the clips in {directory} have {have} frames, this experiment needs {frames}: build them with config.data.frames={frames} or more")
    return directory


def _prepared(data, workdir) -> Path:
    decisive = settings(data, workdir)
    directory = place(data, workdir, decisive)
    if records.is_dataset(directory):
        return directory
    if data.path.startswith(PROCEDURAL):
        check_room(directory, expected(data) * data.frames * math.prod(data.size) * 3 - records.written(directory), f"{expected(data)} clips")
        splits = {split: _render(decisive["kind"], split, decisive) for split in ("train", "test")}
        records.write(directory, splits, settings=decisive)
    else:
        folder.build(data.path, directory, **_splitting(data), **_cutting(data), hashes=_hashes(data, workdir))
    return directory


def settings(data, workdir) -> dict:
    """What decides the clips of the data set that `config.data` means, whether it is built or not (`jvflow.data.key`)."""
    if not data.path:
        raise ValueError("config.data.path is empty: give a folder of videos, a built data set, or procedural:comets")
    if data.path.startswith(PROCEDURAL):
        kind = data.path.removeprefix(PROCEDURAL)
        procedural.scene(kind, 0)  # an unknown kind is said before anything is written
        return dict(kind=kind, clips=dict(data.clips), seed=data.seed, frames=data.frames, fps=data.fps, size=list(data.size))
    if is_built(data.path):
        _check(data)
        return records.manifest(data.path)["settings"]
    return folder.settings(data.path, **_splitting(data), **_cutting(data), hashes=_hashes(data, workdir))


def is_built(path: str) -> bool:
    """Whether `config.data.path` is a data set that is there already."""
    return not path.startswith(PROCEDURAL) and records.is_dataset(path)


def place(data, workdir, decisive: dict) -> Path:
    """Where the data set with these `settings` lies."""
    if is_built(data.path):
        return Path(data.path)
    return _cache(data, workdir) / f"{Path(data.path.removeprefix(PROCEDURAL)).name}-{key.of(decisive)}"


def expected(data) -> int:
    """How many clips the data set has, at most, where it is still to be built: see `folder.expected`."""
    if data.path.startswith(PROCEDURAL):
        return data.clips.train + data.clips.test
    if is_built(data.path):
        return sum(records.manifest(data.path)["splits"].values())
    return folder.expected(data.path, **_cutting(data))


def _cutting(data) -> dict:
    return dict(frames=data.frames, fps=data.fps, size=tuple(data.size), fit=data.fit, stride=data.stride, image_fps=data.image_fps)


def _splitting(data) -> dict:
    return dict(captions=data.captions, test_fraction=data.test_fraction, seed=data.seed)


def _cache(data, workdir) -> Path:
    return Path(data.cache or Path(workdir) / "data")


def _hashes(data, workdir) -> key.Hashes:
    return key.Hashes(_cache(data, workdir) / "sha256.jsonl")


def _check(data) -> None:
    """Raises a ValueError when the data set at `data.path` is not of the size, rate and fit that the config says, or its latents not of the type."""
    manifest = records.manifest(data.path)
    made = manifest["settings"].get("of", manifest["settings"])
    there = dict(size=tuple(manifest["shape"][1:3]), fps=made.get("fps", data.fps), fit=made.get("fit", data.fit))
    if "of" in manifest["settings"]:
        there["dtype"] = manifest["settings"].get("dtype", "float32")
    here = {name: tuple(data[name]) if name == "size" else data[name] for name in there}
    differing = [name for name in there if there[name] != here[name]]
    if differing:
        said = "; ".join(f"{name} {there[name]}, and config.data.{name} is {here[name]}" for name in differing)
        cure = " ".join(f'--config.data.{name}="{there[name]}"' for name in differing)
        raise ValueError(f"the clips in {data.path} have {said}: use {cure}, or make them anew")


def _render(kind, split, settings) -> records.Lazy:
    first = settings["seed"] * 2 * TEST_SEEDS + (TEST_SEEDS if split == "test" else 0)
    times = np.arange(settings["frames"]) / settings["fps"]

    def make(i: int) -> records.Clip:
        scene = procedural.scene(kind, first + i)
        video = scene.render(times, tuple(settings["size"]))
        return records.Clip(video, settings["fps"], 0.0, scene.caption, f"{PROCEDURAL}{kind}:{first + i}")

    return records.Lazy(settings["clips"][split], make)


@dataclass(frozen=True)
class _Crop:
    """A window of a clip, of its latents where they are wanted, with its embedded caption, or the tokens of it where there is a tokenizer."""

    window: Window
    latents: bool
    tokenize: Callable | None
    embedded: bool = False

    def __call__(self, clip: dict, rng: np.random.Generator) -> Batch:
        span, chunk, encoded = self.window.span, self.window.chunk, self.window.encoded
        step = chunk or 1
        number = int(rng.integers((len(clip["video"]) - span) // step + 1)) if self.window.anywhere else 0
        first, each = step * number, encoded or chunk
        window = slice(first, first + span, self.window.every)
        mean, std = latent_columns(chunk if encoded else 0)
        column = inverted_column(chunk)
        part = slice(each * number, each * number + each * self.window.frames // chunk) if encoded else window
        tokens, mask = (a[0] for a in self.tokenize([clip["caption"]])) if self.tokenize and not self.embedded else (None, None)
        return Batch(
            video=None if self.latents else clip["video"][window],
            fps=np.float32(clip["fps"] / self.window.every),
            start=np.float32(clip["start"] + first / clip["fps"]),
            latent_mean=clip[mean][part] if self.latents else None,
            latent_std=clip[std][part] if self.latents and std in clip else None,
            inverted=clip[column][each * (number + 1) : each * (number + 2)] if self.window.inverted else None,
            inverted_error=np.float32(clip[f"{column}_error"][number + 1]) if self.window.inverted else None,
            text_tokens=tokens,
            text_mask=clip["text_mask"] if self.embedded else mask,
            text_embedding=clip["text_embedding"] if self.embedded else None,
        )


def latent_columns(chunk: int = 0) -> tuple[str, str]:
    """The columns that hold mean and standard deviation of a clip's latents; of its chunks of so many frames, where a codec takes each as one."""
    return (f"latent_mean_{chunk}", f"latent_std_{chunk}") if chunk else ("latent_mean", "latent_std")


def inverted_column(chunk: int) -> str:
    """The column that holds the inversions of a clip's chunks of so many frames; its errors, one for each chunk, are in NAME_error."""
    return f"inverted_{chunk}"


class _Kept:
    """A source that keeps what it has read, where all of it takes `most` bytes or less."""

    def __init__(self, source, most: int):
        each = sum(np.asarray(value).nbytes for value in source[0].values())
        self._source, self._read = source, {} if each * len(source) <= most else None

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        if self._read is None:
            return self._source[index]
        if index not in self._read:
            self._read[index] = self._source[index]
        return self._read[index]


class _Rows:
    """Some rows of every global batch, in order. Each batch is from one of the examples, of one window each."""

    def __init__(self, examples: list, seed: int, batch_size: int, rows: Sequence[int]):
        self._examples, self._seed, self._batch_size, self._rows = examples, seed, batch_size, rows

    def __len__(self) -> int:
        return min(len(self._examples[0]), ENDLESS) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int):
        batch, row = divmod(index, len(self._rows))
        some = len(self._examples)
        which = int(np.random.default_rng((self._seed, batch)).integers(some)) if some > 1 else 0
        return self._examples[which][batch * self._batch_size + self._rows[row]]


def batches(
    directory, *, windows: Sequence[Window], batch_size: int, seed: int, threads: int = 1, step: int = 0,
    rows: Sequence[int] | None = None, latents: bool = False, tokenize: Callable | None = None, embedded: bool = False, split: str = "train",
) -> Iterator[Batch]:
    """Endless batches of a split, or some rows of each, from step `step` on.

    Args:
      directory: a data set of `records`.
      windows: what is cut from each clip; of several, each batch takes one at random.
      batch_size: of the global batch.
      seed: of order and windows.
      threads: that read ahead; 0 reads when asked.
      step: the data position, batches that were already used.
      rows: of the global batch, those that this process needs; all when None.
      latents: read the latents of the data set (`jvflow.data.latents`) and not its video.
      tokenize: of a text encoder, for the captions.
      embedded: take the embedded captions of the data set (`jvflow.data.latents`) and not their tokens.
    """
    clips = records.open(directory, split)
    have, need = clips[0]["video"].shape[0], max(window.span for window in windows)
    if have < need:
        raise ValueError(f"clips have {have} frames, training needs {need}: build them with data.frames >= {need}")
    shuffled = grain.MapDataset.source(_Kept(clips, KEPT)).seed(seed).shuffle().repeat()
    examples = [shuffled.random_map(_Crop(window, latents, tokenize, embedded)) for window in windows]
    rows = range(batch_size) if rows is None else rows
    dealt = grain.MapDataset.source(_Rows(examples, seed, batch_size, rows))
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * len(rows) if threads else 0)
    iterator = iter(dealt.batch(len(rows)).to_iter_dataset(read))
    iterator.set_state({"next_index": step})
    return iterator


def clips(directory, split: str, *, count: int | None = None, frames: int | None = None) -> np.ndarray:
    """The first `count` clips of a split (all when None) as uint8 (n, f, h, w, 3), cut to `frames`."""
    source = records.open(directory, split)
    count = len(source) if count is None else min(count, len(source))
    return np.stack([source[i]["video"][:frames] for i in range(count)])


def captions(directory, split: str, *, count: int | None = None) -> list[str]:
    """The captions of the first `count` clips of a split, of all when None."""
    source = records.open(directory, split)
    return [source[i]["caption"] for i in range(len(source) if count is None else min(count, len(source)))]
