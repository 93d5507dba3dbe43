"""`configs/vlfm/overfit.py` at a quarter of its pixels, with a small network: 1,000 steps take half a minute."""

from ml_collections import ConfigDict

from configs.vlfm import overfit


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" as in overfit.py."""
    config = overfit.get_config(mode)
    config.optimizer.update(ema=0.99, warmup_steps=30)
    config.train.batch_size = 8
    if mode != "debug":
        config.data.size = (64, 64)
        config.network.update(width=96, depth=3)
    return config
