"""The paper's networks and training (unet.py) on MINERL, an agent in Minecraft (Saxena et al., NeurIPS 2021).

    python -m launch.train --config=configs/biflow/unet_minerl.py --config.data.path=FOLDER --workdir=out/minerl
    python -m launch.evaluate --workdir=out/minerl --out=out/minerl/metrics.json

FOLDER is the data set's videos at 64 x 64 pixels or more; data.fps is the rate that their frames are taken at, which the
paper does not say: give that of the files. Seven levels leave one place of 64 x 64 pixels at the lowest. The paper has an FVD of 834 at 25.7 evaluations a frame, the
best of epsilon 0 to 0.3, and of 823 with 20 steps of Euler; its features are others than those measured here. Not run at this size.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: as of unet.py."""
    config = run_path(str(Path(__file__).with_name("unet.py")))["get_config"](mode)
    if mode != "debug":
        config.data.update(size=(64, 64), fps=20.0)
    return config
