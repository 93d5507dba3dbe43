"""VLFM from captions, 64 x 64 pixels: the config of the shipped model jvflow:captions.

    python -m launch.train    --config=configs/vlfm/captions.py --workdir=out/captions
    python -m launch.sample   --workdir=out/captions --out=out/captions/clips --count=4 --fps=48
    python -m launch.evaluate --workdir=out/captions --out=out/captions/metrics.json

Cost: 65 minutes on one CPU core. Expect: see docs/models.md.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns procedural.py's config of the same mode, on 256 clips of comets and with four times the pixels."""
    config = defaults.derive(__file__, "procedural.py", mode)
    config.data.path = "procedural:comets"
    config.optimizer.name = "grams"
    if mode != "debug":
        config.data.update(size=(64, 64), frames=96, stride=96, clips=dict(train=256, test=64))
        config.network.width = 128
        config.train = dict(steps=4500, batch_size=8)
        config.evaluate.update(split="test", clips=64, text_guidance=(1.0,))
    return config
