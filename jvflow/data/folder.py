"""A folder of video files as clips, and as a data set with a train and a test split.

Each file is decoded, brought to a constant rate, resized, and cut: clip c of a shot is its frames
[c stride, c stride + frames), so that no clip crosses a scene cut (`jvflow.data.cuts`). What is
left at the end of a shot is dropped and counted.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from jvflow.data import cuts, records, video
from jvflow.data.records import Clip

VERSION = 2
"""Raised when the same files and settings give other clips than before."""
SUFFIXES = (".mp4", ".webm", ".mkv", ".gif", ".mov", ".avi")


def files(folder: str | os.PathLike) -> list[Path]:
    """Returns the video files below `folder`, sorted; hidden ones are left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    inside = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    visible = [
        path
        for path in inside
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    if not visible:
        names = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise ValueError(f"no video files ({names}) in {folder}")
    return sorted(visible, key=lambda path: path.relative_to(folder).as_posix())


def clips(
    folder: str | os.PathLike,
    *,
    frames: int,
    fps: float,
    size: tuple[int, int],
    fit: str = "crop",
    stride: int | None = None,
    report: Callable[[dict], None] | None = None,
) -> Iterator[Clip]:
    """Cuts the videos of a folder into clips of `frames` frames, file after file in sorted order.

    A caption is read from `name.txt` beside `name.mp4`. A file that does not decode is skipped;
    one that breaks later keeps the clips before the break.

    Args:
      folder: searched recursively, see `files`.
      frames: frames in a clip.
      fps: frames per second in a clip; `video.frames` says how a source is resampled.
      size: (height, width).
      fit: "crop" or "squeeze", see `video.resize`.
      stride: frames from one clip's first to the next one's; `frames` by default: no overlap.
      report: called after each file with a dict: file, bytes, frames (after resampling), shots,
        clips, dropped (frames in no clip), error (None, or why decoding stopped).
    """
    stride = frames if stride is None else stride
    _check(frames, fps, stride, size, fit)
    found = files(folder)
    items = (item for path in found for item in _of_file(Path(folder), path, frames, fps, size, fit, stride))
    return _clips(items, report or (lambda entry: None))


def _clips(items, report) -> Iterator[Clip]:
    for item in items:
        if isinstance(item, dict):
            report(item)
        else:
            yield item


def _check(frames, fps, stride, size, fit) -> None:
    if frames < 1 or stride < 1:
        raise ValueError(f"frames and stride must be at least 1, not {frames} and {stride}")
    video.rate(fps)  # a wrong one raises here, and so does a wrong size or fit
    video.resize(np.zeros((1, 1, 3), np.uint8), size, fit)


def _of_file(folder, path, frames, fps, size, fit, stride) -> Iterator[Clip | dict]:
    """The clips of one file, and last its report."""
    name = path.relative_to(folder).as_posix()
    entry = dict(file=name, bytes=path.stat().st_size, frames=0, shots=0, clips=0, dropped=0, error=None)
    try:
        yield from _cut(path, entry, frames, fps, size, fit, stride)
    except ValueError as reason:
        entry["error"] = str(reason)
    yield entry


def _cut(path, entry, frames, fps, size, fit, stride) -> Iterator[Clip]:
    """The clips of one file; `entry` counts along."""
    caption = _caption(path)
    current, length = None, 0  # the shot, and how many frames of it were read
    window = deque(maxlen=frames)
    for number, (shot, frame) in enumerate(cuts.shots(path, fps)):
        entry["frames"] += 1
        entry["dropped"] += 1
        length = length + 1 if shot == current else 1
        current = shot
        if shot is None:
            continue
        entry["shots"] = shot + 1
        window.append(video.resize(frame, size, fit))
        if length >= frames and (length - frames) % stride == 0:
            yield Clip(np.stack(window), fps, (number + 1 - frames) / fps, caption, entry["file"])
            entry["clips"] += 1
            entry["dropped"] -= frames if length == frames else min(stride, frames)


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    try:
        return text.read_text("utf-8").strip() if text.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not UTF-8: {error}; save it as UTF-8") from error


def build(
    folder: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    frames: int,
    fps: float,
    size: tuple[int, int],
    fit: str = "crop",
    stride: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    log: Callable[[str], None] = logging.info,
) -> dict:
    """Builds a data set in `directory` from the videos of a folder; returns its manifest.

    The clips whose hash of (seed, file, start) is smallest are the test split: `test_fraction` of
    them rounded, at least one, and at least one is left to train; a single clip trains. Clips are
    drawn one by one, so both splits may show one file, and with `stride < frames` share frames.

    Decoded clips wait beside `directory`, not in memory: the disk must hold them twice. A build that was interrupted continues after the last file it decoded, and gives the
    same bytes; once a file has changed, it begins anew.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, not {test_fraction}")
    records.check_free(directory)
    stride = frames if stride is None else stride
    _check(frames, fps, stride, size, fit)
    found = files(folder)
    settings = dict(
        kind="folder", version=VERSION, folder=str(folder), frames=frames, fps=fps, size=list(size), fit=fit,
        stride=stride, test_fraction=test_fraction, seed=seed,
    )
    stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    under_way = records.Build(directory, dict(settings, stamps=stamps))
    decoded = [under_way.scratch / f"{number:06d}" for number in range(len(found))]
    try:
        entries, kept = [], []  # kept: of each clip, where it lies and what it is called
        for number, path in enumerate(found):
            entry, cut = _decoded(decoded[number], Path(folder), path, frames, fps, size, fit, stride)
            end = f"; stopped: {entry['error']}" if entry["error"] else ""
            log(f"{entry['file']}: {entry['clips']} clips of {entry['shots']} shots, {entry['dropped']} frames dropped{end}")
            entries.append(entry)
            kept += [(number, place, *names) for place, names in enumerate(cut)]
        settings["files"] = entries
        if not kept:
            _raise_no_clip(folder, settings)
        test = set(_draw_test([(name, start) for _, _, name, start, _ in kept], test_fraction, seed))
        shape = (frames, *size, 3)

        def stored(chosen: list[int]) -> records.Lazy:
            return records.Lazy(len(chosen), lambda i: read(*kept[chosen[i]]))

        def read(number, place, name, start, caption) -> Clip:
            pixels = np.fromfile(decoded[number].with_suffix(".clips"), np.uint8, math.prod(shape), offset=place * math.prod(shape))
            return Clip(pixels.reshape(shape), fps, start, caption, name)

        train = [i for i in range(len(kept)) if i not in test]
        under_way.write({"train": stored(train), "test": stored(sorted(test))}, settings=settings)
    except ValueError:
        under_way.remove()
        raise
    manifest = records.manifest(directory)
    log(f"{directory}: " + ", ".join(f"{n} clips in {k}" for k, n in manifest["splits"].items()))
    return manifest


def _decoded(beside: Path, folder, path, *how) -> tuple[dict, list]:
    """The report of one file, and (source, start, caption) of each clip; their pixels go to `beside`.clips.

    What was decoded before is read back: the report is written last.
    """
    report = beside.with_suffix(".json")
    if not report.is_file():
        cut = []
        with open(beside.with_suffix(".clips"), "wb") as pixels:
            for item in _of_file(folder, path, *how):
                if isinstance(item, dict):
                    entry = item
                else:
                    pixels.write(item.video)
                    cut.append((item.source, item.start, item.caption))
        records.replace_text(report, json.dumps([entry, cut]))
    entry, cut = json.loads(report.read_text("utf-8"))
    return entry, cut


def _draw_test(kept: list[tuple[str, float]], test_fraction: float, seed: int) -> list[int]:
    """Returns the indices of the test clips; the draw does not depend on the machine."""
    rank = [
        hashlib.sha256(f"{seed}/{name}/{start!r}".encode()).digest() for name, start in kept
    ]
    count = min(max(1, round(test_fraction * len(kept))), len(kept) - 1)
    return sorted(range(len(kept)), key=rank.__getitem__)[:count]


def _raise_no_clip(folder: str | os.PathLike, settings: dict) -> None:
    entries = settings["files"]
    longest = max(entry["frames"] for entry in entries)
    if longest == 0:
        reasons = "; ".join(entry["error"] for entry in entries[:3])
        raise ValueError(f"none of the {len(entries)} video files in {folder} decodes: {reasons}")
    raise ValueError(
        f"no video in {folder} is long enough: a clip has {settings['frames']} frames at "
        f"{settings['fps']} fps, the longest video {longest} "
        f"({longest / settings['fps']:.2f} s): use smaller frames or higher fps"
    )
