"""Measures the resident memory of a long stream and of a long training run, at debug size.

    python -m benchmarks.soak [--frames=100000] [--steps=50000] [--arenas=2]

Streams frames from perturbed initial parameters, and trains with 100 checkpoints, validations and TensorBoard; each in
a process of its own. Reads VmRSS (Linux) after every 200th part of the work. Memory counts as flat if it stays within
2 % of its value after the first tenth. Writes `soak.json` and the plot `soak.png` into `out/benchmarks`. Takes
about 12 minutes on two cores.

Orbax writes each checkpoint in new threads, and glibc gives threads up to 8 arenas for each core, which it fills over
the first hundred checkpoints. `--arenas` bounds them, so that this growth does not hide another one; 0 does not.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from absl import flags

from benchmarks import record
from jvflow import cli
from jvflow.metrics.record import revision

FRAMES = flags.DEFINE_integer("frames", 100_000, "Frames of the stream; 0 leaves it out.", lower_bound=0)
STEPS = flags.DEFINE_integer("steps", 50_000, "Steps of the training run; 0 leaves it out.", lower_bound=0)
ARENAS = flags.DEFINE_integer("arenas", 2, "Arenas of glibc's malloc; 0 for its default.", lower_bound=0)
SAMPLES, TOLERANCE = 200, 0.02


class Memory:
    """Samples of resident memory over the course of some work.

    Attributes:
      total: the amount of work.
      samples: (amount of work done, seconds since the start, bytes).
    """

    def __init__(self, total: int):
        self.total, self.samples, self._clock = total, [], time.perf_counter()

    def done(self, amount: int) -> None:
        """Takes a sample if another 200th of the work is done."""
        if amount >= (len(self.samples) + 1) * self.total / SAMPLES:
            self.samples.append((amount, round(time.perf_counter() - self._clock, 3), resident()))

    def figures(self) -> dict:
        """Returns the samples, and how far memory moves after the first tenth of the work."""
        later = [size for amount, _, size in self.samples if amount >= self.total / 10]
        return dict(
            total=self.total,
            seconds=self.samples[-1][1],
            mebibytes_after_a_tenth=later[0] / 2**20,
            last_over_first=later[-1] / later[0],
            largest_over_first=max(later) / later[0],
            smallest_over_first=min(later) / later[0],
            flat=bool(max(abs(size / later[0] - 1) for size in later) <= TOLERANCE),
            samples=self.samples,
        )


def resident() -> int:
    """Returns the resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


def debug_config():
    from benchmarks import subject
    from configs.biflow.procedural import get_config

    config = get_config("debug")
    config.data.cache = str(subject.folder() / "data")
    config.run.progress = False
    return config


def stream(frames: int) -> dict:
    """Streams one video, and returns the figures of its memory."""
    import jax

    from benchmarks import subject
    from jvflow.biflow.sample import stream_frames
    from jvflow.data import dataset, pipeline
    from jvflow.experiment import assemble
    from jvflow.run import Run

    config = debug_config()
    config.sample.update(steps=1, method="euler")
    experiment = assemble(config)
    params = experiment.network.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))  # the network begins as the zero field
    noisy = [leaf + 0.06 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    run = Run(config, experiment, jax.tree.unflatten(tree, noisy), subject.folder(), 0)
    data = dataset.prepare(config.data, subject.folder())
    first = pipeline.start_frames(config.data, lambda: data, 1, experiment.start_frames)
    memory = Memory(frames)
    for number, _ in zip(range(1, frames + 1), stream_frames(run, first, jax.random.key(2))):
        memory.done(number)
    return memory.figures()


def training(steps: int) -> dict:
    """Trains, and returns the figures of the memory."""
    from benchmarks import subject
    from jvflow.training.loop import train
    from jvflow.training.workdir import Metrics

    config = debug_config()
    config.train.steps = steps
    every = max(steps // 100, 1)
    config.run.update(log_every=every, checkpoint_every=every, validate_every=every)
    memory, add = Memory(steps), Metrics.add

    def counted(self, step: int, values: dict) -> None:
        add(self, step, values)
        memory.done(step)

    Metrics.add = counted
    train(config, subject.folder() / "run")
    return memory.figures()


def plot(parts: dict[str, dict], file: Path) -> None:
    """Draws the memory of each part over its work, relative to the value after the first tenth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, figures in parts.items():
        done = [amount / figures["total"] for amount, _, _ in figures["samples"]]
        sizes = [size / 2**20 / figures["mebibytes_after_a_tenth"] for _, _, size in figures["samples"]]
        axes.plot(done, sizes, label=f"{name}: {figures['mebibytes_after_a_tenth']:.0f} MiB after a tenth")
    axes.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.9", label=f"within {TOLERANCE:.0%}")
    axes.axvline(0.1, color="0.6", linewidth=0.8)
    axes.set(xlabel="part of the work", ylabel="resident memory, relative", xlim=(0, 1))
    axes.legend()
    figure.savefig(file, dpi=120)


def main():
    wanted = {f"stream of {FRAMES.value:,} frames": (stream, FRAMES.value)}
    wanted[f"training of {STEPS.value:,} steps"] = (training, STEPS.value)
    if ARENAS.value:
        os.environ["MALLOC_ARENA_MAX"] = str(ARENAS.value)  # glibc reads it when a process starts
    parts = {}
    for name, (measure, total) in wanted.items():
        if total:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                parts[name] = pool.submit(measure, total).result()
            shown = {key: value for key, value in parts[name].items() if key != "samples"}
            print(name, shown, flush=True)
    record.write("soak", dict(parts=parts, tolerance=TOLERANCE, arenas=ARENAS.value, commit=revision()))
    plot(parts, record.file("soak.png"))


if __name__ == "__main__":
    cli.run(main)
