"""The paper's networks and training (unet.py) on SKY, time lapses of skies (Xiong et al., CVPR 2018).

    python -m launch.train --config=configs/biflow/unet_sky.py --config.data.path=FOLDER --workdir=out/sky
    python -m launch.evaluate --workdir=out/sky --out=out/sky/metrics.json

FOLDER holds the data set's videos at 128 x 128 pixels or more. data.fps is the rate at which frames are taken; the
paper does not state it: give that of the files. Clips have 32 frames, so streams of 512 frames go far beyond what
training saw. Folders of images are clips too. The paper reports an FVD of 526 at 14.6 evaluations per frame, the best
of epsilon 0 to 0.3, and of 491 with 20 Euler steps; its features differ from those measured here. Nothing of this size
has been run.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns unet.py's config of the same mode, for this data set."""
    config = run_path(str(Path(__file__).with_name("unet.py")))["get_config"](mode)
    if mode != "debug":
        config.data.update(frames=32, stride=32, fps=30.0, image_fps=30.0)
    return config
