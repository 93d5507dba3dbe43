"""The paper's setting with the paper's network: a U-Net for each velocity, 128 x 128 pixels, AdamW at 1e-4, 200,000 steps of 128 pairs, bf16.

    python -m launch.train --config=configs/biflow/unet.py --config.data.path=FOLDER --workdir=out/unet

Generative Video Bi-flow, section 3.1 and the authors' released training script: two networks of width 128 for BI-FLOW, one of
width 192 for FLOW and CONDIFF (the paper speaks of one), t and alpha raw, batch 128, weight decay 0.01, clipping at 1, no
moving average, adaptive Heun at 1e-2. --config.pretrained=VIDEO,NOISE starts from their two networks (docs/finetuning.md). The configs unet_sky.py to unet_minerl.py are this one on the six data sets of the paper.
Nothing of this size has been run: it is checked for shapes, and its debug mode is run.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: "" for the experiment, "debug" for the same code in seconds, on procedural pixels."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = "biflow"
    config.coupling = "consecutive"
    config.pretrained = ""  # what training starts from: the workdir of a run, or a public model
    config.codec = dict(name="pixels", weights=(), scale=1.0)
    config.data = dict(
        path="", cache="", frames=64, fps=16.0, size=(128, 128), clips=dict(train=0, test=0), seed=0,
        fit="squeeze", stride=64, test_fraction=0.2, threads=16, captions="", image_fps=0.0,
        dtype="float32",  # of latents on disk; or float16, bfloat16
    )
    config.network = dict(
        name="unet", width=dict(flow=192, biflow=128, condiff=192), levels=(1, 1, 2, 2, 2, 4, 4),
        attends=(False, False, False, False, False, True, False), blocks=2, groups=32, head=8, time_scale=1.0, dtype="bfloat16",
        scales=dict(flow=(), biflow=(), condiff=()),
    )
    config.prediction = "velocity"  # or "clean": what the network returns where there is noise
    config.alpha_max = 1.0
    config.context = dict(frames=1, noise=0.0)  # known frames, and the most noise on those beside x
    config.weights = dict(flow=(1.0,), biflow=(1.0, 1.0), condiff=(1.0,))
    config.optimizer = dict(
        name="adamw", learning_rate=1e-4, schedule="constant", warmup_steps=0, b1=0.9, b2=0.999, eps=1e-8,
        weight_decay=0.01, clip=1.0, ema=0.0,
    )
    config.train = dict(steps=200_000, batch_size=128)
    config.sample = dict(
        curve="joint", epsilon=0.1, gain=0.0, context_noise=0.0, method="heun", rtol=1e-2, atol=1e-2,
        steps=config_dict.placeholder(int), per_sample=True,
    )
    config.evaluate = dict(
        videos=128, frames=512, batch=8, seed=0, window=32, stride=16, pooled=4,
        features="window_pca", dimensions=64, real_clips=1024,
    )
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # what trains: all; layers by rule; or with a rank LoRA beside them
    config.run = dict(
        mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none",  # how steps are computed, not what
        log_every=100, checkpoint_every=5000, keep=2, sample_every=5000, validate_every=5000, evaluate_every=0, sample_frames=64, progress=True, tensorboard=True,
    )
    if mode == "debug":
        config.data.update(path="procedural:comets", frames=64, size=(16, 16), clips=dict(train=8, test=4), threads=1)
        config.network.update(width=dict(flow=12, biflow=8, condiff=12), levels=(1, 2), attends=(False, True), groups=4, head=4, blocks=1)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(videos=2, frames=96, batch=2, dimensions=4)
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
