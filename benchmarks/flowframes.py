"""FlowFrames on procedural video: the paper's ablation (figure 4), its evaluations (figure 6a), lengths (figure 6b) and inversion.

    python -m benchmarks.flowframes [--variants=...] [--out=out/flowframes_study]

Trains the text-to-video model of `configs/flowframes/pretrain.py`, inverts the data through it, trains `configs/flowframes/procedural.py`
in each variant for the same number of steps, evaluates all on held-out clips, and writes `benchmarks/results/flowframes.json`.
What was stopped or is there already is not done again; two commands with different variants may share a folder once the inversions are made.

    coupled_inverted    from the pretrained model, consecutive chunks, target inversion: algorithm 1
    coupled             ... without inversion: algorithm 3
    uncoupled           ... and without the coupling: algorithm 2
    optimal             ... with the optimal pairs of each batch in place of the consecutive ones
    scratch_inverted    algorithm 1 from nothing
    scratch             algorithm 3 from nothing
    conventional        noise beside the observed chunk, from the pretrained model; also with four times the evaluations
    mixed               algorithm 3 on chunks of 4, 8 and 16 frames
"""

import json
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
    "pretrain", cli.find_config("configs/flowframes/pretrain.py"), "The model it starts from.", lock_config=True
)
OUT = flags.DEFINE_string("out", "out/flowframes_study", "Where the runs go.")
VARIANTS = flags.DEFINE_list("variants", None, "Of the ones above; all when empty.")
NAME = flags.DEFINE_string("name", "flowframes", "What the results are called.")
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
    from jvflow.data import records
    from jvflow.flowframes import inversion
    from jvflow.flowframes import sample as prediction
    from jvflow.run import load
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
            inversion.prepare(base, out / "inverted")
            config.data.path = str(out / "inverted")
        losses = [loss for _, loss in train(config, out / variant).losses()]
        results[variant] = _kept(out / variant / "figures.json", lambda: _figures(load(out / variant)))
        results[variant]["loss_of_last_100_steps"] = sum(losses[-100:]) / len(losses[-100:])
        print(
            variant,
            {name: round(value, 4) for name, value in results[variant]["frames_8"]["nfe_5"].items()},
            flush=True,
        )
    _sheet(out, list(results))
    pretrained = load(out / "pretrained")
    report = dict(pretrained=prediction.evaluate(pretrained), round_trips=_round_trips(pretrained))
    if records.is_dataset(out / "inverted"):
        report |= dict(errors_in_the_cache=inversion.report(out / "inverted", 8, base.inversion.max_error))
    write(NAME.value, dict(variants=results, **report))


def _sheet(out: Path, variants: list[str]) -> None:
    """OUT/sheet.png: two held-out clips of two chunks, each above its first chunk with what each variant makes of it in five steps."""
    import numpy as np

    from jvflow.data import pipeline
    from jvflow.flowframes import sample as prediction
    from jvflow.report import videos
    from jvflow.run import load

    rows = []
    for number in (0, 2):
        for row, variant in enumerate(variants):
            run = load(out / variant)
            real, captions = (
                pipeline.clips(run.data(), "test", count=3, frames=16)[number:],
                pipeline.captions(run.data(), "test", count=3)[number:],
            )
            rows += [real[0]] if row == 0 else []
            rows.append(np.concatenate([real[0, :8], prediction.predict(run, real[:1, :8], captions[:1])[0][0]]))
    videos.write_png(out / "sheet.png", videos.sheet(np.stack(rows)))


def _kept(file: Path, make) -> dict:
    """What `make` gives, or what it gave before."""
    if not file.exists():
        write_text(file, json.dumps(make(), indent=1) + "\n")
    return json.loads(file.read_text())


def _figures(run) -> dict:
    """`prediction.evaluate` of a run under the config's protocol, and for long predictions: in one piece, and fed back to the same lengths."""
    from jvflow.flowframes import sample as prediction
    from jvflow.training.workdir import override

    def evaluated(**settings):
        override(run.config, "evaluate", settings)
        return {name: value for name, value in prediction.evaluate(run).items() if name != "protocol"}

    protocol = prediction.chunk_protocol(run)
    figures = evaluated(steps=STEPS, starts=2)
    figures["lengths"] = evaluated(frames=LENGTHS, steps=(5,), starts=1)
    figures["lengths_fed_back"] = {
        f"frames_{8 * n}": evaluated(frames=(8,), chunks=n)["frames_8"] for n in (1, 2, 3, 4)
    }
    return figures | dict(protocol=protocol | run.config.evaluate.to_dict())


def _round_trips(run) -> dict:
    """The median error of 64 held-out chunks that are inverted and come back, by RF-Solver and by Euler, over the number of steps."""
    import numpy as np

    from jvflow.data import pipeline
    from jvflow.flowframes import method as flowframes

    data = run.data()
    chunk = run.experiment.codec.encode(None, pipeline.clips(data, "test", count=64, frames=8)).mean
    condition = run.condition(pipeline.captions(data, "test", count=64))
    found = {}
    for back in ("rf_solver", "euler"):
        errors = [
            float(np.median(flowframes.invert(run.field, chunk, condition, steps=n, back=back).error))
            for n in ROUND_TRIPS
        ]
        orders = np.log2(np.array(errors[:-1]) / errors[1:]).tolist()
        found[back] = dict(steps=list(ROUND_TRIPS), error=errors, order=orders)
    return found


if __name__ == "__main__":
    cli.run(main)
