"""BI-FLOW on first-person walks through mazes, 64 x 64 pixels: the config of the shipped model jvflow:maze.

    python -m launch.train    --config=configs/biflow/maze.py --workdir=out/maze
    python -m launch.sample   --workdir=out/maze --out=out/maze/stream --frames=256
    python -m launch.evaluate --workdir=out/maze --out=out/maze/metrics.json

Cost: 89 minutes on one CPU core, 90 steps a minute. Expect: see docs/models.md.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns video_folder.py's config of the same mode, on a procedural maze."""
    config = defaults.derive(__file__, "video_folder.py", mode)
    config.data.update(path="procedural:maze", frames=32, fps=12.0, size=(64, 64), stride=32, min_frames=0)
    config.data.clips = dict(train=1200, test=256)
    config.alpha_max = 0.5
    config.sample.epsilon = 0.3
    config.train = dict(steps=8000, batch_size=8)
    config.network.update(width=128, depth=4, heads=4, patch=(1, 4, 4))
    config.evaluate.update(videos=16, frames=96, batch=16, dimensions=32)
    if mode == "debug":
        defaults.shorten(config)
        config.data.update(frames=16, size=(16, 16), clips=dict(train=8, test=4))
        config.network.update(width=32, depth=1, heads=2)
        config.evaluate.update(videos=2, frames=96, batch=2, dimensions=4)
    return config
