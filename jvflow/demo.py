"""The paper's comparison in one go: train FLOW, BI-FLOW and CONDIFF, stream each, and report."""

import json
import logging
from pathlib import Path

import jax
import numpy as np

from jvflow import report
from jvflow.data import pipeline
from jvflow.evaluate import Yardstick, controls, describe, method
from jvflow.files import write_text
from jvflow.sample import Run, load
from jvflow.train import train

LOG = logging.getLogger(__name__)
TITLES = {"flow": "FLOW", "biflow": "BI-FLOW", "condiff": "CONDIFF"}


def prepared(config, out, objective: str):
    """The config of one method: the same in everything but the objective; data is shared."""
    config = config.copy_and_resolve_references()
    config.objective = objective
    config.data.cache = str(Path(out) / "data")
    return config


def demo(config, out, *, command: str) -> dict:
    """Trains the three methods from one seed, streams them, and writes `report.html` and `metrics.json`.

    Whatever is already trained in `out` is not trained again, and what was streamed under the same
    protocol is not streamed again.

    Returns:
      The content of `metrics.json`.
    """
    out = Path(out)
    for name in TITLES:
        train(prepared(config, out, name), out / name)
    runs = {name: load(out / name) for name in TITLES}
    data = runs["flow"].data()
    yardstick = Yardstick.of(config.evaluate, data)
    LOG.info("controls")
    references = controls(yardstick, data)
    figures, videos = {}, {}
    for name, run in runs.items():
        figures[name], videos[name] = _measured(run, yardstick, data)
        LOG.info("%s: NFE %.1f, distance %.1f -> %.1f, motion %.2f", TITLES[name], *_main(figures[name]))
    record = dict(
        methods=figures, controls=references,
        protocol={name: describe(run, yardstick) for name, run in runs.items()},
    )
    write_text(out / "metrics.json", json.dumps(record, indent=1) + "\n")
    _report(out, runs, figures, references, yardstick, data, videos, command)
    return record


def _measured(run: Run, yardstick: Yardstick, data: Path) -> tuple[dict, np.ndarray]:
    """The figures and the videos of one method, kept beside its run."""
    file, told = run.folder.path / "measured.npz", json.dumps(describe(run, yardstick))
    if file.exists():
        with np.load(file) as kept:
            if str(kept["protocol"]) == told:
                return json.loads(str(kept["figures"])), kept["videos"]
    figures, videos = method(run, yardstick, data)
    beside = file.with_suffix(".tmp.npz")
    np.savez(beside, protocol=told, figures=json.dumps(figures), videos=videos)
    beside.replace(file)
    return figures, videos


def _main(figures: dict) -> tuple:
    return tuple(figures[key] for key in ("nfe_per_frame", "distance_first_window", "distance_last_window", "motion_last_window"))


def _report(out, runs: dict[str, Run], figures, references, yardstick, data, videos, command):
    curves = {
        TITLES[name]: dict(loss=_thinned(run.folder.losses()), distance=figures[name]["distance"], motion=figures[name]["motion"])
        for name, run in runs.items()
    }
    shown = {"real": pipeline.clips(data, "test", count=8)} | {TITLES[n]: v[:8] for n, v in videos.items()}
    protocol = describe(runs["biflow"], yardstick)
    protocol["parameters"] = {n: f"{sum(a.size for a in jax.tree.leaves(run.field)):,}" for n, run in runs.items()}
    report.write(
        out / "report.html",
        title="Generative Video Bi-flow, on procedural video",
        command=command,
        methods={TITLES[n]: {key: f[key] for key in report.MEASURES} for n, f in figures.items()},
        controls=references, protocol=protocol, curves=curves, videos=shown,
        fps=float(runs["flow"].config.data.fps),
    )


def _thinned(losses: list, points: int = 200) -> list:
    """Means of equal stretches, so that the plot shows a trend."""
    stretch = max(len(losses) // points, 1)
    groups = [losses[i : i + stretch] for i in range(0, len(losses), stretch)]
    return [(g[-1][0], float(np.mean([loss for _, loss in g]))) for g in groups]
