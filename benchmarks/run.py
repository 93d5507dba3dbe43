"""Runs one of the benchmarks that need no data and no flags.

    python -m benchmarks.run NAME [--record]

    pytorch           train step and streaming against plain PyTorch (needs the extra `dev`)
    loop              share of a training run's wall time outside the compiled step
    loader            batches that the loader reads in the time of one train step
    latents           how fast the loader reads latents, with the video in their records and apart
    solver            diffrax through `solver.solve` against a hand-written loop
    context           BI-FLOW and CONDIFF with one and two known frames, where one frame does not show the motion
    curved            an experiment: a path through true frames in between, against the straight path
    stable_diffusion  Stable Diffusion's decoder and U-Net at full size, random parameters: seconds and memory
    video_vae         memory of LTX-Video's and Wan's autoencoders, whole and in pieces, over the length of a video
    i3d               I3D's features against the carrier's code and PyTorch (needs the extras `dev` and `metrics`)
    public            exported models in the packages that published them (needs the extra `dev`)

Each writes `out/benchmarks/NAME.json`: the figures, the date, the machine and the versions. `pytorch`, `loop`,
`loader`, `solver`, `context` and `curved` use the experiment of `make demo`, at its size. `benchmarks.biflow` runs the
demo's comparison on longer videos.
"""

import importlib

from benchmarks.record import write
from jvflow import cli

NAMES = (
    "pytorch",
    "loop",
    "loader",
    "latents",
    "solver",
    "context",
    "curved",
    "stable_diffusion",
    "video_vae",
    "i3d",
    "public",
)


def main(given: list[str]):
    if len(given) != 1 or given[0] not in NAMES:
        raise ValueError(f"give the name of one benchmark, of {', '.join(NAMES)}: python -m benchmarks.run {NAMES[0]}")
    figures = importlib.import_module(f"benchmarks.{given[0]}").measure()
    print(write(given[0], figures).read_text())


if __name__ == "__main__":
    cli.run(main, positional=True)
