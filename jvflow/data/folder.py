"""A folder of videos as clips, and as a data set with a train and a test split.

A video is a file, or a folder of images. Each is decoded, brought to a constant rate, resized, and
cut: clip c of a shot is its frames [c stride, c stride + frames), so that no clip crosses a scene cut
(`jvflow.data.cuts`). What is left at the end of a shot is dropped and counted.
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
from jvflow.data import cuts, records, video
from jvflow.data.key import Hashes
from jvflow.data.records import Clip
from jvflow.data.files import check_room, write_text

LOG = logging.getLogger(__name__)
VERSION = 3
"""Raised when the same files and settings give other clips than before."""
SLOWER = 0.99
"""Of the rate of clips, what a video may have at least: 23.976 for 24. Below, clips would show frames twice, and nothing flows between those."""


@dataclass(frozen=True)
class Cutting:
    """How videos become clips.

    Attributes:
      frames: frames in a clip.
      fps: frames per second in a clip; `video.frames` says how a source is resampled.
      size: (height, width).
      fit: "crop" or "squeeze", see `video.resize`.
      stride: frames from one clip's first to the next one's; `frames` by default: no overlap.
      image_fps: frames per second of folders of images; 0 skips them.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    fit: str = "crop"
    stride: int | None = None
    image_fps: float = 0.0

    def __post_init__(self):
        if self.stride is None:
            object.__setattr__(self, "stride", self.frames)
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"frames and stride must be at least 1, not {self.frames} and {self.stride}")
        video.rate(self.fps)  # a wrong one raises here, and so does a wrong size or fit
        if self.image_fps:
            video.rate(self.image_fps)
        video.resize(np.zeros((1, 1, 3), np.uint8), self.size, self.fit)

    @property
    def bytes(self) -> int:
        """Of a clip."""
        return self.frames * math.prod(self.size) * 3


def find(folder: str | os.PathLike) -> list[Path]:
    """Returns the videos below `folder`, sorted; hidden ones are left out.

    A folder that has images directly in it, and no video file, is one video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    visible = [path for path in (folder, *folder.rglob("*")) if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    files = [path for path in visible if path.suffix.lower() in video.FILES and path.is_file()]
    beside = {path.parent for path in files}
    found = files + [path for path in visible if path.is_dir() and path not in beside and video.images_in(path)]
    if not found:
        files, images = (", ".join(suffix[1:] for suffix in suffixes) for suffixes in (video.FILES, video.IMAGES))
        raise ValueError(f"no video files ({files}) and no folders of images ({images}) in {folder}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def clips(
    folder: str | os.PathLike, *, captions: str = "", report: Callable[[dict], None] | None = None, **cutting
) -> Iterator[Clip]:
    """Cuts the videos of a folder into clips, video after video in sorted order.

    A video that does not decode is skipped; one that breaks later keeps the clips before the break.

    Args:
      folder: searched recursively, see `find`.
      captions: a table of captions, see `jvflow.data.captions`.
      report: called after each video with a dict: file, bytes, frames (after resampling), shots,
        clips, dropped (frames in no clip), error (None, or why decoding stopped).
      **cutting: of a `Cutting`.
    """
    cutting = Cutting(**cutting)
    folder, found = Path(folder), find(folder)
    table = _captions(folder, found, captions, LOG.info)
    items = (item for path in found for item in _of_video(folder, path, table, cutting))
    return _clips(items, report or (lambda entry: None))


def _clips(items, report) -> Iterator[Clip]:
    for item in items:
        if isinstance(item, dict):
            report(item)
        else:
            yield item


def _captions(folder: Path, found: list[Path], path: str, log: Callable[[str], None]) -> dict[str, str]:
    """The table of captions, by the name of their video; empty without a table."""
    file = texts.find(folder, path)
    if file is None:
        return {}
    table = texts.read(file)
    strangers = sorted(set(table) - {_name(folder, path) for path in found})
    if strangers:
        some = ", ".join(strangers[:3])
        said = f"{file} names {len(strangers)} of {len(table)} videos that are not in {folder}: {some}"
        if len(strangers) == len(table):
            raise ValueError(f"{said}; {texts.NAME} is the path below that folder, suffix included")
        log(said)
    return table


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _of_video(folder: Path, path: Path, table: dict, cutting: Cutting) -> Iterator[Clip | dict]:
    """The clips of one video, and last its report."""
    name = _name(folder, path)
    size = sum(file.stat().st_size for file in _files(path))
    entry = dict(file=name, bytes=size, frames=0, shots=0, clips=0, dropped=0, error=None)
    try:
        yield from _cut(path, entry, _caption(path, name, table), cutting)
    except ValueError as reason:
        entry["error"] = str(reason)
    yield entry


def _files(path: Path) -> list[Path]:
    """The files of a video: itself, or its images in order."""
    return video.Images(path, 0.0).files() if path.is_dir() else [path]


def _caption(path: Path, name: str, table: dict[str, str]) -> str:
    return table[name] if name in table else texts.beside(path)


def _cut(path: Path, entry: dict, caption: str, cutting: Cutting) -> Iterator[Clip]:
    """The clips of one video; `entry` counts along."""
    frames, fps, stride = cutting.frames, cutting.fps, cutting.stride
    source = video.Images(path, cutting.image_fps) if path.is_dir() else path
    current, length = None, 0  # the shot, and how many frames of it were read
    window = deque(maxlen=frames)
    for number, (shot, frame) in enumerate(cuts.shots(source, fps)):
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
    folder: str | os.PathLike, *, captions: str = "", test_fraction: float = 0.2, seed: int = 0, hashes: Hashes | None = None, **cutting
) -> dict:
    """What decides the clips that `build` makes of a folder, with the content of its videos and their captions, wherever it lies. Arguments as for `build`."""
    folder, found, hashes = Path(folder), find(folder), hashes or Hashes()
    table = _captions(folder, found, captions, lambda line: None)
    cutting = asdict(Cutting(**cutting))
    sources = {}
    for path in found:
        name = _name(folder, path)
        with suppress(ValueError):  # one that cannot be read is said where its video is
            sources[name] = dict(sha256=hashes(_files(path)), caption=_caption(path, name, table))
    return dict(
        kind="folder", version=VERSION, **dict(cutting, fps=float(cutting["fps"]), size=list(cutting["size"])), test_fraction=test_fraction, seed=seed, sources=sources
    )


def expected(folder: str | os.PathLike, **cutting) -> int:
    """How many clips the videos of a folder give, as far as they declare their lengths, at most.

    Raises:
      ValueError: where a video that is long enough for a clip has fewer frames per second than the clips (`SLOWER`).
    """
    cutting, count, slow = Cutting(**cutting), 0, []
    for path in find(folder):
        images = path.is_dir()
        try:
            own, seconds = (cutting.image_fps, len(_files(path)) / (cutting.image_fps or math.inf)) if images else video.declared(path)
        except ValueError:  # said where it is decoded
            continue
        frames = math.ceil(seconds * cutting.fps)
        if frames >= cutting.frames:
            count += (frames - cutting.frames) // cutting.stride + 1
            if own < SLOWER * cutting.fps:
                slow.append((own, f"{_name(Path(folder), path)} {own:.4g}" + " (config.data.image_fps)" * images))
    if slow:
        more = [f"and {len(slow) - 5} more"] * (len(slow) > 5)
        raise ValueError(
            f"{len(slow)} videos in {folder} have fewer frames per second than config.data.fps={cutting.fps}, and clips would show frames twice: "
            f"{', '.join([said for _, said in sorted(slow)[:5]] + more)}: use --config.data.fps={min(slow)[0]:.4g}, or take them out of the folder"
        )
    return count


def build(
    folder: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    captions: str = "",
    test_fraction: float = 0.2,
    seed: int = 0,
    hashes: Hashes | None = None,
    log: Callable[[str], None] = LOG.info,
    **cutting,
) -> dict:
    """Builds a data set in `directory` from the videos of a folder; returns its manifest. Arguments as for `clips`, and the `hashes` of files that are known.

    The clips whose hash of (seed, file, start) is smallest are the test split: `test_fraction` of
    them rounded, at least one (none of them at 0), and at least one is left to train; a single clip trains. Clips are
    drawn one by one, so both splits may show one file, and with `stride < frames` share frames.

    Decoded clips wait beside `directory`, not in memory: the disk must hold them twice. A build that
    was interrupted continues after the last video it decoded, and gives the same bytes; once a file or
    a caption has changed, it begins anew.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction must be at least 0 and below 1, not {test_fraction}")
    records.check_free(directory)
    count = expected(folder, **cutting)
    decisive = settings(folder, captions=captions, test_fraction=test_fraction, seed=seed, hashes=hashes, **cutting)
    cutting = Cutting(**cutting)
    folder, found = Path(folder), find(folder)
    need = 2 * count * cutting.bytes - records.written(directory)
    check_room(directory, need, f"{count} clips of {cutting.frames} x {' x '.join(map(str, cutting.size))}, twice while they are cut,")
    table = _captions(folder, found, captions, log)
    under_way = records.Build(directory, decisive)
    decoded = [under_way.scratch / f"{number:06d}" for number in range(len(found))]
    try:
        entries, kept = [], []  # kept: of each clip, where it lies and what it is called
        for number, path in enumerate(found):
            entry, cut = _decoded(decoded[number], folder, path, table, cutting)
            end = f"; stopped: {entry['error']}" if entry["error"] else ""
            log(f"{entry['file']}: {entry['clips']} clips of {entry['shots']} shots, {entry['dropped']} frames dropped{end}")
            entries.append(entry)
            kept += [(number, place, *names) for place, names in enumerate(cut)]
        if not kept:
            _raise_no_clip(folder, entries, cutting)
        test = set(_draw_test([(name, start) for _, _, name, start, _ in kept], test_fraction, seed))
        shape = (cutting.frames, *cutting.size, 3)

        def stored(chosen: list[int]) -> records.Lazy:
            return records.Lazy(len(chosen), lambda i: read(*kept[chosen[i]]))

        def read(number, place, name, start, caption) -> Clip:
            pixels = np.fromfile(decoded[number].with_suffix(".clips"), np.uint8, cutting.bytes, offset=place * cutting.bytes)
            return Clip(pixels.reshape(shape), cutting.fps, start, caption, name)

        train = [i for i in range(len(kept)) if i not in test]
        under_way.write(
            {"train": stored(train), "test": stored(sorted(test))}, settings=decisive, report=lambda sums: dict(folder=str(folder), files=entries)
        )
    except ValueError:
        under_way.remove()
        raise
    manifest = records.manifest(directory)
    log(f"{directory}: " + ", ".join(f"{n} clips in {k}" for k, n in manifest["splits"].items()))
    return manifest


def _decoded(beside: Path, *of) -> tuple[dict, list]:
    """The report of one video, and (source, start, caption) of each clip; their pixels go to `beside`.clips.

    What was decoded before is read back: the report is written last.
    """
    report = beside.with_suffix(".json")
    if not report.is_file():
        cut = []
        with open(beside.with_suffix(".clips"), "wb") as pixels:
            for item in _of_video(*of):
                if isinstance(item, dict):
                    entry = item
                else:
                    pixels.write(item.video)
                    cut.append((item.source, item.start, item.caption))
        write_text(report, json.dumps([entry, cut]))
    entry, cut = json.loads(report.read_text("utf-8"))
    return entry, cut


def _draw_test(kept: list[tuple[str, float]], test_fraction: float, seed: int) -> list[int]:
    """Returns the indices of the test clips; the draw does not depend on the machine."""
    rank = [
        hashlib.sha256(f"{seed}/{name}/{start!r}".encode()).digest() for name, start in kept
    ]
    count = min(max(1, round(test_fraction * len(kept))), len(kept) - 1) if test_fraction else 0
    return sorted(range(len(kept)), key=rank.__getitem__)[:count]


def _raise_no_clip(folder: str | os.PathLike, entries: list[dict], cutting: Cutting) -> None:
    longest = max(entry["frames"] for entry in entries)
    if longest == 0:
        reasons = "; ".join(entry["error"] for entry in entries[:3])
        raise ValueError(f"none of the {len(entries)} videos in {folder} decodes: {reasons}")
    raise ValueError(
        f"no video in {folder} is long enough: a clip has {cutting.frames} frames at {cutting.fps} fps, the longest video {longest} "
        f"({longest / cutting.fps:.2f} s): use smaller frames or higher fps"
    )
