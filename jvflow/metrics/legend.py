"""Legends: what each value of a record means, in one sentence with its unit, its range and which direction is better.

A legend is {entry: sentence}. An entry is a key, or the last keys of a path with dots between them; `N` stands for a
number: "truth.psnr.N" explains truth.psnr.8 and "nfe_N" explains nfe_5. The longest entry that fits a path explains it.
"""

import re
from collections.abc import Mapping, Sequence

FVD = {
    "fvd": "Frechet video distance of generated clips to real ones, in features of I3D, under fvd.protocol",
    "fvd.value": "the distance; 0 or more, no unit, lower is better; compare with fvd.controls of equal clip numbers",
    "fvd.kernel_distance": "kernel distance (KVD) in the same features; no unit, about 0 or more, lower is better",
    "fvd.reliable": "false if few clips or powerless controls make the distance meaningless on its own",
    "fvd.interval.low": "lower end of the interval in which the distance of other videos of this number would lie",
    "fvd.interval.high": "upper end of that interval",
    "fvd.interval.coverage": "share of bootstrap values inside the interval, from 0 to 1",
    "fvd.interval.standard_error": "standard deviation of the bootstrap values, in units of the distance",
    "fvd.interval.shift": "mean of the bootstrap values minus the distance: their bias, which the interval leaves out",
    "fvd.interval.draws": "number of bootstrap samples",
    "fvd.interval.videos": "numbers of videos from which the bootstrap draws: generated, real",
    "fvd.infinity.value": "the distance extrapolated to infinitely many clips; no unit, lower is better",
    "fvd.infinity.standard_error": "standard error of that extrapolation, in units of the distance",
    "fvd.precision_recall.precision": "share of generated clips that lie among real ones, 0 to 1; higher is better",
    "fvd.precision_recall.recall": "share of real clips that lie among generated ones, 0 to 1; higher is better",
    "fvd.precision_recall.k": "number of neighbours that define `among`",
    "fvd.precision_recall.rows": "numbers of clips: generated, real",
    "fvd.counts.generated.clips": "number of generated clips in the distance",
    "fvd.counts.generated.videos": "number of videos that they come from",
    "fvd.counts.real.clips": "number of real clips in the distance",
    "fvd.counts.real.videos": "number of videos that they come from",
    "fvd.controls": "the same distance for real clips, for the same clips frozen, and for noise",
    "fvd.controls.frozen": "the distance of real clips whose first frame is repeated: a model without motion",
    "fvd.controls.noise": "the distance of clips of random pixels: a model that learned nothing",
    "fvd.controls.real_half": "the distance of one half of the real clips to the other: a perfect model",
    "fvd.controls.frozen_half": "the distance of one half of the real clips, frozen, to the other half",
    "fvd.controls.power": "true if frozen_half is above real_half; otherwise the distance cannot rank models here",
    "fvd.controls.clips": "numbers of clips in the two halves",
    "fvd.controls.videos": "number of videos that the real clips come from",
    "fvd.seconds.real": "wall time in seconds for the features of the real clips and the controls",
    "fvd.seconds.generated": "wall time in seconds for the features of the generated clips",
    "fvd.seconds.distances": "wall time in seconds for the distances and their intervals",
    "fvd.over_time": "[first frame, distance] of the clips that start at this frame; lower is better",
}
"""The legend of FVD in an evaluation, see `jvflow.metrics.in_evaluation`."""
DISTANCE = "Frechet distance to real video in our own features (no FVD); 0 or more, no unit, lower is better"
MOTION = "mean change from frame to frame over that of real video, 0 or more; 1 is right, 0 is frozen"
PSNR = "peak signal-to-noise ratio in dB; higher is better"


def explain(path: Sequence[str], legend: Mapping[str, str]) -> str | None:
    """Returns the entry of a legend that explains the value at a path of keys, or None."""
    fitting = [entry for entry in legend if _fits(path, entry.split("."))]
    return max(fitting, key=lambda entry: entry.count("."), default=None)


def _fits(path: Sequence[str], entry: Sequence[str]) -> bool:
    end = path[len(path) - len(entry) :] if len(entry) <= len(path) else ()
    return bool(end) and all(re.fullmatch(_pattern(part), key) for part, key in zip(entry, end, strict=True))


def _pattern(part: str) -> str:
    """Returns a regular expression for a part of an entry: `N`, alone or after an underscore, is a number."""
    return re.sub(r"(^|_)N$", r"\1[0-9.]+", re.escape(part))
