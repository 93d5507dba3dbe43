"""Protocols of an evaluation of streams, by name: `small`, which `config.evaluate` sets, and `paper`.

The paper's protocol (section 3): 128 videos of 512 frames that start at random frames of the test set, and a distance
for each window of 32 frames with stride 16, under two solvers. At equal accuracy, adaptive Heun has tolerances of 1e-2,
and `nfe_batch` is what the paper calls steps. At equal budget, Euler has 20 steps. BI-FLOW has the best epsilon of four
for each solver. The search has other start frames and other noise than the figures that are reported, so that these are
not the best of several draws. The distance is that of `config.evaluate.features`, which is not FVD. Where the extra
`metrics` is installed, the record also has FVD of the reported streams.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvflow.biflow import evaluate as small
from jvflow.biflow.evaluate import Reference, Videos, controls, describe, stream_videos, video_scorer
from jvflow.biflow.legend import LEGEND
from jvflow.biflow.sample import joint, plain
from jvflow.data import pipeline
from jvflow.flow import torchode
from jvflow.flow.solver import Solver
from jvflow.metrics import evaluation_protocol
from jvflow.metrics.in_evaluation import Features, VideoScorer
from jvflow.parallel import processes, progress
from jvflow.run import Run, explained

LOG = logging.getLogger(__name__)
REPORTED, SEARCH = 0, 1
"""Numbers of the two draws of start frames and noise."""


@dataclass(frozen=True)
class StreamProtocol:
    """A protocol of an evaluation of streams.

    Attributes:
      entries: entries of `config.evaluate` that it replaces, unless the command sets them.
      starts: "first" frames of held-out clips, or "random" frames of them.
      epsilons: the noise levels that it tries for BI-FLOW, for each solver.
      solvers: name -> settings of a `Solver`; {} uses the solver and the noise level of the config.
      fvd: the protocol of FVD unless the config or the command names one, where its network is installed.
    """

    entries: Mapping[str, int]
    starts: str
    epsilons: tuple[float, ...]
    solvers: Mapping[str, Mapping[str, Any]]
    fvd: str = ""


PRESETS = {
    "small": StreamProtocol(entries={}, starts="first", epsilons=(), solvers={}),
    "paper": StreamProtocol(
        entries=dict(videos=128, frames=512, window=32, stride=16, pooled=1),
        starts="random",
        epsilons=(0.0, 0.1, 0.2, 0.3),
        solvers=dict(
            equal_accuracy=dict(method="heun", rtol=1e-2, atol=1e-2, controller="torchode"),
            equal_budget=dict(method="euler", steps=20),
        ),
        fvd="windows_32",
    ),
}
"""The protocols by name. `pooled` is the number of windows in one distance."""


def evaluate(run: Run, data: Path, preset: str = "small") -> dict:
    """Evaluates a run under a protocol of `PRESETS`.

    Returns:
      The record. That of `small` is described in `jvflow.biflow.evaluate`. Under another protocol it has, for each
      solver, the figures and curves at the best noise level, `trend` and `search`; and `controls` and `protocol`.
    """
    protocol = PRESETS[preset]
    if not protocol.solvers:
        return small.evaluate(run, data)
    settings = run.config.evaluate.copy_and_resolve_references()
    settings.update({name: value for name, value in protocol.entries.items() if name not in run.asked})
    changed = {name: [value, settings[name]] for name, value in protocol.entries.items() if settings[name] != value}
    reference = Reference.from_dataset(settings, data, (*run.asked, *protocol.entries))
    scorer = video_scorer(run, reference, data, _fvd(run, protocol), asked="fvd" in run.asked)
    record: dict = {}
    for name, solver in protocol.solvers.items():
        record[name] = _best(run, reference, data, protocol, Solver(**solver), scorer)
        figures = record[name]
        LOG.info(
            "%s: epsilon %g, NFE %.1f, distance %.4g, trend %.3g a frame",
            name.replace("_", " "),
            figures["epsilon"],
            figures["nfe_batch"],
            figures["distance_mean"],
            figures["trend"]["slope"],
        )
    varied = ("curve", "epsilon", "gain", "method", "rtol", "atol", "fixed_steps", "per_sample", "controller")
    described = {key: value for key, value in describe(run, reference).items() if key not in varied}
    described |= dict(preset=preset, changed=changed, starts=protocol.starts, epsilons=list(protocol.epsilons))
    described |= dict(solvers={name: dict(solver) for name, solver in protocol.solvers.items()})
    described |= dict(fvd=scorer.described) if scorer else {}
    return explained(record | dict(controls=controls(reference, data), protocol=described), LEGEND)


def _fvd(run: Run, protocol: StreamProtocol) -> str:
    """Returns the protocol of FVD: that of the config or the command, else that of `protocol` if it is installed."""
    chosen = run.config.evaluate.fvd
    if chosen or "fvd" in run.asked or not protocol.fvd:
        return chosen
    if evaluation_protocol.is_installed(protocol.fvd):
        return protocol.fvd
    LOG.info("no FVD, because its network is not installed: pip install 'jvflow[metrics]'")
    return ""


def _best(
    run: Run,
    reference: Reference,
    data: Path,
    protocol: StreamProtocol,
    solver: Solver,
    scorer: VideoScorer | None = None,
) -> dict:
    """Returns the figures at the noise level that the search finds best, with the results of the search."""
    denoises = run.config.objective == "biflow"
    search = []
    for epsilon in protocol.epsilons if denoises else ():
        figures = measure(with_sampling(run, solver, epsilon, denoises), reference, data, SEARCH)
        search.append({"epsilon": epsilon} | {name: figures[name] for name in ("nfe_batch", "distance_mean")})
    best = min(search, key=lambda each: each["distance_mean"])["epsilon"] if search else 0.0
    figures = measure(with_sampling(run, solver, best, denoises), reference, data, REPORTED, scorer)
    return dict(epsilon=best, **figures, search=search)


def with_sampling(run: Run, solver: Solver, epsilon: float, denoises: bool) -> Run:
    """Returns a run that streams with another solver and noise level, on the curve `joint` if it `denoises`."""
    curve = joint if denoises else plain
    sampler = replace(run.experiment.sampler, solver=solver, epsilon=epsilon, curve=curve, gain=0.0)
    return replace(run, experiment=replace(run.experiment, sampler=sampler))


def measure(run: Run, reference: Reference, data: Path, draw: int, scorer: VideoScorer | None = None) -> dict:
    """Returns the figures of streams from random frames; holds the videos of one batch at a time.

    Args:
      run: the run, with its sampling settings.
      reference: real video, and the settings of the evaluation.
      data: the folder of the data set.
      draw: number of the draw of start frames and noise, `REPORTED` or `SEARCH`.
      scorer: computes the FVD of the streams.
    """
    settings, given = reference.settings, run.experiment.start_frames
    starts = random_starts(data, reference.split, settings.videos, given, (settings.seed, draw))
    key = jax.random.fold_in(jax.random.key(settings.seed), draw)

    def make(group: int) -> tuple:
        first = starts[group * settings.batch : (group + 1) * settings.batch]
        options = dict(advance=advance)
        video, nfe, seconds = stream_videos(run, first, jax.random.fold_in(key, group), settings.frames, **options)
        scored = scorer.features(video, group * settings.batch, total=settings.videos) if scorer else ()
        return *reference.window_figures(video), nfe, seconds, *scored

    count = -(-settings.videos // settings.batch)
    work = processes.share(count) * (settings.frames - given)
    with progress.bar("generate streams", work, unit="frame") as advance:
        groups = list(zip(*processes.distributed_map(count, make)))
    features, motion, nfe, seconds = (np.stack(a) if np.ndim(a[0]) == 0 else np.concatenate(a) for a in groups[:4])
    drift = reference.summarize(features, motion)
    frames = max(settings.frames - given - 1, 1) * settings.videos
    return dict(
        nfe_per_frame=float(nfe.mean()),
        nfe_batch=float(torchode.slowest_of_each(nfe).mean()),
        seconds_per_frame=float(seconds.sum()) / frames,
        trend=trend(drift["distance"]),
        **drift,
        **(dict(fvd=scorer.record(Features.join(list(zip(*groups[4:]))))) if scorer else {}),
    )


def random_starts(data: Path, split: str, count: int, given: int, seed: tuple[int, ...]) -> Videos:
    """Returns `given` consecutive frames for each of `count` streams, drawn uniformly from all clips of a split."""
    clips = pipeline.open_split(data, split)
    draw = np.random.default_rng(seed)
    chosen = draw.integers(len(clips), size=count)
    return np.stack([_cut(clips[int(clip)]["video"], given, draw) for clip in chosen])


def _cut(video: np.ndarray, given: int, draw: np.random.Generator) -> np.ndarray:
    start = int(draw.integers(len(video) - given + 1))
    return video[start : start + given]


def trend(curve: list[tuple]) -> dict[str, float]:
    """Returns the least-squares line of a curve [(first frame of a window, distance)]: slope a frame, and both ends.

    The slope is 0 for a single window.
    """
    start, distance = np.asarray(curve, float).T
    slope = 0.0
    if len(start) > 1:
        slope = float(
            ((start - start.mean()) * (distance - distance.mean())).sum() / ((start - start.mean()) ** 2).sum()
        )
    line = distance.mean() + slope * (start - start.mean())
    return dict(slope=slope, first=float(line[0]), last=float(line[-1]))
