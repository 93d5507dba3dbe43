"""Cuts a folder of videos into clips, and builds a data set of them with a train and a test split.

A video is a file, or a folder of images. Each is decoded, resampled to a constant rate, resized, and cut: clip c of a
shot is its frames [c stride, c stride + frames), so no clip crosses a cut between shots (`jvflow.data.cuts`). The
frames left over at the end of a shot are dropped, and counted in the report. All clips of a video are in one split
(`jvflow.data.splits`).
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jvflow.data import captions as texts
from jvflow.data import clip_length, copies, cuts, listing, one_video, records, split_files, splits, video
from jvflow.data.clip_length import Cutting
from jvflow.data.dataset_key import FileHashes
from jvflow.data.listing import find_videos
from jvflow.data.records import Clip
from jvflow.files import check_room, readable
from jvflow.parallel import progress

LOG = logging.getLogger(__name__)
VERSION = 5
"""Increased when the same files and settings give other clips than before."""
SPLIT_BY_VIDEO = 4
"""The first version that keeps all clips of a video in one split."""


def clips(
    folder: str | os.PathLike, *, captions: str = "", report: Callable[[dict], None] | None = None, **cutting
) -> Iterator[Clip]:
    """Cuts the videos of a folder into clips, video after video in sorted order.

    A video that does not decode, or is slower than the clips, is skipped; one that stops decoding later keeps the clips
    before that point.

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
    table = _table(folder, found, captions, LOG.info)
    items = (item for path in found for item in one_video.cut_video(folder, path, table, cutting))
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
    names = {one_video.name_of(folder, path) for path in found}
    table = texts.match(file, texts.read_table(file), names)
    unknown = sorted(set(table) - names)
    if unknown:
        some = ", ".join(unknown[:3])
        message = f"{file} names videos that are not in {folder} ({len(unknown)} of {len(table)}): {some}"
        if len(unknown) == len(table):
            raise ValueError(f"{message}; {texts.NAME} is the path below that folder, suffix included")
        log(message)
    return table


def settings(
    folder: str | os.PathLike,
    *,
    captions: str = "",
    split_by: str = "",
    test_fraction: float | int = 0.2,
    seed: int = 0,
    hashes: FileHashes | None = None,
    **cutting,
) -> dict:
    """Returns everything that determines the clips that `build` makes of a folder. Arguments as for `build`.

    It includes the content of the videos, their captions and the splits that files, layout or table give, but not the
    path of the folder.

    Raises:
      ValueError: if the given splits contradict each other, see `jvflow.data.splits` and `jvflow.data.split_files`.
    """
    folder, hashes = Path(folder), hashes or FileHashes()
    found = find_videos(folder)
    table = _table(folder, found, captions, lambda line: None)
    selected = split_files.select(folder, found, split_by)
    cutting = asdict(Cutting(**cutting))
    del cutting["slow"]  # changes no clip
    given = _given(folder, selected, table)
    sources = {}
    for path in selected.videos:
        name = one_video.name_of(folder, path)
        with suppress(ValueError):  # `cut_video` reports a caption that cannot be read
            caption = one_video.caption_of(path, name, table)
            sources[name] = dict(sha256=hashes(one_video.files_of(path)), caption=caption)
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


def _given(folder: Path, selected: split_files.Selection, table: dict[str, texts.Row]) -> dict[str, str]:
    names = [one_video.name_of(folder, path) for path in selected.videos]
    return selected.given or splits.given(names, _column(table))


def _column(table: dict[str, texts.Row]) -> dict[str, str | None]:
    return {name: row.split for name, row in table.items()}


def _copies(sources: Mapping[str, dict], scans: Mapping[str, cuts.Scan]) -> list[list[str]]:
    """Groups videos that are copies, from `settings` and the scans that are known."""
    signatures = [scans[name].signature if name in scans else None for name in sources]
    return copies.group(list(sources), [source["sha256"] for source in sources.values()], signatures)


def max_clips(folder: str | os.PathLike, *, split_by: str = "", **cutting) -> int:
    """Returns an upper bound on the number of clips of a folder, from the presentation times in its videos.

    Arguments as for `build`.

    Raises:
      ValueError: if all videos that decode are slower than the clips (`clip_length.MIN_RATE`), or, with
        `slow="error"`, if one that is long enough for a clip is.
    """
    selected = split_files.select(Path(folder), find_videos(folder), split_by)
    return _declared(Path(folder), selected.videos, Cutting(**cutting))[0]


def _declared(folder: Path, found: list[Path], cutting: Cutting) -> tuple[int, Cutting, dict[str, float]]:
    """Returns the number of clips and the cutting that suit the declared lengths, and the rates of the slow videos.

    Raises the errors of `max_clips`.
    """
    lengths, slow, rate = {}, {}, video.exact_rate(cutting.fps)
    for path in found:
        name = one_video.name_of(folder, path)
        with suppress(ValueError):  # `clips` reports files that do not decode
            length = video.measure(one_video.source_of(path, cutting))
            lengths[name] = length.most_frames(rate)
            slow |= {name: length.fps} if cutting.is_slow(length) else {}
    shortest = clip_length.fit(cutting, list(lengths.values())).frames
    long_enough = {name: fps for name, fps in slow.items() if lengths[name] > shortest}
    if slow and len(slow) == len(lengths):
        raise ValueError(f"{folder}: {_slow_note(folder, slow, len(found), cutting)}")
    if long_enough and cutting.slow == "error":
        note = _slow_note(folder, long_enough, len(found), cutting)
        raise ValueError(f"{folder}: {note}, --config.data.slow=skip leaves them out")
    lengths = [length for name, length in lengths.items() if name not in slow]
    cutting = clip_length.fit(cutting, lengths)
    # strides above the length leave frames out, so that parts of a video may give more clips than the whole
    most = cutting.clips if cutting.stride <= cutting.frames else lambda length: length // cutting.frames
    return sum(map(most, lengths)), cutting, slow


def _slow_note(folder: Path, slow: Mapping[str, float], count: int, cutting: Cutting) -> str:
    """Returns a sentence on the slow ones of `count` videos, with their rates, and the cure."""
    by_rate = sorted(slow, key=lambda name: slow[name])
    given = lambda name: " by config.data.image_fps" * (folder / name).is_dir()
    named = [f"{name} ({slow[name]:.4g} fps{given(name)})" for name in by_rate]
    return (
        f"{len(slow)} of {count} videos are slower than config.data.fps={cutting.fps:g}, so clips would repeat frames: "
        f"{splits.some(named)}: --config.data.fps={slow[by_rate[0]]:.4g} takes all of them"
    )


def build(
    folder: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    captions: str = "",
    split_by: str = "",
    test_fraction: float | int = 0.2,
    seed: int = 0,
    hashes: FileHashes | None = None,
    log: Callable[[str], None] = LOG.info,
    **cutting,
) -> dict:
    """Builds a data set in `directory` from the videos of a folder; returns its manifest.

    All clips of a video, and of its copies, are in one split; see `jvflow.data.splits`. The report of each video names
    its split, and the video that it is a copy of. `notes` in the report holds the warnings: names without a video and
    videos without a name in split files, slow videos, shortened clips, videos without clips, and a data set without
    held-out clips. `videos` in the manifest has the number of clips of each video, by split.

    Decoded clips are kept next to `directory`, not in memory: the disk must hold them twice. An interrupted build
    continues after the last video that it decoded, and gives the same bytes; it starts again if a file or a caption has
    changed.

    Args:
      folder, captions, **cutting: as for `clips`.
      directory: must not exist, or be empty.
      split_by: split files, see `jvflow.data.split_files`.
      test_fraction: in [0, 1).
      seed: determines which videos are in the test split.
      hashes: the known hashes of files; new ones are added.
      log: called with a line for each video.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction must be at least 0 and below 1, not {test_fraction}")
    records.check_free(directory)
    asked, folder, found = Cutting(**cutting), Path(folder), find_videos(folder)
    selected = split_files.select(folder, found, split_by)
    count, cutting, slow = _declared(folder, selected.videos, asked)
    drawing = dict(captions=captions, split_by=split_by, test_fraction=test_fraction, seed=seed)
    wanted = settings(folder, **drawing, hashes=hashes, **asdict(asked))
    need = 2 * count * cutting.bytes - records.bytes_written(directory)
    pixels = f"{cutting.frames} x {' x '.join(map(str, cutting.size))}"
    check_room(directory, need, f"{count} clips of {pixels}, twice while they are cut,")
    table, others = _table(folder, found, captions, log), listing.list_folder(folder).others
    others += [dict(file=name, status=listing.SKIPPED, reason=split_files.LEFT_OUT) for name in selected.left_out]
    found = selected.videos
    names = [one_video.name_of(folder, path) for path in found]
    with records.begin(directory, wanted) as unfinished:
        decoded = [unfinished.scratch / f"{number:06d}" for number in range(len(found))]
        sources = [one_video.source_of(path, asked) for path in found]
        scan = lambda number: cuts.NONE if names[number] in slow else cuts.scan_once(decoded[number], sources[number])
        scans = list(map(scan, progress.track(range(len(found)), "find cuts", unit="video")))
        longest = {name: max(scan.lengths(asked.fps), default=0) for name, scan in zip(names, scans)}
        longest = {name: frames for name, frames in longest.items() if frames}
        cutting = clip_length.fit(asked, list(longest.values()))
        groups = _copies(wanted["sources"], dict(zip(names, scans)))
        given = splits.spread(groups, _given(folder, selected, table))
        entries, kept = [], []  # kept: for each clip the number of its video, its place there, source, start, caption
        for number, path in enumerate(progress.track(found, "cut videos into clips", unit="video")):
            entry, cut = one_video.decode_once(decoded[number], folder, path, table, cutting, scans[number].starts)
            log(one_video.line(entry))
            entries.append(entry)
            kept += [(number, place, *named) for place, named in enumerate(cut)]
        for line in listing.summary(others):
            log(line)
        if not kept:
            _raise_no_clip(folder, entries, cutting, slow)
        chosen = splits.assign(entries, groups, given, test_fraction=test_fraction, seed=seed)
        notes = selected.notes + splits.overruled(names, _column(table), selected.given)
        notes += [f"left out: {_slow_note(folder, slow, len(found), cutting)}"] if slow else []
        notes += clip_length.notes(asked, cutting, longest) + splits.notes(entries)
        shape = (cutting.frames, *cutting.size, 3)

        def read(number, place, name, start, caption) -> Clip:
            file = decoded[number].with_suffix(".clips")
            pixels = np.fromfile(file, np.uint8, cutting.bytes, offset=place * cutting.bytes)
            return Clip(pixels.reshape(shape), cutting.fps, start, caption, name)

        def lazy(split: str) -> records.LazyClips:
            clips = [clip for clip in kept if chosen[clip[2]] == split]
            return records.LazyClips(len(clips), lambda i: read(*clips[i]))

        report = dict(folder=readable(folder), files=entries, others=others, notes=notes)
        order = {split: lazy(split) for split in ("train", "val", "test")}
        unfinished.write(order, settings=wanted, report=lambda sums: report, videos=splits.listed(entries))
    manifest, videos = records.manifest(directory), Counter(chosen.values())
    counts = [f"{number} clips of {videos[split]} videos in {split}" for split, number in manifest["splits"].items()]
    log(f"{directory}: {', '.join(counts)}")
    return manifest


def _raise_no_clip(folder: Path, entries: list[dict], cutting: Cutting, slow: Mapping[str, float]) -> None:
    longest = max(entry["frames"] for entry in entries)
    if longest == 0:
        reasons = "; ".join(entry["reason"] for entry in entries[:3])
        raise ValueError(f"none of the {len(entries)} videos in {folder} decodes: {reasons}")
    raise ValueError(
        f"no video in {folder} is long enough: a clip has {cutting.frames} frames at {cutting.fps} fps, "
        f"the longest video has {longest} ({longest / cutting.fps:.2f} s): use fewer frames or a higher fps"
        + (f"; {_slow_note(folder, slow, len(entries), cutting)}" if slow else "")
    )
