"""The paper's networks and training (unet.py) on CARLA, car driving (Harvey et al., NeurIPS 2022).

    python -m launch.train --config=configs/biflow/unet_carla.py --config.data.path=FOLDER --workdir=out/carla
    python -m launch.evaluate --workdir=out/carla --out=out/carla/metrics.json

FOLDER holds the data set's videos at 128 x 128 pixels or more. data.fps is the rate at which frames are taken; the
paper does not state it: give that of the files. The paper reports an FVD of 345 at 23.5 evaluations per frame, the best
of epsilon 0 to 0.3, and of 307 with 20 Euler steps; its features differ from those measured here. Nothing of this size
has been run.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns unet.py's config of the same mode, for this data set."""
    config = run_path(str(Path(__file__).with_name("unet.py")))["get_config"](mode)
    if mode != "debug":
        config.data.update(fps=10.0)
    return config
