"""The paper's setting with the paper's network: a U-Net for each velocity, 128 x 128 pixels, bf16.

    python -m launch.train --config=configs/biflow/unet.py --config.data.path=FOLDER --workdir=out/unet

Generative Video Bi-flow, section 3.1, and the authors' script: two networks of width 128 for BI-FLOW (one if `shared`,
as in the text), one of width 192 for FLOW and CONDIFF. --config.pretrained=VIDEO,NOISE starts from the authors' ones
(docs/finetuning.md). Cost: unknown, no such run was made. Expect: see unet_sky.py to unet_minerl.py, on its data sets.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on procedural pixels, in seconds."""
    config = defaults.common("biflow", "biflow", mode)  # or objective "flow", "condiff"
    # data
    config.data.update(frames=64, fps=16.0, size=(128, 128), stride=64, fit="squeeze", threads=16)
    config.coupling = "consecutive"
    # network and objective
    config.network = dict(name="unet", width=dict(flow=192, biflow=128, condiff=192), levels=(1, 1, 2, 2, 2, 4, 4))
    config.network.attends = (False, False, False, False, False, True, False)
    config.network.update(blocks=2, groups=32, head=8, time_scale=1.0, dtype="bfloat16", shared=False)
    config.network.scales = dict(flow=(), biflow=(), condiff=())
    config.prediction = "velocity"  # what the network returns where there is noise; or "clean"
    config.alpha_max = 1.0  # highest noise level
    config.context = dict(frames=1, noise=0.0)  # number of known frames; highest noise level on those before the last
    config.loss_weights = dict(flow=(1.0,), biflow=(1.0, 1.0), condiff=(1.0,))
    # optimization
    config.optimizer.update(learning_rate=1e-4, schedule="constant", warmup_steps=0)
    config.optimizer.update(b2=0.999, weight_decay=0.01, ema=0.0)
    config.train = dict(steps=200_000, batch_size=128)
    # sampling and evaluation
    config.sample = dict(curve="joint", epsilon=0.1, gain=0.0, context_noise=0.0, **defaults.adaptive_heun())
    config.evaluate = dict(videos=128, frames=512, batch=8, seed=0, window=32, stride=16, pooled=4)
    config.evaluate.update(features="window_pca", dimensions=64, real_clips=1024, fvd="")
    config.run.update(log_every=100, checkpoint_every=5000, sample_every=5000, validate_every=5000, sample_frames=64)
    if mode == "debug":
        defaults.shorten(config)
        config.data.update(path="procedural:comets", size=(16, 16), clips=dict(train=8, test=4), threads=1)
        config.network.update(width=dict(flow=12, biflow=8, condiff=12), levels=(1, 2), attends=(False, True))
        config.network.update(groups=4, head=4, blocks=1)
        config.evaluate.update(videos=2, frames=96, batch=2, dimensions=4)
    return config
