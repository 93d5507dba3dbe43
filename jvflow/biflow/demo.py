"""The demo of Bi-flow: trains its three methods, samples streams with each, and writes one report."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import jax
import numpy as np

from jvflow.biflow import comparison_page
from jvflow.biflow.evaluate import Reference, controls, describe, evaluate_streams
from jvflow.biflow.legend import LEGEND
from jvflow.biflow.paper_table import PAPER_TABLE
from jvflow.data import pipeline
from jvflow.files import write_text
from jvflow.parallel.mesh import local_mesh
from jvflow.report import run_page
from jvflow.run import Run, explained

LOG = logging.getLogger(__name__)
TITLES = {"flow": "FLOW", "biflow": "BI-FLOW", "condiff": "CONDIFF"}


def demo(config, out: str | Path, *, command: str, train: Callable, load: Callable, above: str = "") -> dict:
    """Calls `side_by_side` for FLOW, BI-FLOW and CONDIFF; their configs differ only in the objective."""
    configs = {}
    for name in TITLES:
        configs[name] = config.copy_and_resolve_references()
        configs[name].objective = name
    return side_by_side(
        configs,
        out,
        titles=TITLES,
        heading="Generative Video Bi-flow, on procedural video",
        command=command,
        train=train,
        load=load,
        paper_table=PAPER_TABLE,
        above=above,
    )


def side_by_side(
    configs: Mapping,
    out: str | Path,
    *,
    titles: Mapping[str, str],
    heading: str,
    command: str,
    train: Callable,
    load: Callable,
    paper_table=None,
    sampling: dict | None = None,
    above: str = "",
) -> dict:
    """Trains experiments on one data set, samples their streams, and writes `report.html` and `metrics.json`.

    Does not train a complete run in `out` again, and does not sample it again under the same protocol.

    Args:
      configs: name -> config of the runs to compare. The first config gives the data and the protocol.
      out: a folder; each run has a subfolder with its name, and all share one data set.
      titles: name -> its title in the report.
      heading, command, paper_table: parts of the report.
      train: `(config, workdir)`, trains a run.
      load: `(workdir, sampling, overrides) -> (run, data)`, see `jvflow.biflow.compare.compare`.
      sampling: entries of `config.sample` to replace in every run after its training.
      above: HTML that the report shows before the comparison.

    Returns:
      The content of `metrics.json`.
    """
    out = Path(out)
    for name, config in configs.items():
        config = config.copy_and_resolve_references()
        config.data.cache = str(out / "data")
        train(config, out / name)
    loaded = {name: load(out / name, sampling or {}, {}) for name in configs}
    runs = {name: run for name, (run, _) in loaded.items()}
    first, data = next(iter(loaded.values()))
    reference = Reference.from_dataset(first.config.evaluate, data)
    LOG.info("controls")
    baselines = controls(reference, data)
    figures, videos = {}, {}
    for name, run in runs.items():
        with jax.set_mesh(local_mesh()):
            figures[name], videos[name] = _measure(run, reference, data)
        LOG.info("%s: NFE %.1f, distance %.1f -> %.1f, motion %.2f", titles[name], *_main(figures[name]))
    protocol = {name: describe(run, reference) for name, run in runs.items()}
    record = explained(dict(methods=figures, controls=baselines, protocol=protocol), LEGEND)
    (out / "report.html").unlink(missing_ok=True)  # until it shows these figures
    write_text(out / "metrics.json", json.dumps(record, indent=1) + "\n")
    curves = {
        titles[name]: dict(
            loss=run_page.thinned(run_page.losses(run.workdir / "metrics.jsonl")),
            distance=figures[name]["distance"],
            motion=figures[name]["motion"],
        )
        for name, run in runs.items()
    }
    sizes = {name: f"{sum(a.size for a in jax.tree.leaves(run.params)):,}" for name, run in runs.items()}
    comparison_page.write(
        out / "report.html",
        title=heading,
        command=command,
        methods={titles[n]: {key: f[key] for key in comparison_page.MEASURES} for n, f in figures.items()},
        controls=baselines,
        protocol=_shared(protocol) | dict(size_of_network=sizes),
        curves=curves,
        videos={"real": pipeline.clips(data, reference.split, count=8)} | {titles[n]: v[:8] for n, v in videos.items()},
        fps=float(first.config.data.fps),
        paper_table=paper_table,
        above=above,
    )
    return record


def _measure(run: Run, reference: Reference, data: Path) -> tuple[dict, np.ndarray]:
    """Returns the figures and the videos of one run, from `measured.npz` in its workdir if the protocol is the same."""
    file, protocol = run.workdir / "measured.npz", json.dumps(describe(run, reference))
    if file.exists() and (kept := _read_measured(file, protocol)):
        return kept
    figures, videos = evaluate_streams(run, reference, data)
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, protocol=protocol, figures=json.dumps(figures), videos=videos)
    temporary.replace(file)
    return figures, videos


def _read_measured(file: Path, protocol: str) -> tuple[dict, np.ndarray] | None:
    """Returns the figures and the videos in a file if they have this protocol; None if not, or if it is damaged."""
    try:
        with np.load(file) as kept:
            if str(kept["protocol"]) == protocol:
                return json.loads(str(kept["figures"])), kept["videos"]
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        LOG.warning("warning: %s is damaged (%s): its run is measured again", file, error)
    return None


def _main(figures: dict) -> tuple:
    return tuple(
        figures[key] for key in ("nfe_per_frame", "distance_first_window", "distance_last_window", "motion_last_window")
    )


def _shared(protocols: dict[str, dict]) -> dict:
    """Returns protocols as one table: one value where the runs agree, else the value of each run."""
    table = {}
    for key in dict.fromkeys(key for protocol in protocols.values() for key in protocol):
        values = {name: protocol.get(key) for name, protocol in protocols.items()}
        alike = len({str(value) for value in values.values()}) == 1
        table[key] = next(iter(values.values())) if alike else values
    return table
