"""The paper's networks and training (unet.py) on MINERL, an agent in Minecraft (Saxena et al., NeurIPS 2021).

    python -m launch.train --config=configs/biflow/unet_minerl.py --config.data.path=FOLDER --workdir=out/minerl
    python -m launch.evaluate --workdir=out/minerl --out=out/minerl/metrics.json

FOLDER holds the data set's videos at 64 x 64 pixels or more. data.fps is the rate at which frames are taken; the paper
does not state it: use the rate of the files. At 64 x 64 pixels the lowest of the seven levels has one position.

Cost: unknown; no run of this size was made. Expect: the paper reports an FVD of 834 at 25.7 solver steps per frame (the
best of epsilon 0 to 0.3; the paper counts the slowest of eight videos), and of 823 with 20 Euler steps. The features
behind those figures are not ours.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns unet.py's config of the same mode, for this data set."""
    config = defaults.derive(__file__, "unet.py", mode)
    if mode != "debug":
        config.data.update(size=(64, 64), fps=20.0)
    return config
