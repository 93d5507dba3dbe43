"""FLOW, BI-FLOW and CONDIFF on procedural video, at a size that a laptop trains in minutes.

    python -m launch.train --config=configs/biflow/procedural.py --workdir=out/biflow
    python -m launch.train --config=configs/biflow/procedural.py --config.objective=flow --workdir=out/flow

Cost: about 2 minutes of training on two CPU cores. Expect, over 512 frames and three seeds: distance 0.5 to 0.6 at 10
to 14 evaluations a frame (BI-FLOW), 0.8 to 1.1 at 31 to 33 (CONDIFF), 560 to 1638 at 8 (FLOW drifts away); real video
has 0.45. The objectives differ in config.objective alone; `python -m launch.demo` trains and compares them.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    config = defaults.common("biflow", "biflow", mode, seed=1)  # or objective "flow", "condiff"
    # data
    config.data.update(path="procedural:comets", frames=80, fps=8.0, size=(16, 16), stride=80)
    config.data.clips = dict(train=512, test=512)  # streams start from few of the clips they are compared with
    config.coupling = "consecutive"
    # network and objective
    config.network = defaults.dit(width=96, depth=4, heads=4, patch=(1, 2, 2), time_scale=1000.0)
    config.network.scales = dict(flow=(0.2,), biflow=(0.2, 1.0), condiff=(1.0,))
    config.prediction = "velocity"  # what the network returns where there is noise; or "clean"
    config.alpha_max = 1.0  # highest noise level
    config.context = dict(frames=1, noise=0.0)  # number of known frames; highest noise level on those before the last
    config.loss_weights = dict(flow=(30.0,), biflow=(30.0, 1.0), condiff=(1.0,))
    # optimization
    config.optimizer.update(learning_rate=3e-3, warmup_steps=50, weight_decay=0.01, ema=0.99)
    config.train = dict(steps=1200, batch_size=16)
    # sampling and evaluation
    config.sample = dict(curve="joint", epsilon=0.2, gain=0.0, context_noise=0.0, **defaults.adaptive_heun())
    config.evaluate = dict(videos=16, frames=192, batch=16, seed=0, window=32, stride=16, pooled=4)
    config.evaluate.update(features="window_pca", dimensions=32, real_clips=256, fvd="")
    config.run.update(log_every=25, checkpoint_every=500, sample_every=0, validate_every=500, sample_frames=32)
    if mode == "debug":
        defaults.shorten(config)
        config.data.clips = dict(train=8, test=8)
        config.network.update(width=32, depth=1, heads=2)
        config.evaluate.update(videos=4, frames=96, dimensions=4, real_clips=8)
    return config
