"""Scores a set of videos against real ones by a protocol; the result is a record that holds everything about it."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np

from jvflow.metrics import distances, gather
from jvflow.metrics.clips import FolderClips
from jvflow.metrics.extractor import Extractor
from jvflow.metrics.protocol import NOTES, Protocol, preset
from jvflow.metrics.sums import FeatureSums

LOG = logging.getLogger(__name__)
EVERY = 10.0
"""Seconds between lines of progress."""


@dataclass(frozen=True)
class Score:
    """A distance between generated and real videos.

    Attributes:
      metric: "fvd" or "fid"; value: the distance.
      interval: see `jvflow.metrics.distances.bootstrap`.
      kernel_distance: (2) of that file, on the same features. infinity: (3), or None with few clips.
      reliable: False if a warning says that the number of samples makes the value meaningless on its own.
      warnings: sentences for the reader.
      protocol: every entry of the protocol.
      extractor: the network, the checksum of its parameters, their file.
      counts: clips and videos of both sets. seeds, versions, seconds: of this computation.
      inputs: what was read of each folder.
    """

    metric: str
    value: float
    interval: dict
    kernel_distance: float
    infinity: dict | None
    reliable: bool
    warnings: list[str]
    protocol: dict
    extractor: dict
    counts: dict
    seeds: dict
    versions: dict
    seconds: dict
    inputs: dict

    def as_json(self) -> dict[str, Any]:
        """Returns the record for a JSON file."""
        return asdict(self)


def score_folders(
    generated, real, protocol: Protocol, *, weights=None, batch: int = 8, fps: float | None = None, seed: int = 0
) -> Score:
    """Returns the score of the videos in the folder `generated` against those in the folder `real`.

    Args:
      generated, real: folders of videos, or of folders of images. Broken, short and odd-sized videos are reported in
        the record and do not end the command.
      protocol: see `jvflow.metrics.protocol`.
      weights: a file with the parameters of the network; default: those of the extra `metrics`.
      batch: clips that the network sees at a time.
      fps: frames per second to which all videos are resampled; None keeps their frames.
      seed: of the bootstrap.

    Raises:
      ValueError: if a folder gives fewer than two clips, or the weights are missing.

    The processes of a job share the videos, and all of them must call it. Each gets the record, and the record is that
    of one process up to rounding (`jvflow.metrics.gather`).
    """
    make_sets = lambda: {
        "real": FolderClips(real, protocol, protocol.real_count, fps=fps),
        "generated": FolderClips(generated, protocol, protocol.generated_count, fps=fps, redraw=protocol.redraw),
    }
    sets = gather.primary_first(make_sets)
    extractor, sums, seconds = gather.primary_first(lambda: Extractor(protocol, weights, batch)), {}, {}
    for name, clips in sets.items():
        begin = time.monotonic()
        sums[name] = _run(extractor, gather.sums(extractor, clips), f"{name} {clips.folder}")
        seconds[name] = round(time.monotonic() - begin, 2)
        report = clips.report
        if sums[name].moments.count < 2:
            raise ValueError(
                f"{clips.folder} gives {report.clips} clips of {protocol.span} frames, and a distance needs 2 or more: "
                f"{len(report.short)} videos are too short and {len(report.broken)} broken "
                f"(of {len(clips.videos)}); use longer videos or fewer frames (--set=frames={protocol.frames // 2})"
            )
    inputs = {name: asdict(clips.report) for name, clips in sets.items()}
    options = dict(inputs=inputs, seconds=seconds, seed=seed)
    return Score(
        **gather.from_primary(lambda: score_sums(sums["generated"], sums["real"], extractor, **options).as_json())
    )


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
    extractor, sums, frames = Extractor(protocol, weights, batch), {}, set()
    for name, clips in dict(real=real, generated=generated).items():
        sums[name] = _run(extractor, extractor.sums(_checked(clips, name, frames)), name)
    extractor.protocol = replace(protocol, frames=next(iter(frames), protocol.frames))
    return score_sums(sums["generated"], sums["real"], extractor)


def _checked(clips: Iterable, name: str, frames: set[int]) -> Iterator[tuple[int, int, np.ndarray]]:
    for number, clip in enumerate(clips):
        clip = np.asarray(clip)
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(f"{name} clip {number} is {clip.dtype} {clip.shape}: give uint8 (f, h, w, 3)")
        frames.add(len(clip))
        if len(frames) > 1:
            raise ValueError(f"clips have {' and '.join(map(str, sorted(frames)))} frames: cut them to one length")
        yield number, number, clip


def _run(extractor: Extractor, sums: Iterator[FeatureSums], what: str) -> FeatureSums:
    """Returns the last of some running sums; logs progress."""
    total, last = FeatureSums.empty(extractor.width), time.monotonic()
    for total in sums:
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            LOG.info("%s: %s clips", what, f"{total.moments.count:,}")
    LOG.info("%s: %s clips, done", what, f"{total.moments.count:,}")
    return total


def score_sums(
    generated: FeatureSums,
    real: FeatureSums,
    extractor: Extractor,
    *,
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
    seconds = dict(seconds or {}, distances=round(time.monotonic() - begin, 2))
    network = extractor.network
    return Score(
        metric=protocol.metric,
        value=value,
        interval=interval,
        kernel_distance=distances.kernel_distance(generated.rows, real.rows),
        infinity=distances.extrapolate(generated, real, distance, seed=seed),
        reliable=reliable,
        warnings=warnings,
        protocol=asdict(protocol),
        extractor=dict(name=network.name, sha256=network.sha256, file=network.source, layer=protocol.layer),
        counts=counts,
        seeds=dict(bootstrap=seed, windows=protocol.seed),
        versions=_versions()
        | dict(device=jax.devices()[0].device_kind, devices=jax.device_count(), processes=jax.process_count()),
        seconds=seconds,
        inputs=inputs or {},
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jvflow", "jax", "flax", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that is not installed
            found[name] = "not installed"
    return found


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
