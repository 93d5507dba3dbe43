"""The paper's networks and training (unet.py) on CARLA, car driving (Harvey et al., NeurIPS 2022).

    python -m launch.train --config=configs/biflow/unet_carla.py --config.data.path=FOLDER --workdir=out/carla
    python -m launch.evaluate --workdir=out/carla --out=out/carla/metrics.json

FOLDER holds the data set's videos at 128 x 128 pixels or more. data.fps is the rate at which frames are taken; the
paper does not state it: use the rate of the files.

Cost: unknown; no run of this size was made. Expect: the paper reports an FVD of 345 at 23.5 solver steps per frame (the
best of epsilon 0 to 0.3; the paper counts the slowest of eight videos), and of 307 with 20 Euler steps. The features
behind those figures are not ours.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns unet.py's config of the same mode, for this data set."""
    config = defaults.derive(__file__, "unet.py", mode)
    if mode != "debug":
        config.data.update(fps=10.0)
    return config
