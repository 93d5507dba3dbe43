"""Benchmarks: ratios measured in one run.

    python -m benchmarks.run pytorch    train step and streaming against plain PyTorch (needs the extra `dev`)
    python -m benchmarks.run loop       share of a training run's wall time outside the compiled step
    python -m benchmarks.run loader     batches read against batches trained on
    python -m benchmarks.run solver     diffrax through `solver.solve` against a hand-written loop
    python -m benchmarks.run context    BI-FLOW and CONDIFF with one and two known frames, where one does not show the motion
    python -m benchmarks.run curved     an experiment: a path through the true frames between two, against the straight one
    python -m benchmarks.run stable_diffusion    its decoder and its U-Net at full size, random weights: seconds and memory
    python -m benchmarks.run video_vae  memory of LTX-Video's and Wan's autoencoders, whole and in pieces, over the length of a video
    python -m benchmarks.run public     exported models in the packages that published them (needs the extra `dev`)

Each writes `benchmarks/results/NAME.json`: the figures, the date, the machine and the versions. All
but the last three use the experiment of `make demo`, at its size. `benchmarks.biflow` is the comparison at length.
"""

import importlib
import sys

from benchmarks.record import RESULTS, write

NAMES = ("pytorch", "loop", "loader", "solver", "context", "curved", "stable_diffusion", "video_vae", "public")


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks.run NAME, with NAME one of {', '.join(NAMES)}")
    name = sys.argv[1]
    figures = importlib.import_module(f"benchmarks.{name}").measure()
    write(name, figures)
    print((RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    main()
