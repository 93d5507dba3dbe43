"""Measures the effect of each deviation from the letter of the VLFM paper, one at a time, in dB with intervals.

    python -m benchmarks.deviations --data=FOLDER --checkpoint=ENCODER,DECODER --out=out/deviations

Trains `configs/vlfm/overfit.py` at a small size (ours), the same with all items of `ITEMS` as printed (printed), and
ours with one item as printed, for each item (`--base=printed`: the printed one with one item as ours). Every variant
trains on two real and two procedural clips. On each clip it first tries `--rates` learning rates with the first seed,
then trains all seeds at the best of them. So no variant has a learning rate that was tuned for another.

Writes `out/benchmarks/deviations.json`: PSNR against the codec's round trip, at the frames and between them; and
for each variant the difference to the base, paired by clip and seed, as a mean with two 95 % intervals (by t, over
the means of clips, and over all pairs). A run that fails (losses or states that are not finite) has the PSNR `FAILED`.
Continues an interrupted study: each run is written to OUT/runs.json.

Cost of the defaults: 4 clips x 10 variants x 5 runs of 1,000 steps, about 3 core-hours. The same in a minute:

    python -m benchmarks.deviations --config=benchmarks/small_overfit.py:debug --real= --procedural=comets \
        --items=ramp --rates=2e-3 --seeds=0,1 --steps=20 --out=out/deviations_debug --name=deviations_debug
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from scipy import stats

from benchmarks import clips
from benchmarks.printed import ITEMS, as_printed
from benchmarks.record import write
from jvflow import cli
from jvflow.files import write_text

CONFIG = config_flags.DEFINE_config_file(
    "config", cli.find_config("benchmarks/small_overfit.py"), "Our experiment.", lock_config=True
)
DATA = flags.DEFINE_string("data", None, "A folder of videos, for the real clips.")
CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Encoder and decoder of TAEF2, as safetensors.")
REAL = flags.DEFINE_list("real", ["04_coffee", "bigbuckbunny"], "Names of videos in the folder.")
PROCEDURAL = flags.DEFINE_list("procedural", ["comets", "bouncing"], "Kinds of procedural clips.")
ITEM_NAMES = flags.DEFINE_list("items", [], "Items to change; all when empty.")
BASE = flags.DEFINE_enum("base", "ours", ["ours", "printed"], "What each variant differs from in one item.")
RATES = flags.DEFINE_list("rates", ["4e-3", "8e-3", "1.6e-2"], "Learning rates.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds; the first one tries the learning rates.")
STEPS = flags.DEFINE_integer("steps", 1000, "Steps of each run, at most 1000.", lower_bound=1, upper_bound=1000)
ORDER = flags.DEFINE_integer("order", 16, "Order of the polynomial, in all variants.")
FIRST = flags.DEFINE_integer("first", 40, "Frames to skip at the start of each video.")
OUT = flags.DEFINE_string("out", "out/deviations", "Folder for the runs.")
NAME = flags.DEFINE_string("name", "deviations", "Name of the result file.")
FAILED = 0.0  # dB
PARTS = ("frames", "between")


def main():
    out = Path(OUT.value)
    names = {name: ITEMS[name] for name in ITEM_NAMES.value or ITEMS}
    variants = dict(ours=[], printed=list(ITEMS))
    for name in names:
        variants[f"{BASE.value}, but {name}"] = [name] if BASE.value == "ours" else [n for n in ITEMS if n != name]
    runs, found = Runs(out / "runs.json", json.loads(CONFIG.value.to_json_best_effort())), {}
    for clip, config in _clips(out / "data"):
        for variant, printed in variants.items():
            rates = {rate: runs(config, out, clip, variant, printed, rate, SEEDS.value[0]) for rate in RATES.value}
            best = max(rates, key=lambda rate: rates[rate]["between"])
            seeds = {seed: runs(config, out, clip, variant, printed, best, seed) for seed in SEEDS.value}
            found.setdefault(variant, {})[clip] = dict(rates=rates, best=best, seeds=seeds)
            print(clip, variant, best, {seed: round(run["between"], 2) for seed, run in seeds.items()}, flush=True)
    differences = {name: _difference(found[name], found[BASE.value]) for name in variants if name != BASE.value}
    hours = sum(run["seconds"] for run in runs.known.values()) / 3600
    protocol = dict(base=BASE.value, steps=STEPS.value, order=ORDER.value, items=ITEMS, failed=FAILED, wall_hours=hours)
    write(NAME.value, dict(variants=found, difference_to_base=differences, protocol=protocol))


class Runs:
    """The figures of all runs of a study, kept in a file: calling it trains a run that the file lacks."""

    def __init__(self, file: Path, config: dict):
        """Reads the file; raises ValueError if its runs are of another config."""
        self.file, self._config = file, config
        known = json.loads(file.read_text()) if file.exists() else dict(config=config, runs={})
        if known["config"] != config:
            raise ValueError(f"{file} holds runs of another config: give another --out, or the same config")
        self.known = known["runs"]

    def __call__(self, base, out: Path, clip: str, variant: str, printed: list[str], rate: str, seed: str) -> dict:
        """Returns the PSNR at and between the frames, in dB, and the wall time of training and sampling."""
        label = "/".join([clip, variant, rate, seed, str(STEPS.value)])
        if label not in self.known:
            config = as_printed(base, printed, ORDER.value)
            config.seed, config.optimizer.learning_rate, config.train.steps = int(seed), float(rate), STEPS.value
            config.run.update(sample_every=0, validate_every=0, checkpoint_every=STEPS.value, progress=False)
            clock = time.perf_counter()
            figures = _figures(config, out / "runs" / label.replace(", but ", "_"))
            self.known[label] = figures | dict(seconds=time.perf_counter() - clock)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.file, json.dumps(dict(config=self._config, runs=self.known), indent=1) + "\n")
        return self.known[label]


def _figures(config, folder: Path) -> dict:
    from jvflow.commands import evaluate_run
    from jvflow.flow.solver import SolveError
    from jvflow.load import load, run_dataset
    from jvflow.training.loop import train

    try:
        train(config, folder)
        run = load(folder)
        tables = evaluate_run(run, run_dataset(run))
    except (FloatingPointError, SolveError) as error:
        return dict.fromkeys(PARTS, FAILED) | dict(failed=str(error)[:200])
    return {part: tables[part]["generated"]["against_codec"] for part in PARTS}


def _clips(out: Path) -> Iterator[tuple[str, ConfigDict]]:
    for name in filter(None, REAL.value):
        if not (DATA.value and len(CHECKPOINT.value) == 2):
            raise ValueError("real clips need --data=FOLDER and --checkpoint=ENCODER,DECODER: give both, or --real=")
        yield name, clips.real(CONFIG.value, DATA.value, name, out, first=FIRST.value, checkpoint=CHECKPOINT.value)
    for kind in filter(None, PROCEDURAL.value):
        yield kind, clips.procedural(CONFIG.value, kind, out)


def _difference(variant: dict, base: dict) -> dict:
    """Returns the mean difference of a variant to the base in dB for each part, with two 95 % intervals."""
    figures = {}
    for part in PARTS:
        pairs = [
            [run[part] - base[clip]["seeds"][seed][part] for seed, run in found["seeds"].items()]
            for clip, found in variant.items()
        ]
        figures[part] = dict(mean=float(np.mean(pairs)), clips=_interval(np.mean(pairs, 1)), pairs=_interval(pairs))
    return figures


def _interval(values) -> list[float] | None:
    """Returns the 95 % interval of the mean of some values by Student's t; None for a single value."""
    values = np.ravel(values)
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() - half), float(values.mean() + half)]


if __name__ == "__main__":
    cli.run(main)
