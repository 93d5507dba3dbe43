"""Scores a set of videos against real ones by a protocol; the result is a record that holds everything about it."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from jvflow.metrics import controls as control_videos
from jvflow.metrics import distances, gather, neighbours, record
from jvflow.metrics.clips import FolderClips
from jvflow.metrics.dataset_clips import open_clips
from jvflow.metrics.extractor import Extractor
from jvflow.metrics.perceptual import temporal_flickering
from jvflow.metrics.protocol import NOTES, Protocol, preset
from jvflow.metrics.sums import FeatureSums
from jvflow.parallel import progress

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """A distance between generated and real videos.

    Attributes:
      metric: "fvd" or "fid"; value: the distance.
      interval: see `jvflow.metrics.distances.bootstrap`.
      kernel_distance: (2) of that file, on the same features. infinity: (3), or None with few clips.
      precision_recall: see `jvflow.metrics.neighbours`; None with few clips.
      flickering: for each set of clips the mean of `temporal_flickering`: 1 for frozen video; {} for frames.
      reliable: False if a warning says that the number of samples makes the value meaningless on its own.
      power: False if the distance does not tell altered real videos from real ones, None if `controls` is None.
      controls: see `jvflow.metrics.controls.measure`; None if nobody asked for them.
      warnings: sentences for the reader.
      protocol: every entry of the protocol.
      extractor: the network, the checksum of its parameters, their file.
      counts: clips and videos of both sets. seeds, seconds: of this computation.
      revision, versions: see `jvflow.metrics.record`.
      inputs: what was read of each folder.
    """

    metric: str
    value: float
    interval: dict
    kernel_distance: float
    infinity: dict | None
    precision_recall: dict | None
    flickering: dict
    reliable: bool
    power: bool | None
    controls: dict | None
    warnings: list[str]
    protocol: dict
    extractor: dict
    counts: dict
    seeds: dict
    revision: str
    versions: dict
    seconds: dict
    inputs: dict

    def as_json(self) -> dict[str, Any]:
        """Returns the record for a JSON file."""
        return asdict(self)


def score_folders(
    generated,
    real,
    protocol: Protocol,
    *,
    weights=None,
    batch: int = 8,
    fps: float | None = None,
    seed: int = 0,
    controls: bool = False,
) -> Score:
    """Returns the score of the videos in the folder `generated` against those in the folder `real`.

    Args:
      generated, real: folders of videos, or of folders of images; or a data set, see `jvflow.metrics.dataset_clips`.
        Broken, short and odd-sized videos are reported in the record and do not end the command.
      protocol: see `jvflow.metrics.protocol`.
      weights: a file with the parameters of the network; default: those of the extra `metrics`.
      batch: clips that the network sees at a time.
      fps: frames per second to which all videos are resampled; None keeps their frames.
      seed: of the bootstrap, and of the halves of the controls.
      controls: also score altered halves of the real videos; see `jvflow.metrics.controls`.

    Raises:
      ValueError: if a folder gives fewer than two clips, the weights are missing, or the controls lack videos.

    The processes of a job share the videos, and all of them must call it. Each gets the record, and the record is that
    of one process up to rounding (`jvflow.metrics.gather`). The controls are computed by the primary process alone.
    """
    real_clips = lambda: open_clips(real, protocol, protocol.real_count, fps=fps)

    def make_sets() -> dict:
        sets = {
            "real": real_clips(),
            "generated": open_clips(generated, protocol, protocol.generated_count, fps=fps, redraw=protocol.redraw),
        }
        if controls:
            control_videos.check_count(len(sets["real"].videos))
        return sets

    sets = gather.primary_first(make_sets)
    extractor, sums, seconds = gather.primary_first(lambda: Extractor(protocol, weights, batch)), {}, {}
    for name, clips in sets.items():
        begin = time.monotonic()
        sums[name] = _run(extractor, gather.sums(extractor, clips), f"{name} videos", clips)
        seconds[name] = round(time.monotonic() - begin, 2)
        report = clips.report
        if sums[name].moments.count < 2:
            raise ValueError(
                f"{clips.folder} gives {report.clips} clips of {protocol.span} frames, and a distance needs 2 or more: "
                f"{len(report.short)} videos are too short and {len(report.broken)} broken "
                f"(of {len(clips.videos)}); use longer videos or fewer frames (--set=frames={protocol.frames // 2})"
            )
        if controls and name == "real":
            halves = control_videos.halves(sums[name], seed)
    reports = {name: clips.report for name, clips in sets.items()}
    flickering = {name: each.flickering for name, each in reports.items() if each.flickering is not None}
    inputs = {name: asdict(each) for name, each in reports.items()}

    def finish() -> dict:
        found = None
        if controls:
            begin = time.monotonic()
            LOG.info("controls: %s clips, %s", len(halves[1].rows), ", ".join(control_videos.controls_of(protocol)))
            changed = control_videos.features(extractor, real_clips(), halves[1])
            found = control_videos.measure(*halves, changed, protocol, seed)
            seconds["controls"] = round(time.monotonic() - begin, 2)
        options = dict(controls=found, flickering=flickering, inputs=inputs, seconds=seconds, seed=seed)
        return score_sums(sums["generated"], sums["real"], extractor, **options).as_json()

    return Score(**gather.from_primary(finish))


def fvd(real, generated, protocol: str | Protocol = "original", weights=None, *, batch: int = 8) -> Score:
    """Returns the Frechet video distance of two sets of clips.

    Args:
      real, generated: uint8 (n, f, h, w, 3), or iterables of clips (f, h, w, 3); each clip counts as a video.
      protocol: the name of a preset, or a `Protocol`. Each clip is taken whole, with its own number of frames.
      weights: see `score_folders`.
    """
    protocol = preset(protocol) if isinstance(protocol, str) else protocol
    if protocol.metric != "fvd":
        raise ValueError(f"protocol {protocol.name} is of {protocol.metric}: use one of fvd, or score_folders")
    extractor, sums, flickering, frames = Extractor(protocol, weights, batch), {}, {}, set()
    for name, clips in dict(real=real, generated=generated).items():
        values = []
        sums[name] = _run(extractor, extractor.sums(_checked(clips, name, frames, values)), name)
        flickering[name] = float(np.mean(values)) if values else 0.0
    extractor.protocol = replace(protocol, frames=next(iter(frames), protocol.frames))
    return score_sums(sums["generated"], sums["real"], extractor, flickering=flickering)


def _checked(
    clips: Iterable, name: str, frames: set[int], flickering: list[float]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (place, video, clip), and adds the frames and the flickering of each clip."""
    for number, clip in enumerate(clips):
        clip = np.asarray(clip)
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(f"{name} clip {number} is {clip.dtype} {clip.shape}: give uint8 (f, h, w, 3)")
        frames.add(len(clip))
        if len(frames) > 1:
            raise ValueError(f"clips have {' and '.join(map(str, sorted(frames)))} frames: cut them to one length")
        flickering.append(temporal_flickering(clip))
        yield number, number, clip


def _run(extractor: Extractor, sums: Iterator[FeatureSums], what: str, clips: FolderClips | None = None) -> FeatureSums:
    """Returns the last of some running sums; shows progress, that of `clips` where the sums are of a folder."""
    total, before = FeatureSums.empty(extractor.width), 0
    read = lambda: clips.progress if clips else (total.moments.count, None, "clip")
    _, of, unit = read()
    with progress.bar(what, of, unit=unit) as advance:
        for total in sums:
            done = read()[0]
            advance(done - before, clips=total.moments.count)
            before = done
        advance(read()[0] - before)
    LOG.info("%s: %s clips", what, f"{total.moments.count:,}")
    return total


def score_sums(
    generated: FeatureSums,
    real: FeatureSums,
    extractor: Extractor,
    *,
    controls: dict | None = None,
    flickering: dict[str, float] | None = None,
    inputs: dict | None = None,
    seconds: dict | None = None,
    seed: int = 0,
) -> Score:
    """Returns the score of two sets of features; see `score_folders`."""
    protocol, begin = extractor.protocol, time.monotonic()
    options = dict(ddof=protocol.ddof, precision=protocol.precision)
    distance = lambda a, b: distances.frechet_of_rows(a, b, **options)
    value = distances.frechet(generated, real, **options)
    interval = distances.bootstrap(value, generated, real, distance, seed=seed)
    counts = {
        name: dict(clips=each.moments.count, videos=len(np.unique(each.groups)))
        for name, each in dict(generated=generated, real=real).items()
    }
    warnings, reliable = _warnings(counts, extractor.width, protocol)
    warnings = (control_videos.warnings(controls, protocol.name) if controls else []) + warnings
    seconds = dict(seconds or {}, distances=round(time.monotonic() - begin, 2))
    network = extractor.network
    return Score(
        metric=protocol.metric,
        value=value,
        interval=interval,
        kernel_distance=distances.kernel_distance(generated.rows, real.rows),
        infinity=distances.extrapolate(generated, real, distance, seed=seed),
        precision_recall=neighbours.precision_recall(generated.rows, real.rows),
        flickering=flickering or {},
        reliable=reliable,
        power=controls["power"] if controls else None,
        controls=controls,
        warnings=warnings,
        protocol=asdict(protocol),
        extractor=dict(name=network.name, sha256=network.sha256, file=network.source, layer=protocol.layer),
        counts=counts,
        seeds=dict(bootstrap=seed, windows=protocol.seed),
        revision=record.revision(),
        versions=record.versions(),
        seconds=seconds,
        inputs=inputs or {},
    )


def _warnings(counts: dict, width: int, protocol: Protocol) -> tuple[list[str], bool]:
    """Returns sentences on the number of samples, and whether the value is meaningful on its own."""
    found, reliable = [], True
    for name, wanted in (("generated", protocol.generated_count), ("real", protocol.real_count)):
        clips, videos = counts[name]["clips"], counts[name]["videos"]
        if clips <= width:
            reliable = False
            found.append(
                f"{clips} {name} clips do not determine a covariance of {width} features: the value is dominated by "
                f"the number of samples; compare it only with values of as many clips, or use more than {width}"
            )
        if wanted and clips < wanted:
            found.append(f"the protocol asks for {wanted} {name} clips and {clips} were found")
        if videos < 20:
            found.append(f"the interval comes from {videos} {name} videos, which are few: it is too narrow")
    note = NOTES.get(protocol.name.removesuffix(" (changed)"))
    return found + ([f"{protocol.name}: {note}"] if note else []), reliable
