"""Clips of the videos in a folder, for a protocol, in constant memory; a report on files that give none."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jvflow.data import listing, video
from jvflow.metrics.protocol import Protocol

IMAGE_FPS = 1
"""The frame rate that folders of images get; it changes nothing without resampling."""


@dataclass
class FolderReport:
    """The videos of a folder that were read, and those that were not.

    Attributes:
      folder: its path.
      videos: files that gave clips; clips: how many.
      broken, short: {file: reason} of files that gave an error, and of those with too few frames.
      sizes: {"640 x 480": files}. odd: {file: size} of the files whose size is not the most common one.
      ignored: a line for each kind of other file.
      files: sha256 of the names of the files that gave clips.
    """

    folder: str
    videos: int = 0
    clips: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    files: str = ""


class FolderClips:
    """Yields (place, video, clip) for the clips of a folder; `report` is complete after the last one."""

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
        others = listing.list_folder(self.folder).others
        self.report = FolderReport(str(folder), ignored=listing.summary(others))

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        report, sizes, names = self.report, {}, hashlib.sha256()
        turn, before = 0, -1
        while not turn or (self.redraw and before < report.clips < self.count):
            before = report.clips
            for number, path in enumerate(self.videos):
                if self.count and report.clips >= self.count:
                    break
                name = listing.name_of(self.folder, path)
                if name in report.broken or name in report.short:
                    continue
                given = 0
                for place, clip in self._clips(name, path, turn):
                    if self.count and report.clips >= self.count:
                        break
                    given += 1
                    report.clips += 1
                    sizes[name] = f"{clip.shape[2]} x {clip.shape[1]}"
                    # a number that no other clip has, whatever the order: the video, the turn, the start
                    yield (number << 40) + (turn << 24) + place, number, clip
                if given and not turn:
                    report.videos += 1
                    names.update(f"{name}\n".encode())
            turn += 1
        report.sizes = dict(Counter(sizes.values()).most_common())
        most = next(iter(report.sizes), "")
        report.odd = {name: size for name, size in sizes.items() if size != most}
        report.files = names.hexdigest()

    def _clips(self, name: str, path: Path, turn: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (start, clip) of one video, and notes why it gives none, or fewer."""
        protocol, report = self.protocol, self.report
        seed = hashlib.sha256(f"{protocol.seed} {turn} {name}".encode()).digest()
        random, chosen, seen, read, problem = np.random.default_rng(list(seed)), None, 0, 0, ""
        try:
            for start, clip, problem, read in _windows(path, protocol, self.fps):  # noqa: B007
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
            report.broken[name] = problem
        elif not seen:
            report.short[name] = f"{read} frames, a clip needs {protocol.span}"
        if chosen is not None:
            yield chosen


def _windows(path: Path, protocol: Protocol, fps: float | None):
    """Yields (start, frames or None, problem, frames read) after each frame; frames if a window ends there.

    A damaged frame or a gap in time begins a new run of frames: no window crosses it.
    """
    held, start, part, problem, read = deque(maxlen=protocol.span), 0, None, "", 0
    step = protocol.window_stride if protocol.window == "all" else 1
    for number, shown in enumerate(video.shown(video.source_of(path, IMAGE_FPS), fps=fps)):
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
