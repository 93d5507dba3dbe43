"""Runs FlowFrames' studies on procedural video: ablation, network evaluations, lengths (figures 4, 6a, 6b), inversion.

    python -m benchmarks.flowframes [--variants=...] [--out=out/flowframes_study]

Trains the text-to-video model of `configs/flowframes/pretrain.py`, inverts the data through it, trains each variant of
`configs/flowframes/procedural.py` for the same number of steps, evaluates all variants on held-out clips, and writes
`out/benchmarks/flowframes.json`. Continues an interrupted run, and keeps finished parts. Once the inversions exist,
two commands with different variants may share a folder.

    coupled_inverted    algorithm 1: pretrained model, consecutive chunks, target inversion
    coupled             algorithm 3: as coupled_inverted, without inversion
    uncoupled           algorithm 2: as coupled, with independent chunks
    optimal             as coupled, with optimal-transport pairs in each batch
    scratch_inverted    algorithm 1 from random parameters
    scratch             algorithm 3 from random parameters
    conventional        pretrained model, from noise, with the observed chunk as context
    mixed               algorithm 3 on chunks of 4, 8 and 16 frames
"""

import json
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from benchmarks.record import write
from jvflow import cli
from jvflow.files import write_text

CONFIG = config_flags.DEFINE_config_file(
    "config", cli.find_config("configs/flowframes/procedural.py"), "The experiment.", lock_config=True
)
PRETRAIN = config_flags.DEFINE_config_file(
    "pretrain",
    cli.find_config("configs/flowframes/pretrain.py"),
    "The model that training starts from.",
    lock_config=True,
)
OUT = flags.DEFINE_string("out", "out/flowframes_study", "Folder for the runs.")
VARIANTS = flags.DEFINE_list("variants", None, "Variants to run (see above); default: all.")
NAME = flags.DEFINE_string("name", "flowframes", "Name of the results file.")
CHANGES = dict(
    coupled_inverted={},
    coupled=dict(inversion=dict(rho=0.0)),
    uncoupled=dict(inversion=dict(rho=0.0), coupling="independent"),
    optimal=dict(inversion=dict(rho=0.0), coupling="minibatch_ot"),
    scratch_inverted=dict(pretrained=""),
    scratch=dict(pretrained="", inversion=dict(rho=0.0)),
    conventional=dict(objective="conventional", inversion=dict(rho=0.0)),
    mixed=dict(inversion=dict(rho=0.0), chunk=dict(frames=(4, 8, 16))),
)
STEPS = (1, 5, 6, 10, 20, 40)
LENGTHS = (8, 12, 16, 20, 24, 32, 40)
ROUND_TRIPS = (10, 20, 40, 80)


def main():
    from jvflow.commands import evaluate_run
    from jvflow.data import records
    from jvflow.flowframes import inversion
    from jvflow.load import load, load_model, run_dataset
    from jvflow.training.loop import train

    out = Path(OUT.value)
    train(PRETRAIN.value, out / "pretrained")
    base = CONFIG.value.copy_and_resolve_references()
    base.pretrained = str(out / "pretrained")
    results = {}
    for variant in VARIANTS.value or CHANGES:
        config = base.copy_and_resolve_references()
        config.update(CHANGES[variant])
        if config.inversion.rho:
            inversion.prepare(base, out / "inverted", load_model)
            config.data.path = str(out / "inverted")
        losses = [loss for _, loss in train(config, out / variant).losses()]
        results[variant] = _read_or_make(out / variant / "figures.json", partial(_figures, out / variant))
        results[variant]["loss_of_last_100_steps"] = sum(losses[-100:]) / len(losses[-100:])
        figures = results[variant]["frames_8"]["nfe_5"]
        print(variant, {name: round(value, 4) for name, value in figures.items()}, flush=True)
    _sheet(out, list(results))
    pretrained = load(out / "pretrained")
    report = dict(pretrained=evaluate_run(pretrained, run_dataset(pretrained)), round_trips=_round_trips(pretrained))
    if records.is_dataset(out / "inverted"):
        report |= dict(errors_in_the_cache=inversion.report(out / "inverted", 8, base.inversion.max_error))
    write(NAME.value, dict(variants=results, **report))


def _sheet(out: Path, variants: list[str]) -> None:
    """Writes OUT/sheet.png: two held-out clips of two chunks, each above the predictions of all variants in 5 steps."""
    import jax
    import numpy as np

    from jvflow.data import pipeline
    from jvflow.flowframes.sample import predict_videos
    from jvflow.load import load, run_dataset
    from jvflow.parallel.mesh import local_mesh
    from jvflow.report import videos

    rows = []
    for number in (0, 2):
        for row, variant in enumerate(variants):
            run = load(out / variant)
            data = run_dataset(run)
            real = pipeline.clips(data, "test", count=3, frames=16)[number:]
            captions = pipeline.captions(data, "test", count=3)[number:]
            rows += [real[0]] if row == 0 else []
            with jax.set_mesh(local_mesh()):
                future, _ = predict_videos(run, real[:1, :8], captions[:1])
            rows.append(np.concatenate([real[0, :8], future[0]]))
    videos.write_png(out / "sheet.png", videos.sheet(np.stack(rows)))


def _read_or_make(file: Path, make) -> dict:
    """Returns the content of a JSON file; writes `make()` into it first if it is absent."""
    if not file.exists():
        write_text(file, json.dumps(make(), indent=1) + "\n")
    return json.loads(file.read_text())


def _figures(workdir: Path) -> dict:
    """Evaluates a run with several numbers of steps, and long predictions in one chunk and in several chunks."""
    from jvflow.commands import evaluate_run
    from jvflow.flowframes.sample import chunk_protocol
    from jvflow.load import load, run_dataset
    from jvflow.training.workdir import override

    run = load(workdir)
    data = run_dataset(run)

    def evaluate(**settings):
        override(run.config, "evaluate", settings)
        return {name: value for name, value in evaluate_run(run, data).items() if name != "protocol"}

    protocol = chunk_protocol(run)
    figures = evaluate(steps=STEPS, starts=2)
    figures["lengths"] = evaluate(frames=LENGTHS, steps=(5,), starts=1)
    figures["lengths_fed_back"] = {f"frames_{8 * n}": evaluate(frames=(8,), chunks=n)["frames_8"] for n in (1, 2, 3, 4)}
    return figures | dict(protocol=protocol | run.config.evaluate.to_dict())


def _round_trips(run) -> dict:
    """Measures the error of 64 held-out chunks after inversion and integration back, by RF-Solver and by Euler.

    Returns the median error for each number of steps, and the order of convergence from each number to the next.
    """
    import numpy as np

    from jvflow.data import pipeline
    from jvflow.flowframes.inversion import invert
    from jvflow.load import run_dataset
    from jvflow.networks import as_field

    data, experiment = run_dataset(run), run.experiment
    chunk = experiment.codec.encode(None, pipeline.clips(data, "test", count=64, frames=8)).mean
    captions = pipeline.captions(data, "test", count=64)
    condition = experiment.caption_condition(run.params, captions, run.config.data.fps)
    field = as_field(experiment.network, run.params)
    found = {}
    for back in ("rf_solver", "euler"):
        inversions = [invert(field, chunk, condition, steps=n, back=back) for n in ROUND_TRIPS]
        errors = [float(np.median(inverted.error)) for inverted in inversions]
        orders = np.log2(np.array(errors[:-1]) / errors[1:]).tolist()
        found[back] = dict(steps=list(ROUND_TRIPS), error=errors, order=orders)
    return found


if __name__ == "__main__":
    cli.run(main)
