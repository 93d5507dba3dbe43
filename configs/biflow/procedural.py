"""FLOW, BI-FLOW and CONDIFF on procedural video, at a size that a laptop trains in minutes.

    python -m launch.train --config=configs/biflow/procedural.py --workdir=out/biflow
    python -m launch.train --config=configs/biflow/procedural.py --config.objective=flow --workdir=out/flow
    python -m launch.train --config=configs/biflow/procedural.py:debug --workdir=out/debug

The three methods differ in config.objective only. `python -m launch.demo` trains and compares them.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 1
    config.method = "biflow"
    config.objective = "biflow"  # or "flow", "condiff"
    config.coupling = "consecutive"
    config.pretrained = ""  # what training starts from: the workdir of a run, or the folder of a public model

    # data
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    config.data = dict(path="procedural:comets", cache="", frames=80, fps=8.0, size=(16, 16))
    config.data.clips = dict(train=512, test=512)  # streams start from few of the clips they are compared with
    config.data.update(seed=0, fit="crop", stride=80, test_fraction=0.2, captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    config.data.threads = 1

    # network and objective
    config.network = dict(name="dit", width=96, depth=4, heads=4, patch=(1, 2, 2), mlp_ratio=4.0, time_scale=1000.0)
    config.network.update(dtype="float32", scan=False, local=True)
    config.network.scales = dict(flow=(0.2,), biflow=(0.2, 1.0), condiff=(1.0,))
    config.prediction = "velocity"  # or "clean": what the network returns where there is noise
    config.alpha_max = 1.0
    config.context = dict(frames=1, noise=0.0)  # number of known frames; the highest noise level on those other than x
    config.loss_weights = dict(flow=(30.0,), biflow=(30.0, 1.0), condiff=(1.0,))

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=50)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.01, max_grad_norm=1.0, ema=0.99)
    config.train = dict(steps=1200, batch_size=16)

    # sampling and evaluation
    config.sample = dict(curve="joint", epsilon=0.2, gain=0.0, context_noise=0.0)
    config.sample.update(method="heun", rtol=1e-2, atol=1e-2, steps=config_dict.placeholder(int), per_sample=True)
    config.evaluate = dict(videos=16, frames=192, batch=16, seed=0, window=32, stride=16, pooled=4)
    config.evaluate.update(features="window_pca", dimensions=32, real_clips=256)

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=25, checkpoint_every=500, keep=2, sample_every=0, validate_every=500)
    config.run.update(evaluate_every=0, sample_frames=32, progress=True, tensorboard=True)

    if mode == "debug":
        config.data.clips = dict(train=8, test=8)
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(videos=4, frames=96, dimensions=4, real_clips=8)
        config.run.update(log_every=5, checkpoint_every=10, validate_every=0)
    return config
