"""FVD of the videos that an evaluation generates, against held-out clips of a data set.

    VideoScorer.of(...)     before anything is generated: the network, the features of real clips, the controls
    scorer.features(...)    features of some generated videos; callers may drop the videos then
    scorer.record(...)      the distance, its interval, its controls, and its curve over time

The network and the features of real clips serve every evaluation of a process: they are loaded, compiled and computed
once. The controls have the protocol of the value:

    frozen        the first frame of each real clip repeated, against all real clips
    noise         a clip of random pixels for each real clip, against all real clips
    real_half     real against real: the clips of every other real video, against those of the others
    frozen_half   the first of these halves frozen, against the second one

The halves have equal numbers of clips, so that their order counts: if frozen video is not above real video, the value
cannot rank videos (`power` is False).
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jvflow.data import pipeline, records
from jvflow.metrics import distances, extractor
from jvflow.metrics.evaluation_protocol import BATCH, bound_network, fit, weights_file
from jvflow.metrics.protocol import Protocol
from jvflow.metrics.score import score_sums
from jvflow.metrics.sums import FeatureSums
from jvflow.parallel import processes

LOG = logging.getLogger(__name__)

KINDS = dict(
    real=lambda place, clip: clip,
    frozen=lambda place, clip: np.repeat(clip[:1], len(clip), axis=0),
    noise=lambda place, clip: np.random.default_rng(place).integers(0, 256, clip.shape, np.uint8),
)
"""What becomes of a real clip at a place, for the distance and for the controls."""

Videos = UInt8[np.ndarray, "b f h w 3"]


class Segments(NamedTuple):
    """The stretches of a data set's clips that take part in a distance.

    Attributes:
      starts: the first frame of each stretch of a clip.
      frames: of a stretch; 0 for all that follow.
      clips: the number of clips, the first ones of the split; 0 for all.
    """

    starts: tuple[int, ...] = (0,)
    frames: int = 0
    clips: int = 0


WHOLE = Segments()


class Features(NamedTuple):
    """Features of clips, in order: what `VideoScorer.features` returns."""

    features: Float[np.ndarray, "n d"]
    places: Int[np.ndarray, "n"]
    groups: Int[np.ndarray, "n"]
    seconds: Float[np.ndarray, "1"]

    @classmethod
    def join(cls, parts: Sequence[tuple]) -> "Features":
        """Returns several features as one; their seconds add up."""
        *rows, seconds = zip(*parts)
        return cls(*map(np.concatenate, rows), np.sum(seconds, axis=0))


@dataclass(frozen=True, eq=False)
class VideoScorer:
    """Scores generated videos against the real clips of a data set.

    Attributes:
      protocol: of the distance.
      network: the feature network.
      real: sums of the features of real clips.
      controls: distances of the controls, and `power`, see above.
      read: what was read: the data set, its key, the split, the clips.
      seconds: that the features of real clips and of controls took.
      adapted: {"frames": [of the named protocol, of this one]} if they differ.
    """

    protocol: Protocol
    network: extractor.Extractor
    real: FeatureSums
    controls: dict
    read: dict
    seconds: float
    adapted: dict = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        text: str,
        data: Path,
        split: str,
        *,
        frames: int,
        videos: int,
        asked: bool = False,
        segments: Segments = WHOLE,
        cure: str = "",
    ) -> "VideoScorer | None":
        """Returns the scorer, or None if `config.evaluate.fvd` is empty or the videos are too short or too few.

        Args:
          text: `config.evaluate.fvd`.
          data, split: the data set, and the split of the real clips.
          frames, videos: of the generated videos.
          asked: whether the command names the protocol: then a reason for None is an error.
          segments: the stretches of the clips.
          cure: how to make longer videos, for the error.

        Raises:
          ValueError: if the extra `metrics` is not installed; or see `asked`.
        """
        if not text:
            return None
        made = records.manifest(data)
        real_frames = segments.frames or made["shape"][0] - max(segments.starts)
        protocol, adapted = fit(text, frames, real_frames, asked=asked, cure=cure)
        if protocol is None:
            return None
        clips = min(segments.clips or made["splits"][split], made["splits"][split]) * len(segments.starts)
        counts = [n * len(_starts(protocol, length, 0)) for n, length in ((videos, frames), (clips, real_frames))]
        if protocol.redraw:
            counts[0] = max(counts[0], protocol.generated_count)
        if min(counts) < 2:
            few = f"2 clips or more of each kind, there are {counts[0]} generated and {counts[1]} real ones"
            if asked:
                raise ValueError(f"--fvd={text} needs {few}: evaluate more videos, or hold out more")
            pipeline.warn_once("warning: no FVD: config.evaluate.fvd=%s needs %s", text, few)
            return None
        found = _real(protocol, weights_file(text), str(data), made.get("key"), split, segments)
        return replace(found, adapted=adapted)

    def features(
        self, videos: Videos, first: int = 0, *, total: int, groups: Sequence[int] | None = None, reverse: bool = False
    ) -> Features:
        """Returns the features of the clips of some videos.

        Args:
          videos: the videos; `first` is the number of the first one among `total`.
          groups: the source of each video, for the interval; by default each is its own.
          reverse: whether frames run back in time; the clips are turned.
        """
        protocol = self.protocol
        turns = -(-protocol.generated_count // total) if protocol.redraw else 1
        groups = range(first, first + len(videos)) if groups is None else groups
        clips = (
            (place, group, clip[::-1] if reverse else clip)
            for turn in range(max(turns, 1))
            for number, (group, video) in enumerate(zip(groups, videos), first)
            for place, clip in _clips(protocol, video, number, turn)
        )
        return _features(self.network, clips)

    def score(self, videos: Videos, *, groups: Sequence[int] | None = None, reverse: bool = False) -> dict:
        """Returns the record of videos that are in memory on every process."""
        rows = lambda part: slice(part * BATCH, (part + 1) * BATCH)
        of = lambda part: None if groups is None else groups[rows(part)]
        make = lambda part: tuple(
            self.features(videos[rows(part)], part * BATCH, total=len(videos), groups=of(part), reverse=reverse)
        )
        parts = processes.distributed_map(-(-len(videos) // BATCH), make, f"{self.protocol.name} FVD: generated clips")
        return self.record(Features.join(parts))

    def record(self, made: Features) -> dict:
        """Returns the score of generated videos (`jvflow.metrics.score.Score`), with `controls` and `over_time`.

        `over_time` has (first frame, distance) of the clips that start at each frame, by themselves, if the protocol
        takes all windows of a video.
        """
        protocol = self.protocol
        turns = (made.places >> 24) & 0xFFFF  # each video gives a clip before any gives its second one
        order = np.lexsort((made.places, turns))[: protocol.generated_count or None]
        features, places, groups = (each[order] for each in made[:3])
        sums = FeatureSums.empty(self.network.width).add(features, places, groups)
        seconds = dict(real=round(self.seconds, 2), generated=round(float(made.seconds[0]), 2))
        score = score_sums(sums, self.real, self.network, inputs=dict(real=self.read), seconds=seconds).as_json()
        score |= dict(controls=self.controls, adapted=self.adapted)
        if self.controls["power"] is False:
            score["reliable"] = False
            score["warnings"] = score["warnings"] + [self._powerless()]
            pipeline.warn_once("warning: %s", self._powerless())
        if protocol.window == "all":
            starts, options = places & 0xFFFFFF, dict(ddof=protocol.ddof, precision=protocol.precision)
            each = {int(start): features[starts == start] for start in np.unique(starts)}
            score["over_time"] = [
                (start, distances.frechet_of_rows(rows, self.real.rows, **options))
                for start, rows in each.items()
                if len(rows) > 1
            ]
        LOG.info("FVD (%s): %.4g, of %s clips", protocol.name, score["value"], f"{len(places):,}")
        return score

    def _powerless(self) -> str:
        real, frozen = self.controls["real_half"], self.controls["frozen_half"]
        return (
            f"this FVD cannot rank videos: real video is at {real:.4g}, frozen video at {frozen:.4g}, of the same "
            "number of clips: use more held-out videos"
        )

    @property
    def described(self) -> dict:
        """The entries in which two values must agree: the protocol, the network, the real clips."""
        real = dict(real_clips=self.real.moments.count, real_split=self.read["split"])
        return asdict(self.protocol) | dict(extractor=self.network.network.sha256, **real)


def sources(data: Path, split: str, count: int) -> list[int]:
    """Returns a number for the source video of each of the first `count` clips of a split."""
    clips = pipeline.open_split(data, split)
    return [_source(clips[index], index) for index in range(min(count, len(clips)))]


def _source(clip: dict, index: int) -> int:
    name = clip.get("source") or f"clip {index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


def _starts(protocol: Protocol, frames: int, number: int, turn: int = 0) -> list[int]:
    """Returns the first frames of the clips of a video of `frames` frames."""
    last = frames - protocol.span
    if protocol.window == "all":
        return list(range(0, last + 1, protocol.window_stride))
    if protocol.window == "random":
        return [int(np.random.default_rng((protocol.seed, turn, number)).integers(last + 1))]
    return [0]


def _clips(protocol: Protocol, video: np.ndarray, number: int, turn: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (place, clip) of a video; the place holds the video's number, the turn and the first frame."""
    for start in _starts(protocol, len(video), number, turn):
        yield (number << 40) + (turn << 24) + start, video[start : start + protocol.span : protocol.frame_step]


def _features(network: extractor.Extractor, clips: Iterator[tuple[int, int, np.ndarray]]) -> Features:
    begin, found = time.monotonic(), []
    while some := list(itertools.islice(clips, network.batch)):
        places, groups, pixels = zip(*some)
        prepared = np.stack([extractor.prepare(clip, network.protocol) for clip in pixels])
        found.append((network(prepared), np.array(places, np.int64), np.array(groups, np.int64)))
    empty = np.zeros((0, network.width), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = map(np.concatenate, zip(*found)) if found else empty
    return Features(*rows, np.array([time.monotonic() - begin]))


@lru_cache(maxsize=4)
def _real(
    protocol: Protocol, weights: str | None, data: str, key: str | None, split: str, segments: Segments
) -> VideoScorer:
    """Returns the scorer for real clips; `key` tells a data set from another one that was in its folder before."""
    source, network = pipeline.open_split(data, split), bound_network(protocol, weights)
    length = segments.frames or len(source[0]["video"]) - max(segments.starts)
    each = len(segments.starts) * len(_starts(protocol, length, 0))
    count = min(segments.clips or len(source), len(source), -(-protocol.real_count // each) or len(source))

    def clips(part: int) -> Iterator[tuple[int, int, np.ndarray]]:
        for index in range(part * BATCH, min((part + 1) * BATCH, count)):
            record = source[index]
            for stretch, start in enumerate(segments.starts):
                video = record["video"][start : start + segments.frames if segments.frames else None]
                for place, clip in _clips(protocol, video, index * len(segments.starts) + stretch):
                    yield place, _source(record, index), clip

    def make(part: int) -> tuple:
        kinds = (_features(network, ((p, g, alter(p, clip)) for p, g, clip in clips(part))) for alter in KINDS.values())
        return tuple(itertools.chain(*kinds))

    LOG.info("FVD (%s): reads the real clips of split %s of %s", protocol.name, split, data)
    made = processes.distributed_map(-(-count // BATCH), make, f"{protocol.name} FVD: real clips")
    keep, size = slice(protocol.real_count or None), len(Features._fields)
    joined = [Features.join([each[i : i + size] for each in made]) for i in range(0, size * len(KINDS), size)]
    seconds = sum(float(each.seconds[0]) for each in joined)
    found = {name: Features(*(rows[keep] for rows in each[:3]), each.seconds) for name, each in zip(KINDS, joined)}
    sums = FeatureSums.empty(network.width).add(*found["real"][:3])
    LOG.info("FVD (%s): %s clips: %s; %.1f s", protocol.name, ", ".join(KINDS), len(sums.places), seconds)
    read = dict(data=data, key=key, split=split, **segments._asdict())
    return VideoScorer(protocol, network, sums, _controls(protocol, **found), read, seconds)


def _controls(protocol: Protocol, real: Features, frozen: Features, noise: Features) -> dict:
    """Returns the distances of the controls; None where there are too few clips for two halves."""
    distance = lambda a, b: distances.frechet_of_rows(a, b, ddof=protocol.ddof, precision=protocol.precision)
    videos = list(dict.fromkeys(real.groups.tolist()))
    first = np.isin(real.groups, videos[::2]) if len(videos) > 1 else np.arange(len(real.groups)) % 2 == 0
    found: dict = {name: distance(x.features, real.features) for name, x in (("frozen", frozen), ("noise", noise))}
    found |= dict(real_half=None, frozen_half=None, power=None)
    if min(first.sum(), (~first).sum()) > 1:
        found["real_half"] = distance(real.features[first], real.features[~first])
        found["frozen_half"] = distance(frozen.features[first], real.features[~first])
        found["power"] = found["frozen_half"] > found["real_half"]
    return found | dict(clips=[int(first.sum()), int((~first).sum())], videos=len(videos))
