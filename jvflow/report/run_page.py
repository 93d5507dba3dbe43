"""The reports of a training and of an evaluation: one HTML file each, with videos, curves and figures."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from jvflow.files import read_json_lines, write_text
from jvflow.metrics.legend import explain
from jvflow.report import page

WIDTH = 256
"""Pixels across a video of a report."""
POINTS = 300
"""Points of a curve."""


def training(path: Path, workdir: Path, settings: Mapping[str, object]) -> None:
    """Writes the report of a training to `path`, from the files of its workdir.

    Args:
      path: the HTML file.
      workdir: the folder that `jvflow train` wrote.
      settings: the config of the run, in nested dicts.
    """
    logged = {"training": losses(workdir / "metrics.jsonl"), "held-out clips": losses(workdir / "validation.jsonl")}
    curves = {name: thinned(points) for name, points in logged.items() if points}
    last = {name: f"{points[-1][1]:.4g} at step {points[-1][0]}" for name, points in curves.items()}
    loss = page.plot(curves, ("step", "loss"), scale="log")
    unit = "Loss, no unit, lower is better; each point of the training is a mean over steps."
    films = sorted((workdir / "samples").glob("step_*_*.mp4"))
    shown = "<p>No videos: config.run.sample_every is 0.</p>"
    if films:
        name = films[-1].stem.rpartition("_")[0]
        note = f"After step {int(name.removeprefix('step_'))}."
        shown = _shown([film for film in films if film.stem.startswith(f"{name}_")], note)
    entries = [(".".join(names), str(value)) for names, value in _leaves(settings)]
    body = f"""<h2>Videos</h2>{shown}
<h2>Loss</h2><div class="row">{page.picture("png", loss, "loss over steps", unit, 640)}
{page.table("Last losses.", ["clips", "loss"], list(last.items()))}</div>
<h2>Settings</h2>{page.table("The config of the run.", ["entry", "value"], entries)}"""
    head = f"<p>Training in <code>{escape(workdir.name)}</code>.</p>"
    write_text(path, page.document("Training", head, body))


def evaluation(path: Path, record: Mapping, command: str, films: Sequence[Path]) -> None:
    """Writes the report of an evaluation to `path`.

    Args:
      path: the HTML file.
      record: the figures, with entries `protocol` and `legend`.
      command: the command that made the record.
      films: mp4 files with a few videos of the run, or none.
    """
    legend = record.get("legend", {})
    described = {key: value for key, value in record.items() if key not in ("protocol", "legend", "adapted")}
    figures, plots = [], ""
    for names, value in _leaves(described):
        entry = explain(names, legend)
        meaning = legend.get(entry, "")
        if _is_curve(value):
            data = page.plot({names[-1]: thinned(value)}, ("", " ".join(names)))
            plots += page.picture("png", data, " ".join(names), meaning, 640)
        elif isinstance(value, bool | float | int):
            figures.append((" ".join(names).replace("_", " "), value, meaning))
    shown = _shown(films, "Generated now, by the same settings.") if films else ""
    protocol = [(".".join(names), str(value)) for names, value in _leaves(record.get("protocol", {}))]
    body = f"""<h2>Figures</h2>{page.table("What was measured.", ["figure", "value", "meaning"], figures)}
{f"<h2>Videos</h2>{shown}" if shown else ""}
{f'<h2>Curves</h2><div class="row">{plots}</div>' if plots else ""}
<h2>Protocol</h2>{page.table("How it was measured.", ["setting", "value"], protocol)}"""
    head = f"<p>Every figure comes from one run of this command:</p><pre><code>{escape(command)}</code></pre>"
    write_text(path, page.document("Evaluation", head, body))


def _shown(films: Sequence[Path], note: str) -> str:
    cells = [page.film(film, f"video {i} of the run", "", WIDTH) for i, film in enumerate(films, 1)]
    return f"""<p>{note} Where one video stands above another, the upper one is real.</p>
<div class="row shows">{"".join(cells)}</div>"""


def thinned(points: list) -> list:
    """Averages y over stretches of equal length, so that `POINTS` to twice as many points show the trend."""
    stretch = max(len(points) // POINTS, 1)
    groups = [points[i : i + stretch] for i in range(0, len(points), stretch)]
    return [(group[-1][0], float(np.mean([y for _, y in group]))) for group in groups]


def losses(file: Path) -> list[tuple[int, float]]:
    """Returns (step, loss) of each line of a file; [] if there is no file."""
    lines = [line for _, line in read_json_lines(file) if isinstance(line, dict)] if file.exists() else []
    return [(line["step"], line["loss"]) for line in lines if line.keys() >= {"step", "loss"}]


def _leaves(tree: Mapping, before: tuple[str, ...] = ()):
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*before, str(key)))
        else:
            yield (*before, str(key)), value


def _is_curve(value) -> bool:
    """Returns whether a value is a list of points (x, y)."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 1
        and all(isinstance(point, list | tuple) and len(point) == 2 for point in value)
        and all(isinstance(number, float | int) for point in value for number in point)
    )
