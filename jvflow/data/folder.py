"""Cuts a folder of videos into clips, and builds a data set of them with a train and a test split.

A video is a file, or a folder of images. Each is decoded, resampled to a constant rate, resized, and cut: clip c of a
shot is its frames [c stride, c stride + frames), so no clip crosses a cut between shots (`jvflow.data.cuts`). The
frames left over at the end of a shot are dropped, and counted in the report. All clips of a video are in one split
(`jvflow.data.splits`).
"""

import json
import logging
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jvflow.data import captions as texts
from jvflow.data import clip_length, copies, cuts, records, splits, video
from jvflow.data.clip_length import Cutting
from jvflow.data.dataset_key import FileHashes
from jvflow.data.records import Clip
from jvflow.files import check_room, write_text

LOG = logging.getLogger(__name__)
VERSION = 4
"""Increased when the same files and settings give other clips than before."""
SPLIT_BY_VIDEO = 4
"""The first version that keeps all clips of a video in one split."""
MIN_RATE = 0.99
"""Smallest ratio of a video's frame rate to its clips' (23.976 to 24 is enough). Below, clips would repeat frames."""


def find_videos(folder: str | os.PathLike) -> list[Path]:
    """Returns the videos below `folder`, sorted; hidden ones are left out.

    A folder that directly holds images, and no video file, is one video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(folder).parts)
    visible = [path for path in (folder, *folder.rglob("*")) if not hidden(path)]
    files = [path for path in visible if path.suffix.lower() in video.VIDEO_SUFFIXES and path.is_file()]
    with_files = {path.parent for path in files}
    found = files + [path for path in visible if path.is_dir() and path not in with_files and video.images_in(path)]
    if not found:
        kinds = (video.VIDEO_SUFFIXES, video.IMAGE_SUFFIXES)
        files, images = (", ".join(suffix[1:] for suffix in suffixes) for suffixes in kinds)
        raise ValueError(f"no video files ({files}) and no folders of images ({images}) in {folder}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def clips(
    folder: str | os.PathLike, *, captions: str = "", report: Callable[[dict], None] | None = None, **cutting
) -> Iterator[Clip]:
    """Cuts the videos of a folder into clips, video after video in sorted order.

    A video that does not decode is skipped; one that stops decoding later keeps the clips before that point.

    Args:
      folder: searched recursively, see `find_videos`.
      captions: a table of captions, see `jvflow.data.captions`.
      report: called after each video with a dict: file, bytes, frames (after resampling), shots, clips, dropped
        (frames in no clip), error (None, or why decoding stopped).
      **cutting: the fields of `Cutting`.
    """
    cutting = Cutting(**cutting)
    folder, found = Path(folder), find_videos(folder)
    table = _table(folder, found, captions, LOG.info)
    items = (item for path in found for item in _cut_video(folder, path, table, cutting))
    return _split_reports(items, report or (lambda entry: None))


def _split_reports(items: Iterator[Clip | dict], report: Callable[[dict], None]) -> Iterator[Clip]:
    for item in items:
        if isinstance(item, dict):
            report(item)
        else:
            yield item


def _table(folder: Path, found: list[Path], path: str, log: Callable[[str], None]) -> dict[str, texts.Row]:
    """Returns {name of a video: row} from the table of captions; empty without a table."""
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


def _cut_video(
    folder: Path, path: Path, table: dict, cutting: Cutting, starts: Sequence[float] | None = None
) -> Iterator[Clip | dict]:
    """Yields the clips of one video, then its report; `starts` are those of its shots if they are known."""
    name = _name(folder, path)
    size = sum(file.stat().st_size for file in _files(path))
    entry = dict(file=name, bytes=size, frames=0, shots=0, clips=0, dropped=0, error=None)
    try:
        yield from _cut(path, entry, _caption(path, name, table), cutting, starts)
    except ValueError as reason:
        entry["error"] = str(reason)
    yield entry


def _files(path: Path) -> list[Path]:
    """Returns the files of a video: the file itself, or its images in order."""
    return video.ImageFolder(path, 0.0).files() if path.is_dir() else [path]


def _source(path: Path, cutting: Cutting) -> Path | video.ImageFolder:
    return video.ImageFolder(path, cutting.image_fps) if path.is_dir() else path


def _caption(path: Path, name: str, table: dict[str, texts.Row]) -> str:
    caption = table[name].caption if name in table else None
    return texts.read_text_file(path) if caption is None else caption


def _cut(path: Path, entry: dict, caption: str, cutting: Cutting, starts: Sequence[float] | None) -> Iterator[Clip]:
    """Yields the clips of one video, and counts frames, shots and clips in `entry`."""
    frames, fps, stride = cutting.frames, cutting.fps, cutting.stride
    current, length = None, 0  # the shot, and how many frames of it were read
    window = deque(maxlen=frames)
    for number, (shot, frame) in enumerate(cuts.shots(_source(path, cutting), fps, starts)):
        entry["frames"] += 1
        entry["dropped"] += 1
        length = length + 1 if shot == current else 1
        current = shot
        if shot is None:
            continue
        entry["shots"] = shot + 1
        window.append(video.resize(frame, cutting.size, cutting.fit))
        if length >= frames and (length - frames) % stride == 0:
            yield Clip(np.stack(window), fps, (number + 1 - frames) / fps, caption, entry["file"])
            entry["clips"] += 1
            entry["dropped"] -= frames if length == frames else min(stride, frames)


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

    It includes the content of the videos, their captions and the splits that layout or table give, but not the path of
    the folder.

    Raises:
      ValueError: if the given splits contradict each other, see `jvflow.data.splits`.
    """
    folder, found, hashes = Path(folder), find_videos(folder), hashes or FileHashes()
    table = _table(folder, found, captions, lambda line: None)
    cutting = asdict(Cutting(**cutting))
    given = _given(folder, found, table)
    sources = {}
    for path in found:
        name = _name(folder, path)
        with suppress(ValueError):  # `_cut_video` reports a caption that cannot be read
            sources[name] = dict(sha256=hashes(_files(path)), caption=_caption(path, name, table))
            sources[name] |= dict(split=given[name]) if name in given else {}
    splits.check_copies(_copies(sources, {}), given)
    return dict(
        kind="folder",
        version=VERSION,
        **dict(cutting, fps=float(cutting["fps"]), size=list(cutting["size"])),
        test_fraction=test_fraction,
        seed=seed,
        sources=sources,
    )


def _given(folder: Path, found: list[Path], table: dict[str, texts.Row]) -> dict[str, str]:
    return splits.given([_name(folder, path) for path in found], {name: row.split for name, row in table.items()})


def _copies(sources: Mapping[str, dict], scans: Mapping[str, cuts.Scan]) -> list[list[str]]:
    """Groups videos that are copies, from `settings` and the scans that are known."""
    signatures = [scans[name].signature if name in scans else None for name in sources]
    return copies.group(list(sources), [source["sha256"] for source in sources.values()], signatures)


def max_clips(folder: str | os.PathLike, **cutting) -> int:
    """Returns an upper bound on the number of clips of a folder, from the lengths that its videos declare.

    Raises:
      ValueError: if a video that is long enough for a clip has fewer frames per second than the clips (`MIN_RATE`).
    """
    return _declared(Path(folder), Cutting(**cutting))[0]


def _declared(folder: Path, cutting: Cutting) -> tuple[int, Cutting]:
    """Returns the number of clips and the cutting that suit the lengths that the videos declare; see `max_clips`."""
    lengths, rates, slow = [], [], []
    for path in find_videos(folder):
        images = path.is_dir()
        try:
            if images:
                rate, seconds = cutting.image_fps, len(_files(path)) / (cutting.image_fps or math.inf)
            else:
                rate, seconds = video.declared_fps_and_seconds(path)
        except ValueError:  # `clips` reports files that do not decode
            continue
        lengths.append(math.ceil(seconds * cutting.fps))
        rates.append((rate, f"{_name(folder, path)} {rate:.4g}" + " (config.data.image_fps)" * images))
    cutting = clip_length.fit(cutting, lengths)
    slow = [
        rate for rate, frames in zip(rates, lengths) if frames >= cutting.frames and rate[0] < MIN_RATE * cutting.fps
    ]
    if slow:
        raise ValueError(
            f"{len(slow)} videos in {folder} have fewer frames per second than config.data.fps={cutting.fps}, "
            f"so clips would repeat frames: {splits.some([name for _, name in sorted(slow)])}: "
            f"use --config.data.fps={min(slow)[0]:.4g}, or remove them from the folder"
        )
    return sum(map(cutting.clips, lengths)), cutting


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

    All clips of a video, and of its copies, are in one split; see `jvflow.data.splits`. The report of each video names
    its split, and the video that it is a copy of. `notes` in the report holds the warnings: shortened clips, videos
    without clips, and a data set without held-out clips.

    Decoded clips are kept next to `directory`, not in memory: the disk must hold them twice. An interrupted build
    continues after the last video that it decoded, and gives the same bytes; it starts again if a file or a caption has
    changed.

    Args:
      folder, captions, **cutting: as for `clips`.
      directory: must not exist, or be empty.
      test_fraction: in [0, 1).
      seed: determines which videos are in the test split.
      hashes: the known hashes of files; new ones are added.
      log: called with a line for each video.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction must be at least 0 and below 1, not {test_fraction}")
    records.check_free(directory)
    asked, folder, found = Cutting(**cutting), Path(folder), find_videos(folder)
    count, cutting = _declared(folder, asked)
    wanted = settings(folder, captions=captions, test_fraction=test_fraction, seed=seed, hashes=hashes, **asdict(asked))
    need = 2 * count * cutting.bytes - records.bytes_written(directory)
    pixels = f"{cutting.frames} x {' x '.join(map(str, cutting.size))}"
    check_room(directory, need, f"{count} clips of {pixels}, twice while they are cut,")
    table = _table(folder, found, captions, log)
    unfinished = records.Build(directory, wanted)
    decoded = [unfinished.scratch / f"{number:06d}" for number in range(len(found))]
    try:
        names = [_name(folder, path) for path in found]
        scans = [cuts.scan_once(decoded[number], _source(path, asked)) for number, path in enumerate(found)]
        longest = {name: max(scan.lengths(asked.fps), default=0) for name, scan in zip(names, scans)}
        longest = {name: frames for name, frames in longest.items() if frames}
        cutting = clip_length.fit(asked, list(longest.values()))
        groups = _copies(wanted["sources"], dict(zip(names, scans)))
        given = splits.spread(groups, _given(folder, found, table))
        entries, kept = [], []  # kept: for each clip the number of its video, its place there, source, start, caption
        for number, path in enumerate(found):
            entry, cut = _decode_once(decoded[number], folder, path, table, cutting, scans[number].starts)
            end = f"; stopped: {entry['error']}" if entry["error"] else ""
            counts = f"{entry['clips']} clips of {entry['shots']} shots, {entry['dropped']} frames dropped"
            log(f"{entry['file']}: {counts}{end}")
            entries.append(entry)
            kept += [(number, place, *named) for place, named in enumerate(cut)]
        if not kept:
            _raise_no_clip(folder, entries, cutting)
        chosen = splits.assign(entries, groups, given, test_fraction=test_fraction, seed=seed)
        notes = clip_length.notes(asked, cutting, longest) + splits.notes(entries)
        shape = (cutting.frames, *cutting.size, 3)

        def read(number, place, name, start, caption) -> Clip:
            file = decoded[number].with_suffix(".clips")
            pixels = np.fromfile(file, np.uint8, cutting.bytes, offset=place * cutting.bytes)
            return Clip(pixels.reshape(shape), cutting.fps, start, caption, name)

        def lazy(split: str) -> records.LazyClips:
            clips = [clip for clip in kept if chosen[clip[2]] == split]
            return records.LazyClips(len(clips), lambda i: read(*clips[i]))

        report = dict(folder=str(folder), files=entries, notes=notes)
        order = {split: lazy(split) for split in ("train", "val", "test")}
        unfinished.write(order, settings=wanted, report=lambda sums: report)
    except ValueError:
        unfinished.remove()
        raise
    manifest, videos = records.manifest(directory), Counter(chosen.values())
    counts = [f"{number} clips of {videos[split]} videos in {split}" for split, number in manifest["splits"].items()]
    log(f"{directory}: {', '.join(counts)}")
    return manifest


def _decode_once(
    file: Path, folder: Path, path: Path, table: dict, cutting: Cutting, starts: Sequence[float]
) -> tuple[dict, list]:
    """Returns the report of one video, and (source, start, caption) of each clip; writes the pixels to `file`.clips.

    The report is written last: if it is there, an interrupted build has decoded this video.
    """
    report = file.with_suffix(".json")
    if not report.is_file():
        cut = []
        with open(file.with_suffix(".clips"), "wb") as pixels:
            for item in _cut_video(folder, path, table, cutting, starts):
                if isinstance(item, dict):
                    entry = item
                else:
                    pixels.write(item.video)
                    cut.append((item.source, item.start, item.caption))
        write_text(report, json.dumps([entry, cut]))
    entry, cut = json.loads(report.read_text("utf-8"))
    return entry, cut


def _raise_no_clip(folder: Path, entries: list[dict], cutting: Cutting) -> None:
    longest = max(entry["frames"] for entry in entries)
    if longest == 0:
        reasons = "; ".join(entry["error"] for entry in entries[:3])
        raise ValueError(f"none of the {len(entries)} videos in {folder} decodes: {reasons}")
    raise ValueError(
        f"no video in {folder} is long enough: a clip has {cutting.frames} frames at {cutting.fps} fps, "
        f"the longest video has {longest} ({longest / cutting.fps:.2f} s): use fewer frames or a higher fps"
    )
