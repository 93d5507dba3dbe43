"""The paper's networks and training (unet.py) on MAZES, an agent in mazes (Saxena et al., NeurIPS 2021).

    python -m launch.train --config=configs/biflow/unet_mazes.py --config.data.path=FOLDER --workdir=out/mazes
    python -m launch.evaluate --workdir=out/mazes --out=out/mazes/metrics.json

FOLDER holds the data set's videos at 64 x 64 pixels or more. data.fps is the rate at which frames are taken; the paper
does not state it: give that of the files. With seven levels the lowest has one position for 64 x 64 pixels. The paper
reports an FVD of 605 at 29.6 evaluations per frame, the best of epsilon 0 to 0.3, and of 620 with 20 Euler steps; its
features differ from those measured here. Nothing of this size has been run.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns unet.py's config of the same mode, for this data set."""
    config = run_path(str(Path(__file__).with_name("unet.py")))["get_config"](mode)
    if mode != "debug":
        config.data.update(size=(64, 64), fps=20.0)
    return config
