"""Cuts one video of a folder into clips, and reports what it gave."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jvflow.data import captions as texts
from jvflow.data import cuts, listing, video
from jvflow.data.clip_length import Cutting
from jvflow.data.listing import name_of
from jvflow.data.records import Clip
from jvflow.files import in_one_line, read_json, readable, write_text


def cut_video(
    folder: Path, path: Path, table: dict, cutting: Cutting, starts: Sequence[float] | None = None
) -> Iterator[Clip | dict]:
    """Yields the clips of one video, then its report; `starts` are those of its shots if they are known."""
    name = name_of(folder, path)
    size = sum(file.stat().st_size for file in files_of(path))
    counts = dict.fromkeys(("frames", "shots", "clips", "dropped", "damaged", "damaged_clips"), 0)
    entry = dict(file=name, bytes=size, **counts, error=None)
    try:
        length = video.measure(source_of(path, cutting))
        if cutting.is_slow(length):
            yield entry | dict(status=listing.SKIPPED, reason=_why_slow(path, length, cutting))
            return
        most = length.most_frames(video.exact_rate(cutting.fps))
        yield from _cut(path, entry, caption_of(path, name, table), cutting, starts, most)
    except ValueError as error:
        entry["error"] = "; ".join([entry["error"]] * bool(entry["error"]) + [str(error)])
    entry["error"] = entry["error"] and readable(entry["error"])
    yield entry | _judge(entry, cutting)


def _judge(entry: dict, cutting: Cutting) -> dict:
    """Returns the status of a video, "kept" or "skipped", and the reason why there are no clips."""
    if entry["clips"]:
        return dict(status=listing.KEPT, reason=None)
    short = f"no shot has the {cutting.frames} frames of a clip at {cutting.fps} fps; the video has {entry['frames']}"
    return dict(status=listing.SKIPPED, reason=entry["error"] or short)


def _why_slow(path: Path, length: video.Length, cutting: Cutting) -> str:
    given = " (config.data.image_fps)" if path.is_dir() else ""
    return f"{length.fps:.4g} fps{given}, slower than config.data.fps {cutting.fps:g}"


def files_of(path: Path) -> list[Path]:
    """Returns the files of a video: the file itself, or its images in order."""
    return video.ImageFolder(path, 0.0).files() if path.is_dir() else [path]


def source_of(path: Path, cutting: Cutting) -> Path | video.ImageFolder:
    """Returns the video to decode: the file, or the folder of images at its rate."""
    return video.ImageFolder(path, cutting.image_fps) if path.is_dir() else path


def caption_of(path: Path, name: str, table: dict[str, texts.Row]) -> str:
    """Returns the caption of a video, from the table or from a text file; raises ValueError if it cannot be read."""
    caption = table[name].caption if name in table else None
    return texts.read_text_file(path) if caption is None else caption


def _cut(
    path: Path, entry: dict, caption: str, cutting: Cutting, starts: Sequence[float] | None, most: int
) -> Iterator[Clip]:
    """Yields the clips of one video without damage, and counts frames, shots and clips in `entry`.

    Raises ValueError if the video has more than `most` frames.
    """
    frames, fps, stride = cutting.frames, cutting.fps, cutting.stride
    source = source_of(path, cutting)
    current, length, used = None, 0, 0  # the shot, how many frames of it were read, how many of them are in clips
    window = deque(maxlen=frames)  # (time, pixels), without pixels where they are damaged
    for number, (shot, shown) in enumerate(cuts.shots(source, fps, starts)):
        if number >= most:
            raise ValueError(f"{path} gives more than the {most} frames that its time stamps allow: it is damaged")
        damaged = bool(shown.damage)
        entry["damaged" if damaged else "frames"] += 1
        entry["dropped"] += not damaged
        entry["error"] = entry["error"] or shown.damage or None
        length, used = (length + 1, used) if shot == current else (1, 0)
        current = shot
        if shot is None:
            continue
        entry["shots"] = shot + 1
        window.append((shown.time, None if damaged else video.resize(shown.frame, cutting.size, cutting.fit)))
        if length >= frames and (length - frames) % stride == 0:
            if any(pixels is None for _, pixels in window):
                entry["damaged_clips"] += 1
                continue
            yield Clip(np.stack([pixels for _, pixels in window]), fps, window[0][0], caption, entry["file"])
            entry["clips"] += 1
            entry["dropped"] -= length - max(used, length - frames)
            used = length


def decode_once(
    file: Path, folder: Path, path: Path, table: dict, cutting: Cutting, starts: Sequence[float]
) -> tuple[dict, list]:
    """Returns the report of one video, and (source, start, caption) of each clip; writes the pixels to `file`.clips.

    The report is written last: if it is there, an interrupted build has decoded this video.
    """
    report = file.with_suffix(".json")
    if not report.is_file():
        cut = []
        with open(file.with_suffix(".clips"), "wb") as pixels:
            for item in cut_video(folder, path, table, cutting, starts):
                if isinstance(item, dict):
                    entry = item
                else:
                    pixels.write(item.video)
                    cut.append((item.source, item.start, item.caption))
        write_text(report, json.dumps([entry, cut]))
    entry, cut = read_json(report, f"remove {report.parent.parent} and build again", kind=list)
    return entry, cut


def line(entry: dict) -> str:
    """Returns the line of the log about a video."""
    parts = [f"{entry['clips']} clips of {entry['shots']} shots", f"{entry['dropped']} frames dropped"]
    if entry["damaged"]:
        parts.append(f"{entry['damaged']} damaged, {entry['damaged_clips']} clips left out for them")
    reason = entry["error"] or entry["reason"]
    return in_one_line(f"{entry['file']}: {', '.join(parts)}" + (f"; {reason}" if reason else ""))
