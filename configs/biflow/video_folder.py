"""BI-FLOW on a folder of your own videos (mp4, webm, mkv, gif), 32 x 32 pixels.

    python -m launch.train  --config=configs/biflow/video_folder.py --config.data.path=FOLDER --workdir=out/folder
    python -m launch.sample --workdir=out/folder --out=out/folder/stream --frames=256

Cost: about 10 minutes on two CPU cores, 9 steps a second. Expect a recognisable scene and soft detail: no figure is
on record. --config.train.steps=12000 trains longer, also after the run has ended. FOLDER is cut into clips of 32
frames, or fewer if videos are shorter; a fifth of the videos is held out.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    config = defaults.common("biflow", "biflow", mode)  # or objective "flow", "condiff"
    # data
    config.data.update(frames=32, fps=12.0, size=(32, 32), stride=32, fit="squeeze")
    config.data.min_frames = 6  # clips are shortened to this many frames at most, so that short videos give clips
    config.coupling = "consecutive"
    # network and objective
    config.network = defaults.dit(width=128, depth=4, heads=4, patch=(1, 4, 4), time_scale=1000.0)
    config.network.scales = dict(flow=(0.2,), biflow=(0.2, 1.0), condiff=(1.0,))
    config.prediction = "clean"  # what the network returns where there is noise; or "velocity"
    config.alpha_max = 1.0  # highest noise level
    config.context = dict(frames=1, noise=0.0)  # number of known frames; highest noise level on those before the last
    config.loss_weights = dict(flow=(10.0,), biflow=(10.0, 1.0), condiff=(1.0,))
    # optimization
    config.optimizer.update(learning_rate=1.5e-3, warmup_steps=100, weight_decay=0.01, ema=0.999)
    config.train = dict(steps=4000, batch_size=16)
    # sampling and evaluation
    config.sample = dict(curve="joint", epsilon=0.4, gain=0.0, context_noise=0.0, **defaults.adaptive_heun())
    config.evaluate = dict(videos=8, frames=192, batch=8, seed=0, window=32, stride=16, pooled=4)
    config.evaluate.update(features="window_pca", dimensions=12, real_clips=256, fvd="")
    config.run.update(log_every=25, checkpoint_every=500, sample_every=1000, validate_every=1000, sample_frames=32)
    if mode == "debug":
        defaults.shorten(config)
        config.network.update(width=32, depth=1, heads=2)
        config.evaluate.update(videos=2, frames=96, batch=2, dimensions=4)
    return config
