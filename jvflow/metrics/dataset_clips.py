"""Clips of a data set that training built (`jvflow.data.records`), for a protocol; or of a folder of videos."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from jvflow.data import pipeline, records, video
from jvflow.metrics.clips import FolderClips, FolderReport
from jvflow.metrics.protocol import Protocol


def open_clips(
    source: str | os.PathLike, protocol: Protocol, count: int, *, fps: float | None = None, redraw: bool = False
) -> FolderClips:
    """Returns the clips of a source; arguments as for `FolderClips`.

    Args:
      source: a folder of videos; DATASET, a data set, of which the held-out split is read; or DATASET:SPLIT.

    Raises:
      ValueError: if there is no such folder or split, or the clips of the data set do not fit the protocol.
    """
    options, path = dict(fps=fps, redraw=redraw), os.fspath(source)
    if records.is_dataset(path):
        return DatasetClips(path, None, protocol, count, **options)
    folder, colon, split = path.rpartition(":")
    if colon and not Path(path).exists():
        if records.is_dataset(folder):
            return DatasetClips(folder, split, protocol, count, **options)
        if Path(folder).is_dir():
            raise ValueError(
                f"{path}: {folder} is no data set (it has no {records.MANIFEST}), and only data sets have splits: "
                f"leave out :{split}, or give the folder of a data set"
            )
    return FolderClips(source, protocol, count, **options)


class DatasetClips(FolderClips):
    """Yields (place, video, clip) for a split of a data set; each stored clip counts as a video of `FolderClips`.

    The number of a video comes from the source that the clip was cut from, so that clips of one source stay together.
    """

    def __init__(
        self, directory: str, split: str | None, protocol: Protocol, count: int, *, fps: float | None, redraw: bool
    ):
        """Opens the split, the held-out one if it is None; raises ValueError if its clips do not fit the protocol."""
        records.check_readable(directory)
        manifest, split = records.manifest(directory), pipeline.held_out(directory) if split is None else split
        self._source = pipeline.open_split(directory, split)
        first = self._source[0]
        frames, rate = len(first["video"]), float(first["fps"])
        if frames < protocol.span:
            raise ValueError(
                f"the clips of {directory} have {frames} frames and a clip of the protocol needs {protocol.span}: use "
                "fewer (--set=frames=N), or build the data set with more (config.data.frames)"
            )
        if fps is not None and fps != rate:
            raise ValueError(
                f"the clips of {directory} have {rate:g} frames per second, not {fps:g}: leave out --fps, or build the "
                f"data set with config.data.fps={fps:g}"
            )
        self.folder, self.protocol, self.count, self.fps, self.redraw = Path(directory), protocol, count, None, redraw
        self.names = [f"{split} {number}" for number in range(len(self._source))]
        self.videos = self.names
        self.report = FolderReport(directory, rate, split=split, key=manifest["key"])
        self._begin()

    def _shown(self, number: int) -> Iterator[video.Shown]:
        clip = self._source[number]
        # the first bytes of a checksum: every process finds the same number without reading the other clips
        name = hashlib.sha256(clip["source"].encode()).digest()[:7] if clip.get("source") else b""
        self._current = int.from_bytes(name, "big") if name else number
        return (video.Shown(place / float(clip["fps"]), 0, frame) for place, frame in enumerate(clip["video"]))

    def _group(self, number: int) -> int:
        return self._current  # the video that is being read
