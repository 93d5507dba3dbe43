"""Runs the comparison of `make demo` with 64 videos of 512 frames and three seeds.

    python -m benchmarks.biflow --out=out/benchmark --seeds=1,2,3

Writes `out/benchmarks/biflow_seed_N.json` for each seed: the figures of each method, the controls, the protocol,
the date, the machine and the versions. Skips a seed whose result exists, and continues an interrupted run. A seed
takes about half an hour on two CPU cores.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from benchmarks.record import file, write
from jvflow import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", cli.find_config("configs/biflow/procedural.py"), "The experiment.", lock_config=True
)
OUT = flags.DEFINE_string("out", "out/benchmark", "Folder for the runs.")
SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of training and streaming; each seed runs all methods.")
VIDEOS = flags.DEFINE_integer("videos", 64, "Number of streams of each method.")
FRAMES = flags.DEFINE_integer("frames", 512, "Frames of each stream.")


def main():
    from jvflow.commands import demo

    for seed in map(int, SEEDS.value):
        name = f"biflow_seed_{seed}"
        if file(f"{name}.json").exists():
            print(f"{file(f'{name}.json')} exists: seed {seed} is left out")
            continue
        config = CONFIG.value.copy_and_resolve_references()
        config.seed = config.evaluate.seed = seed
        config.evaluate.update(videos=VIDEOS.value, frames=FRAMES.value)
        record = demo(config, Path(OUT.value) / f"seed_{seed}", command=f"python -m benchmarks.biflow --seeds={seed}")
        write(name, record)


if __name__ == "__main__":
    cli.run(main)
