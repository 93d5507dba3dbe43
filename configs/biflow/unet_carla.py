"""The paper's networks and training (unet.py) on CARLA, car driving (Harvey et al., NeurIPS 2022).

    python -m launch.train --config=configs/biflow/unet_carla.py --config.data.path=FOLDER --workdir=out/carla
    python -m launch.evaluate --workdir=out/carla --out=out/carla/metrics.json

FOLDER is the data set's videos at 128 x 128 pixels or more; data.fps is the rate that their frames are taken at, which the
paper does not say: give that of the files. The paper has an FVD of 345 at 23.5 evaluations a frame, the
best of epsilon 0 to 0.3, and of 307 with 20 steps of Euler; its features are others than those measured here. Not run at this size.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: as of unet.py."""
    config = run_path(str(Path(__file__).with_name("unet.py")))["get_config"](mode)
    if mode != "debug":
        config.data.update(fps=10.0)
    return config
