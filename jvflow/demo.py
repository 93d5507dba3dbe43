"""Experiments side by side in one go: train each, stream each, and report. The demo's are the paper's three methods."""

import json
import logging
from pathlib import Path

import jax
import numpy as np

from jvflow.report import html as report
from jvflow.data import pipeline
from jvflow.biflow.evaluate import Yardstick, controls, describe, method
from jvflow.data.files import write_text
from jvflow.run import Run, load
from jvflow.training.loop import train

LOG = logging.getLogger(__name__)
TITLES = {"flow": "FLOW", "biflow": "BI-FLOW", "condiff": "CONDIFF"}


def demo(config, out, *, command: str) -> dict:
    """`side_by_side` of FLOW, BI-FLOW and CONDIFF: one config in everything but the objective."""
    configs = {}
    for name in TITLES:
        configs[name] = config.copy_and_resolve_references()
        configs[name].objective = name
    return side_by_side(
        configs, out, titles=TITLES, heading="Generative Video Bi-flow, on procedural video", command=command,
        paper_table=report.PAPER_TABLE,
    )


def side_by_side(
    configs: dict, out, *, titles: dict[str, str], heading: str, command: str, paper_table=None, sampling: dict | None = None
) -> dict:
    """Trains experiments on one data set, streams them, and writes `report.html` and `metrics.json`.

    Whatever is already trained in `out` is not trained again, and what was streamed under the same
    protocol is not streamed again.

    Args:
      configs: name -> config; what differs is what is compared. Data and protocol are those of the first.
      out: a folder; each run gets the subfolder of its name, and the data set is shared.
      titles: name -> what the report calls it.
      heading, command, paper_table: of the report.
      sampling: entries of `config.sample` to replace in every run, once it is trained.

    Returns:
      The content of `metrics.json`.
    """
    out = Path(out)
    for name, config in configs.items():
        config = config.copy_and_resolve_references()
        config.data.cache = str(out / "data")
        train(config, out / name)
    runs = {name: load(out / name, sampling=sampling) for name in configs}
    first = next(iter(runs.values()))
    data = first.data()
    yardstick = Yardstick.of(first.config.evaluate, data)
    LOG.info("controls")
    references = controls(yardstick, data)
    figures, videos = {}, {}
    for name, run in runs.items():
        figures[name], videos[name] = _measured(run, yardstick, data)
        LOG.info("%s: NFE %.1f, distance %.1f -> %.1f, motion %.2f", titles[name], *_main(figures[name]))
    record = dict(
        methods=figures, controls=references,
        protocol={name: describe(run, yardstick) for name, run in runs.items()},
    )
    write_text(out / "metrics.json", json.dumps(record, indent=1) + "\n")
    curves = {
        titles[name]: dict(loss=_thinned(run.folder.losses()), distance=figures[name]["distance"], motion=figures[name]["motion"])
        for name, run in runs.items()
    }
    sizes = {name: f"{sum(a.size for a in jax.tree.leaves(run.params)):,}" for name, run in runs.items()}
    report.write(
        out / "report.html", title=heading, command=command,
        methods={titles[n]: {key: f[key] for key in report.MEASURES} for n, f in figures.items()},
        controls=references, protocol=_shared(record["protocol"]) | dict(size_of_network=sizes), curves=curves,
        videos={"real": pipeline.clips(data, "test", count=8)} | {titles[n]: v[:8] for n, v in videos.items()},
        fps=float(first.config.data.fps), paper_table=paper_table,
    )
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


def _shared(protocols: dict[str, dict]) -> dict:
    """Protocols as one table: a value where the runs agree, those of each where they do not."""
    table = {}
    for key in dict.fromkeys(key for protocol in protocols.values() for key in protocol):
        values = {name: protocol.get(key) for name, protocol in protocols.items()}
        alike = len({str(value) for value in values.values()}) == 1
        table[key] = next(iter(values.values())) if alike else values
    return table


def _thinned(losses: list, points: int = 200) -> list:
    """Means of equal stretches, so that the plot shows a trend."""
    stretch = max(len(losses) // points, 1)
    groups = [losses[i : i + stretch] for i in range(0, len(losses), stretch)]
    return [(g[-1][0], float(np.mean([loss for _, loss in g]))) for g in groups]
