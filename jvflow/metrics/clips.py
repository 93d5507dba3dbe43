"""Clips of the videos in a folder, for a protocol, in constant memory; a report on files that give none."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jvflow.data import listing, video
from jvflow.metrics.perceptual import temporal_flickering
from jvflow.metrics.protocol import Protocol

IMAGE_FPS = 1
"""The frame rate that folders of images get; it changes nothing without resampling."""


@dataclass
class FolderReport:
    """The videos of a folder that were read, and those that were not.

    Attributes:
      folder: its path. fps: frames per second of the clips; None if every video keeps its own frames.
      videos: files that gave clips; clips: how many.
      broken, short: {file: reason} of files that gave an error, and of those with too few frames.
      sizes: {"640 x 480": files}. odd: {file: size} of the files whose size is not the most common one.
      ignored: a line for each kind of other file.
      flickering: mean of `temporal_flickering` over the clips; None if they are single frames.
      files: sha256 of the names of the files that gave clips.
      split, key: of a data set, see `jvflow.metrics.dataset_clips`; "" for a folder.
    """

    folder: str
    fps: float | None = None
    videos: int = 0
    clips: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    flickering: float | None = None
    files: str = ""
    split: str = ""
    key: str = ""


@dataclass
class Reading:
    """Records the outcome of reading one video in one turn through the folder.

    Attributes:
      number: the place of the video in `FolderClips.videos`.
      turn: 0, and above it the turns that draw further random clips.
      clips: how many were read. more: whether reading stopped before a further clip.
      size: of its first clip, such as "640 x 480".
      flickering: of each clip.
      broken, short: the reason, or "".
    """

    number: int
    turn: int
    clips: int = 0
    more: bool = False
    size: str = ""
    flickering: list[float] = field(default_factory=list)
    broken: str = ""
    short: str = ""


class FolderClips:
    """Yields (place, video, clip) for the clips of a folder; `report` is complete after the last one.

    `turns`, `read`, `note` and `finish` are the steps of this loop, for processes that share the videos.
    """

    def __init__(self, folder, protocol: Protocol, count: int, *, fps: float | None = None, redraw: bool = False):
        """Lists the folder; raises ValueError if it holds no video.

        Args:
          folder: videos, and folders of images.
          protocol: which clips of each video.
          count: the number of clips after which to stop; 0 for all.
          fps: frames per second to which all videos are resampled; None keeps the frames as they are.
          redraw: take further random clips of the same videos until there are `count`.
        """
        self.folder, self.protocol, self.count, self.fps, self.redraw = Path(folder), protocol, count, fps, redraw
        self.videos = listing.find_videos(self.folder)
        self.names = [listing.name_of(self.folder, path) for path in self.videos]
        others = listing.list_folder(self.folder).others
        self.report = FolderReport(str(folder), fps, ignored=listing.summary(others))
        self._begin()

    def _begin(self) -> None:
        self._sizes, self._digest, self._flickering, self._noted = {}, hashlib.sha256(), 0.0, 0

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        for turn, numbers in self.turns():
            for number in numbers:
                if self.left == 0:
                    break
                reading = Reading(number, turn)
                yield from self.read(reading, self.left)
                self.note(reading)
        self.finish()

    @property
    def left(self) -> int | None:
        """Returns how many clips are left to read; None for all that there are."""
        return max(self.count - self.report.clips, 0) if self.count else None

    @property
    def progress(self) -> tuple[int, int, str]:
        """Returns how many units are done, of how many, and the unit: clips if their number is limited, else videos."""
        return (self.report.clips, self.count, "clip") if self.count else (self._noted, len(self.videos), "video")

    def turns(self) -> Iterator[tuple[int, list[int]]]:
        """Yields (turn, numbers of the videos to read); a turn after the first draws further clips of whole videos."""
        report, turn, before = self.report, 0, -1
        while not turn or (self.redraw and before < report.clips < self.count):
            before = report.clips
            without = report.broken.keys() | report.short.keys()
            yield turn, [number for number, name in enumerate(self.names) if name not in without]
            turn += 1

    def read(self, reading: Reading, most: int | None) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields (place, video, clip) for at most `most` clips of one video, and completes `reading`."""
        with closing(self._clips(reading)) as clips:
            for start, clip in clips:
                if reading.clips == most:
                    reading.more = True
                    return
                reading.clips += 1
                reading.size = reading.size or f"{clip.shape[2]} x {clip.shape[1]}"
                if len(clip) > 1:
                    reading.flickering.append(temporal_flickering(clip))
                # a number that no other clip has, whatever the order: the video, the turn, the start
                yield (reading.number << 40) + (reading.turn << 24) + start, self._group(reading.number), clip

    def note(self, reading: Reading) -> int:
        """Adds one video to the report; returns how many of its clips belong to the set.

        Call it in the order of `turns`, for a video that was read whole or up to `left` clips. Ignores videos after
        the last clip of the set, and problems that come after it.
        """
        report, name = self.report, self.names[reading.number]
        self._noted += 1
        if self.left == 0:
            return 0
        used = reading.clips if self.left is None else min(reading.clips, self.left)
        report.clips += used
        self._flickering += sum(reading.flickering[:used])
        if used == reading.clips and not reading.more:
            report.broken |= {name: reading.broken} if reading.broken else {}
            report.short |= {name: reading.short} if reading.short else {}
        if used:
            self._sizes.setdefault(name, reading.size)
        if used and not reading.turn:
            report.videos += 1
            self._digest.update(f"{name}\n".encode())
        return used

    def finish(self) -> None:
        """Completes the report."""
        report = self.report
        report.sizes = dict(Counter(self._sizes.values()).most_common())
        most = next(iter(report.sizes), "")
        report.odd = {name: size for name, size in self._sizes.items() if size != most}
        if self.protocol.frames > 1 and report.clips:
            report.flickering = self._flickering / report.clips
        report.files = self._digest.hexdigest()

    def _shown(self, number: int) -> Iterator[video.Shown]:
        """Returns the frames of a video."""
        return video.shown(video.source_of(self.videos[number], IMAGE_FPS), fps=self.fps)

    def _group(self, number: int) -> int:
        """Returns a number that clips share if they are not independent."""
        return number

    def _clips(self, reading: Reading) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (start, clip) of one video, and notes why it gives none, or fewer."""
        protocol, name = self.protocol, self.names[reading.number]
        seed = hashlib.sha256(f"{protocol.seed} {reading.turn} {name}".encode()).digest()
        random, chosen, seen, read, problem = np.random.default_rng(list(seed)), None, 0, 0, ""
        try:
            for start, clip, problem, read in _windows(self._shown(reading.number), protocol):  # noqa: B007
                if clip is None:
                    continue
                seen += 1
                if protocol.window == "random":  # each of the windows so far is chosen with the same probability
                    chosen = (start, np.stack(clip)) if random.integers(seen) == 0 else chosen
                elif protocol.window == "first":
                    yield start, np.stack(clip)
                    return
                else:
                    yield start, np.stack(clip)
        except ValueError as error:
            problem = str(error)
        if problem:
            reading.broken = problem
        elif not seen:
            reading.short = f"{read} frame{'s' * (read != 1)}, a clip needs {protocol.span}"
            if read >= protocol.span:
                reading.short += " in a row, without a change of size or a gap in time"
        if chosen is not None:
            yield chosen


def number_of(places: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Returns the number of the video of each clip, from its place."""
    return places >> 40


def _windows(frames: Iterable[video.Shown], protocol: Protocol):
    """Yields (start, frames or None, problem, frames read) after each frame; frames if a window ends there.

    A damaged frame or a gap in time begins a new run of frames: no window crosses it.
    """
    held, start, part, problem, read = deque(maxlen=protocol.span), 0, None, "", 0
    step = protocol.window_stride if protocol.window == "all" else 1
    for number, shown in enumerate(frames):
        if shown.damage or (part is not None and shown.part != part) or (held and held[-1].shape != shown.frame.shape):
            held.clear()
            start = number
            problem = shown.damage or problem
        part = shown.part
        read = number + 1
        if shown.frame is None:
            yield number, None, problem, read
            start = number + 1
            continue
        held.append(shown.frame)
        first = number + 1 - protocol.span
        whole = len(held) == protocol.span and (first - start) % step == 0
        yield first, list(held)[:: protocol.frame_step] if whole else None, problem, read
