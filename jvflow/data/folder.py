"""Cuts a folder of videos into clips, and builds a data set of them with a train and a test split.

A video is a file, or a folder of images. Each is decoded, resampled to a constant rate, resized, and cut: clip c of a
shot is its frames [c stride, c stride + frames), so no clip crosses a cut between shots (`jvflow.data.cuts`). The
frames left over at the end of a shot are dropped, and counted in the report.
"""

import hashlib
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jvflow.data import captions as texts
from jvflow.data import cuts, listing, records, video
from jvflow.data.dataset_key import FileHashes
from jvflow.data.listing import find_videos
from jvflow.data.records import Clip
from jvflow.files import check_room, write_text

LOG = logging.getLogger(__name__)
VERSION = 4
"""Increased when the same files and settings give other clips than before."""
MIN_RATE = 0.99
"""Smallest ratio of a video's frame rate to its clips' (23.976 to 24 is enough). Below, clips would repeat frames."""


@dataclass(frozen=True)
class Cutting:
    """How videos become clips.

    Attributes:
      frames: frames in a clip.
      fps: frames per second in a clip; `video.frames` resamples to it.
      size: (height, width).
      fit: "crop" or "squeeze", see `video.resize`.
      stride: frames from the start of one clip to the start of the next; `frames` by default, without overlap.
      image_fps: frames per second of folders of images; 0 skips them.
    """

    frames: int
    fps: float | int
    size: tuple[int, ...]
    fit: str = "crop"
    stride: int | None = None
    image_fps: float | int = 0.0

    def __post_init__(self):
        if self.stride is None:
            object.__setattr__(self, "stride", self.frames)
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"frames and stride must be at least 1, not {self.frames} and {self.stride}")
        video.exact_rate(self.fps)  # raises for a wrong rate; the last line for a wrong size or fit
        if self.image_fps:
            video.exact_rate(self.image_fps)
        video.resize(np.zeros((1, 1, 3), np.uint8), self.size, self.fit)

    @property
    def bytes(self) -> int:
        """Size of a clip in bytes."""
        return self.frames * math.prod(self.size) * 3


def clips(
    folder: str | os.PathLike, *, captions: str = "", report: Callable[[dict], None] | None = None, **cutting
) -> Iterator[Clip]:
    """Cuts the videos of a folder into clips, video after video in sorted order.

    A video that does not decode is skipped; one that stops decoding later keeps the clips before that point.

    Args:
      folder: searched recursively, see `jvflow.data.listing`.
      captions: a table of captions, see `jvflow.data.captions`.
      report: called after each video with a dict: file, status and reason (see `_judge`), bytes, frames (after
        resampling), shots, clips, dropped (frames in no clip), damaged (frames), damaged_clips (left out because they
        contain such frames), error (None, or why frames are missing).
      **cutting: the fields of `Cutting`.
    """
    cutting = Cutting(**cutting)
    folder, found = Path(folder), find_videos(folder)
    table = _captions(folder, found, captions, LOG.info)
    items = (item for path in found for item in _cut_video(folder, path, table, cutting))
    return _split_reports(items, report or (lambda entry: None))


def _split_reports(items: Iterator[Clip | dict], report: Callable[[dict], None]) -> Iterator[Clip]:
    for item in items:
        if isinstance(item, dict):
            report(item)
        else:
            yield item


def _captions(folder: Path, found: list[Path], path: str, log: Callable[[str], None]) -> dict[str, str]:
    """Returns {name of a video: caption} from the table of captions; empty without a table."""
    file = texts.find_table(folder, path)
    if file is None:
        return {}
    table = texts.read_table(file)
    unknown = sorted(set(table) - {_name(folder, path) for path in found})
    if unknown:
        some = ", ".join(unknown[:3])
        message = f"{file} names videos that are not in {folder} ({len(unknown)} of {len(table)}): {some}"
        if len(unknown) == len(table):
            raise ValueError(f"{message}; {texts.NAME} is the path below that folder, suffix included")
        log(message)
    return table


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _cut_video(folder: Path, path: Path, table: dict, cutting: Cutting) -> Iterator[Clip | dict]:
    """Yields the clips of one video, then its report."""
    name = _name(folder, path)
    size = sum(file.stat().st_size for file in _files(path))
    counts = dict.fromkeys(("frames", "shots", "clips", "dropped", "damaged", "damaged_clips"), 0)
    entry = dict(file=name, bytes=size, **counts, error=None)
    try:
        yield from _cut(path, entry, _caption(path, name, table), cutting)
    except ValueError as reason:
        entry["error"] = "; ".join([entry["error"]] * bool(entry["error"]) + [str(reason)])
    yield entry | _judge(entry, cutting)


def _judge(entry: dict, cutting: Cutting) -> dict:
    """Returns the status of a video, "kept" or "skipped", and the reason why there are no clips."""
    if entry["clips"]:
        return dict(status=listing.KEPT, reason=None)
    short = f"no shot has the {cutting.frames} frames of a clip at {cutting.fps} fps; the video has {entry['frames']}"
    return dict(status=listing.SKIPPED, reason=entry["error"] or short)


def _files(path: Path) -> list[Path]:
    """Returns the files of a video: the file itself, or its images in order."""
    return video.ImageFolder(path, 0.0).files() if path.is_dir() else [path]


def _caption(path: Path, name: str, table: dict[str, str]) -> str:
    return table[name] if name in table else texts.read_text_file(path)


def _cut(path: Path, entry: dict, caption: str, cutting: Cutting) -> Iterator[Clip]:
    """Yields the clips of one video without damage, and counts frames, shots and clips in `entry`."""
    frames, fps, stride = cutting.frames, cutting.fps, cutting.stride
    source = _source(path, cutting)
    most = video.measure(source).most_frames(video.exact_rate(fps))
    current, length, used = None, 0, 0  # the shot, how many frames of it were read, how many of them are in clips
    window = deque(maxlen=frames)  # (time, pixels), without pixels where they are damaged
    for number, (shot, shown) in enumerate(cuts.shots(source, fps)):
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


def _source(path: Path, cutting: Cutting) -> Path | video.ImageFolder:
    return video.ImageFolder(path, cutting.image_fps) if path.is_dir() else path


def settings(
    folder: str | os.PathLike,
    *,
    captions: str = "",
    test_fraction: float | int = 0.2,
    seed: int = 0,
    hashes: FileHashes | None = None,
    **cutting,
) -> dict:
    """Returns everything that determines the clips that `build` makes of a folder. Arguments as for `build`.

    It includes the content of the videos and their captions, but not the path of the folder.
    """
    folder, found, hashes = Path(folder), find_videos(folder), hashes or FileHashes()
    table = _captions(folder, found, captions, lambda line: None)
    cutting = asdict(Cutting(**cutting))
    sources = {}
    for path in found:
        name = _name(folder, path)
        with suppress(ValueError):  # `_cut_video` reports a caption that cannot be read
            sources[name] = dict(sha256=hashes(_files(path)), caption=_caption(path, name, table))
    return dict(
        kind="folder",
        version=VERSION,
        **dict(cutting, fps=float(cutting["fps"]), size=list(cutting["size"])),
        test_fraction=test_fraction,
        seed=seed,
        sources=sources,
    )


def max_clips(folder: str | os.PathLike, **cutting) -> int:
    """Returns an upper bound on the number of clips of a folder, from the presentation times in its videos.

    Raises:
      ValueError: if a video that is long enough for a clip has fewer frames per second than the clips (`MIN_RATE`).
    """
    cutting, count, slow = Cutting(**cutting), 0, []
    for path in find_videos(folder):
        try:
            length = video.measure(_source(path, cutting))
        except ValueError:  # `clips` reports files that do not decode
            continue
        frames = length.most_frames(video.exact_rate(cutting.fps))
        if frames >= cutting.frames:
            overlapping = (frames - cutting.frames) // cutting.stride + 1
            count += overlapping if cutting.stride <= cutting.frames else frames // cutting.frames
        long_enough = length.seconds * video.exact_rate(cutting.fps) > cutting.frames - 1
        if long_enough and length.fps < MIN_RATE * cutting.fps:
            name = _name(Path(folder), path)
            slow.append((length.fps, f"{name} {length.fps:.4g}" + " (config.data.image_fps)" * path.is_dir()))
    if slow:
        more = [f"and {len(slow) - 5} more"] * (len(slow) > 5)
        raise ValueError(
            f"{len(slow)} videos in {folder} have fewer frames per second than config.data.fps={cutting.fps}, "
            f"so clips would repeat frames: {', '.join([name for _, name in sorted(slow)[:5]] + more)}: "
            f"use --config.data.fps={min(slow)[0]:.4g}, or remove them from the folder"
        )
    return count


def build(
    folder: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    captions: str = "",
    test_fraction: float | int = 0.2,
    seed: int = 0,
    hashes: FileHashes | None = None,
    log: Callable[[str], None] = LOG.info,
    **cutting,
) -> dict:
    """Builds a data set in `directory` from the videos of a folder; returns its manifest.

    The test split has the clips whose hash of (seed, file, start) is smallest: `test_fraction` of all clips, rounded,
    but at least one clip (none if `test_fraction` is 0) and never all of them. Clips are drawn one by one, so both
    splits may hold clips of one file, and clips that share frames where `stride < frames`.

    Decoded clips are kept next to `directory`, not in memory: the disk must hold them twice. An interrupted build
    continues after the last video that it decoded, and gives the same bytes; it starts again if a file or a caption has
    changed.

    Args:
      folder, captions, **cutting: as for `clips`.
      directory: must not exist, or be empty.
      test_fraction: in [0, 1).
      seed: determines which clips are in the test split.
      hashes: the known hashes of files; new ones are added.
      log: called with a line for each video.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction must be at least 0 and below 1, not {test_fraction}")
    records.check_free(directory)
    count = max_clips(folder, **cutting)
    wanted = settings(folder, captions=captions, test_fraction=test_fraction, seed=seed, hashes=hashes, **cutting)
    cutting = Cutting(**cutting)
    folder, found = Path(folder), find_videos(folder)
    need = 2 * count * cutting.bytes - records.bytes_written(directory)
    pixels = f"{cutting.frames} x {' x '.join(map(str, cutting.size))}"
    check_room(directory, need, f"{count} clips of {pixels}, twice while they are cut,")
    table = _captions(folder, found, captions, log)
    others = listing.list_folder(folder).others
    unfinished = records.Build(directory, wanted)
    decoded = [unfinished.scratch / f"{number:06d}" for number in range(len(found))]
    try:
        entries, kept = [], []  # kept: for each clip the number of its video, its place there, source, start, caption
        for number, path in enumerate(found):
            entry, cut = _decode_once(decoded[number], folder, path, table, cutting)
            log(_line(entry))
            entries.append(entry)
            kept += [(number, place, *names) for place, names in enumerate(cut)]
        for line in listing.summary(others):
            log(line)
        if not kept:
            _raise_no_clip(folder, entries, cutting)
        test = set(_draw_test([(name, start) for _, _, name, start, _ in kept], test_fraction, seed))
        train = [i for i in range(len(kept)) if i not in test]
        shape = (cutting.frames, *cutting.size, 3)

        def read(number, place, name, start, caption) -> Clip:
            file = decoded[number].with_suffix(".clips")
            pixels = np.fromfile(file, np.uint8, cutting.bytes, offset=place * cutting.bytes)
            return Clip(pixels.reshape(shape), cutting.fps, start, caption, name)

        def lazy(chosen: list[int]) -> records.LazyClips:
            return records.LazyClips(len(chosen), lambda i: read(*kept[chosen[i]]))

        splits = {"train": lazy(train), "test": lazy(sorted(test))}
        report = dict(folder=str(folder), files=entries, others=others)
        unfinished.write(splits, settings=wanted, report=lambda sums: report)
    except ValueError:
        unfinished.remove()
        raise
    manifest = records.manifest(directory)
    log(f"{directory}: " + ", ".join(f"{n} clips in {k}" for k, n in manifest["splits"].items()))
    return manifest


def _line(entry: dict) -> str:
    """Returns the line of the log about a video."""
    parts = [f"{entry['clips']} clips of {entry['shots']} shots", f"{entry['dropped']} frames dropped"]
    if entry["damaged"]:
        parts.append(f"{entry['damaged']} damaged, {entry['damaged_clips']} clips left out for them")
    return f"{entry['file']}: {', '.join(parts)}" + (f"; {entry['error']}" if entry["error"] else "")


def _decode_once(file: Path, folder: Path, path: Path, table: dict, cutting: Cutting) -> tuple[dict, list]:
    """Returns the report of one video, and (source, start, caption) of each clip; writes the pixels to `file`.clips.

    The report is written last: if it is there, an interrupted build has decoded this video.
    """
    report = file.with_suffix(".json")
    if not report.is_file():
        cut = []
        with open(file.with_suffix(".clips"), "wb") as pixels:
            for item in _cut_video(folder, path, table, cutting):
                if isinstance(item, dict):
                    entry = item
                else:
                    pixels.write(item.video)
                    cut.append((item.source, item.start, item.caption))
        write_text(report, json.dumps([entry, cut]))
    entry, cut = json.loads(report.read_text("utf-8"))
    return entry, cut


def _draw_test(kept: list[tuple[str, float]], test_fraction: float | int, seed: int) -> list[int]:
    """Returns the indices of the test clips; the draw is the same on every machine."""
    rank = [hashlib.sha256(f"{seed}/{name}/{start!r}".encode()).digest() for name, start in kept]
    count = min(max(1, round(test_fraction * len(kept))), len(kept) - 1) if test_fraction else 0
    return sorted(range(len(kept)), key=rank.__getitem__)[:count]


def _raise_no_clip(folder: Path, entries: list[dict], cutting: Cutting) -> None:
    longest = max(entry["frames"] for entry in entries)
    if longest == 0:
        reasons = "; ".join(entry["error"] for entry in entries[:3])
        raise ValueError(f"none of the {len(entries)} videos in {folder} decodes: {reasons}")
    raise ValueError(
        f"no video in {folder} is long enough: a clip has {cutting.frames} frames at {cutting.fps} fps, "
        f"the longest video has {longest} ({longest / cutting.fps:.2f} s): use fewer frames or a higher fps"
    )
