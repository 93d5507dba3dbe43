"""Runs one of the benchmarks that need no data and no flags.

    python -m benchmarks.run NAME

    pytorch           train step and streaming against plain PyTorch (needs the extra `dev`)
    loop              share of a training run's wall time outside the compiled step
    loader            batches that the loader reads in the time of one train step
    solver            diffrax through `solver.solve` against a hand-written loop
    context           BI-FLOW and CONDIFF with one and two known frames, where one frame does not show the motion
    curved            an experiment: a path through true frames in between, against the straight path
    stable_diffusion  Stable Diffusion's decoder and U-Net at full size, random parameters: seconds and memory
    video_vae         memory of LTX-Video's and Wan's autoencoders, whole and in pieces, over the length of a video
    i3d               I3D's features against the carrier's code and PyTorch (needs the extras `dev` and `metrics`)
    public            exported models in the packages that published them (needs the extra `dev`)

Each writes `benchmarks/results/NAME.json`: the figures, the date, the machine and the versions. All but the last four
use the experiment of `make demo`, at its size. `benchmarks.biflow` runs the demo's comparison on longer videos.
"""

import importlib
import sys

from benchmarks.record import RESULTS, write

NAMES = ("pytorch", "loop", "loader", "solver", "context", "curved", "stable_diffusion", "video_vae", "i3d", "public")


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks.run NAME, with NAME one of {', '.join(NAMES)}")
    name = sys.argv[1]
    figures = importlib.import_module(f"benchmarks.{name}").measure()
    write(name, figures)
    print((RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    main()
