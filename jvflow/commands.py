"""The commands of every paper: each loads a run or a config, and calls the paper's method."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jvflow import load as loading
from jvflow import models
from jvflow.data import captions as texts
from jvflow.data import dataset, other, pipeline, records
from jvflow.experiment import method_of
from jvflow.files import SHIPPED, local_path, read_json, with_local_paths
from jvflow.flow.solve_error import SolveError
from jvflow.method import SampleRequest
from jvflow.metrics import evaluation_protocol
from jvflow.metrics.published import NAMES, read_tables
from jvflow.parallel import processes
from jvflow.parallel.mesh import local_mesh
from jvflow.report import showcase, side_by_side, videos
from jvflow.run import Run, scalars
from jvflow.training.config_check import check_config
from jvflow.training.loop import train
from jvflow.training.rules import COUNT, NAME, RATE, SEED, check, choice
from jvflow.training.workdir import Workdir, override

LOG = logging.getLogger(__name__)
CAPTIONS = 2000
"""Clips of training whose captions are compared with those of samples: reading a clip takes time."""
REPORT, SHOWN = "report.html", 4
"""The page of the demo, and how many videos of each kind it shows."""


def sample(
    workdir,
    out,
    *,
    count: int | None = None,
    length: int | None = None,
    seed: int = 0,
    step: int | None = None,
    ema: bool | None = None,
    sampling: dict | None = None,
    dtype: str | None = None,
    first_frame=None,
    captions: Sequence[str] = (),
    fps: float | None = None,
    extrapolate: bool = False,
    observed: int | None = None,
) -> dict:
    """Writes videos of a run into the folder `out`: mp4 files, `sheet.png` with a row for each, and `samples.json`.

    Args:
      workdir, step, ema, sampling, dtype: see `jvflow.load.load`.
      out: a folder.
      captions: each gets `count` videos, or one if it is None.
      count, length, seed, first_frame, fps, extrapolate, observed: see `SampleRequest`.

    Returns:
      The content of `samples.json`.
    """
    values = [("--count", count, COUNT), ("--frames", length, COUNT), ("--observed", observed, COUNT)]
    values += [("--seed", seed, SEED), ("--fps", fps, RATE), ("--first_frame", first_frame and str(first_frame), NAME)]
    check(each for each in values if each[1] is not None)
    first_frame = first_frame and local_path(first_frame, "--first_frame")
    with processes.one_writer(out, "--out") as out:
        run = loading.load(workdir, step=step, ema=ema, sampling=sampling, dtype=dtype)
        _warn_of_new_words(run, captions)
        request = SampleRequest(
            data=cache(lambda: loading.run_dataset(run)),
            count=count,
            length=length,
            seed=seed,
            first_frame=first_frame,
            captions=tuple(caption for caption in captions for _ in range(count or 1)),
            fps=fps,
            extrapolate=extrapolate,
            observed=observed,
        )
        with jax.set_mesh(local_mesh()):
            return run.experiment.method.sample(run, out, request)


def _warn_of_new_words(run: Run, captions: Sequence[str]) -> None:
    """Logs a warning for captions with words that a text encoder has not learned, if it learned from this run alone.

    Does nothing if the data set is not there any more, or too large to read its captions.
    """
    encoder = run.experiment.text
    if not captions or encoder is None or encoder.init is None or run.config.pretrained:
        return
    data = dataset.built(run.config.data, run.workdir, Workdir(run.workdir).data_key)
    if data is None or records.manifest(data)["splits"].get("train", 0) > CAPTIONS:
        return
    if sentence := texts.unlike(captions, pipeline.captions(data, "train")):
        LOG.warning("warning: %s; the text encoder of this run knows only the captions of its training", sentence)


def evaluate(
    workdir,
    *,
    step: int | None = None,
    ema: bool | None = None,
    overrides: dict | None = None,
    sampling: dict | None = None,
    preset: str | None = None,
    dtype: str | None = None,
    fvd: str | None = None,
    real: str | Path | None = None,
    real_frames: int | None = None,
    films: Path | None = None,
) -> dict:
    """Evaluates a trained run by the protocol of its config, or by a named one.

    Args:
      workdir, step, ema, sampling, dtype: see `jvflow.load.load`.
      overrides: entries of `config.evaluate` to replace, such as {"videos": 64, "frames": 512}.
      preset: one of the paper's `Method.presets`, which sets the entries that `overrides` does not set.
      fvd: the protocol of FVD, see `evaluation_protocol.parse`; "" for none, None for that of the config.
      real: a folder of videos, or a built data set, to evaluate on in place of the run's own data set.
      real_frames: frames of the clips that are cut out of a folder `real`; None for as many as the run's own have.
      films: a path and the start of a name; a few videos of the run are written as FILMS_0.mp4 and so on.

    Returns:
      The record: metrics, curves over time, controls, and the protocol.
    """
    if preset is not None:
        presets = method_of(Workdir.read(workdir)[1]).presets
        if not presets:
            raise ValueError(f"the paper of {workdir} has no named protocols: leave out --preset={preset}")
        check([("--preset", preset, choice(*presets))])
    overrides = dict(overrides or {})
    if fvd is not None:
        if "fvd" in overrides:
            raise ValueError("--fvd and --protocol=fvd=... both name the protocol of FVD: give one of them")
        overrides["fvd"] = fvd
    if real_frames is not None:
        check([("--real_frames", real_frames, COUNT)])
        if real is None:
            raise ValueError("--real_frames is for the clips of another data set: give --real=DATA too")
    config = Workdir.read(workdir)[1]
    override(config, "evaluate", overrides)
    evaluation_protocol.check_network(config.evaluate.fvd)  # raises before anything is loaded or generated
    if real is None:
        run, data = load_with_data(workdir, sampling, overrides, step=step, ema=ema, dtype=dtype)
    else:
        real = other.check(real, config.data, real_frames)
        run = _load(workdir, sampling, overrides, step=step, ema=ema, dtype=dtype)
        run, data = _on_other_data(run, real, real_frames)
    record = evaluate_run(run, data, **({} if preset is None else dict(preset=preset)))
    if films is not None:
        _write_films(run, data, films)
    return record


def _write_films(run: Run, data: Path, stem: Path) -> None:
    """Writes a few videos of a run as mp4 files; logs a warning if they cannot be sampled."""
    try:
        with jax.set_mesh(local_mesh()):
            shown = run.experiment.method.preview(run, data)
    except SolveError as error:
        LOG.warning("no video in the report: %s", error)
        return
    processes.on_primary(lambda: videos.write_preview(stem, shown.videos, shown.fps))


def _on_other_data(run: Run, real: str, frames: int | None) -> tuple[Run, Path]:
    """Returns a run whose records name another data set, and the folder of that data set."""
    need = run.experiment.window.span
    data = processes.primary_first(lambda: other.prepare(real, run.config.data, run.workdir, frames, need))
    if run.experiment.text and not other.has_captions(data, pipeline.held_out(data)):
        raise ValueError(
            f"this run makes videos of captions, and the videos of --real={real} have none: add captions "
            "(docs/data.md), or evaluate on its own data"
        )
    made = records.manifest(data)
    named = dict(path=real, key=made.get("key"), frames=made["shape"][0])
    return replace(run, protocol=run.protocol | dict(real=named)), data


def evaluate_run(run: Run, data: Path, **options) -> dict:
    """Returns the record of `evaluate` for a loaded run and the folder of its data set."""
    with jax.set_mesh(local_mesh()):
        return run.experiment.method.evaluate(run, data, **options)


def encode(config, out) -> tuple[dict, str]:
    """Encodes the data set of a config into `out`, for training in latents; returns its manifest and a note."""
    check_config(config)
    config = with_local_paths(config)
    with processes.one_writer(out, "--out", whole=True) as out:
        return method_of(config).encode(config, out, loading.load_model)


def compare(workdirs: Sequence, out, **options) -> dict:
    """Compares trained runs of one paper in the folder `out`; `options` are those of the paper's comparison."""
    if not workdirs:
        raise ValueError("--workdirs is empty: give the workdirs of trained runs, one or more")
    configs, data = {}, {}
    for path in workdirs:
        folder, config = Workdir.read(path)
        config.data = data.setdefault(folder.data_key or str(path), config.data)  # equal keys: equal data at any path
        configs[str(path)] = config
    method = method_of(next(iter(configs.values())))
    with processes.one_writer(out, "--out") as out, jax.set_mesh(local_mesh()):
        return method.compare(configs, load_with_data, out, **options)


def report(runs: Sequence, *, published: str | None = None) -> str:
    """Returns a Markdown table of the metrics of runs and of a paper's published values, in columns of their own.

    Args:
      runs: files that `jvflow evaluate` wrote, or folders with such a metrics.json.
      published: a paper of `jvflow.metrics.published`, or "none"; the paper of the runs when None.

    Raises:
      ValueError: if there is no run, a file is no record of an evaluation, or the protocols differ; the message lists
        the differences.
    """
    if not runs:
        raise ValueError("give the metrics of one or more runs: jvflow report out/a/metrics.json out/b/metrics.json")
    records = {}
    for run in runs:
        path = Path(local_path(run, "the run"))
        file = path / "metrics.json" if path.is_dir() else path
        record = read_json(file, "give the file of `jvflow evaluate --out=FILE`", keys=dict(protocol=dict))
        if str(run) in records:
            raise ValueError(f"{run} is given twice: give each run once")
        records[str(run)] = record
    protocols = {name: record["protocol"] for name, record in records.items()}
    if published is None:
        found = {_paper_of(protocol.get("objective")) for protocol in protocols.values()}
        published = found.pop() if len(found) == 1 else "none"
    tables = () if published == "none" else read_tables(published)
    return side_by_side.table({name: scalars(record) for name, record in records.items()}, protocols, tables)


def _paper_of(objective: str | None) -> str:
    """Returns the paper with an objective; "none" if there is no such paper."""
    for name in NAMES:
        with suppress(ValueError):  # of another paper
            return method_of(ConfigDict(dict(method=name, objective=objective))).name
    return "none"


def demo(
    config,
    out,
    *,
    command: str,
    quick: bool = False,
    shown: Sequence[str] | None = None,
    show: Callable = lambda report: None,
) -> dict:
    """Shows the models that the package ships, then trains and compares the small runs of a paper's demo.

    Writes the folder `out`: the videos in `models/`, and `report.html`, which shows more with each model.

    Args:
      config: the experiment of the comparison.
      out: a folder.
      command: the command of the user, for the report.
      quick: show the models only.
      shown: names of the models to show; None for all.
      show: `report -> None`, called when the report first shows videos of a model.

    Returns:
      The record of the comparison; {} if `quick`.
    """
    check_config(config)
    with_local_paths(config)  # raises before anything is written
    with processes.one_writer(out, "--out") as out:
        above, names = "", models.names() if shown is None else shown
        for number, name in enumerate(names, 1):
            card = models.card(name)
            LOG.info("jvflow:%s: %s", name, card.title)
            before, rows = above, []
            for row in _films(card, out / "models" / name):
                rows.append(row)
                above = before + showcase.section(card, rows)
                processes.on_primary(partial(showcase.write, out / REPORT, command, above))
                if len(rows) == 2:  # real and generated videos
                    processes.on_primary(partial(show, out / REPORT))
            LOG.info("%s shows %d of %d models", out / REPORT, number, len(names))
        if quick:
            return {}
        return method_of(config).demo(config, out, command=command, train=train, load=load_with_data, above=above)


def _films(card: models.Card, out: Path) -> Iterator[showcase.Films]:
    """Samples the videos that a card shows into the folder `out`, and yields them; the first row shows real videos."""
    run, data = load_with_data(f"{SHIPPED}{card.name}")
    split, seconds = card.real
    fps = float(run.config.data.fps)
    clips = pipeline.clips(data, split, count=SHOWN)[:, : round(seconds * fps)]
    texts = pipeline.captions(data, split, count=SHOWN) if run.experiment.text else [""] * SHOWN
    files = [out / "real" / f"{i:03d}.mp4" for i in range(len(clips))]
    for file, clip in zip(files, clips):
        processes.on_primary(partial(videos.write, file, clip, fps))
    yield showcase.Films("Real", files, texts[: len(files)])
    for show in card.shows:
        folder = out / re.sub(r"\W+", "_", show.title.lower())
        loaded = loading.load(f"{SHIPPED}{card.name}", sampling=dict(show.sampling))
        request = SampleRequest(data=lambda: data, **dict(count=len(clips)) | show.options)
        with jax.set_mesh(local_mesh()):
            samples = loaded.experiment.method.sample(loaded, folder, request)["samples"]
        cost = np.mean([sample["nfe_per_frame"] for sample in samples])
        note = f"{samples[0]['frames']} frames at {samples[0]['fps']:g} per second, {cost:.1f} evaluations a frame"
        captions = [sample.get("caption", "") for sample in samples]
        yield showcase.Films(show.title, [folder / sample["file"] for sample in samples], captions, note)


def load_with_data(workdir, sampling=None, overrides=None, **options) -> tuple[Run, Path]:
    """Returns a run with other entries of `config.sample` and `config.evaluate`, and the folder of its data set."""
    run = _load(workdir, sampling, overrides, **options)
    return run, loading.run_dataset(run)


def _load(workdir, sampling, overrides, **options) -> Run:
    override(Workdir.read(workdir)[1], "evaluate", overrides or {})  # raises before the run is loaded
    run = loading.load(workdir, sampling=sampling, **options)
    override(run.config, "evaluate", overrides or {})
    return replace(run, asked=tuple(overrides or ()))
