"""The paper's training settings with a DiT: 128 x 128 pixels, AdamW at 1e-4, 200,000 steps of 128 pairs, bf16.

    python -m launch.train --config=configs/biflow/paper.py --config.data.path=FOLDER --workdir=out/paper

Generative Video Bi-flow, section 3.1, and the authors' released training script: batch 128, learning rate 1e-4, weight
decay 0.01, gradient norms clipped at 1, no moving average, t and alpha uniform in [0, 1], adaptive Heun at 1e-2. The
paper's network is a U-Net of width 128 (unet.py); this is DiT-B/4. Nothing of this size has been run: only its shapes
are checked.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "biflow"
    config.objective = "biflow"  # or "flow", "condiff"
    config.coupling = "consecutive"
    config.pretrained = ""  # what training starts from: the workdir of a run, or the folder of a public model

    # data
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    config.data = dict(path="", cache="", frames=64, fps=16.0, size=(128, 128), clips=dict(train=0, test=0), seed=0)
    config.data.update(fit="squeeze", stride=64, test_fraction=0.2, threads=16, captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"

    # network and objective
    config.network = dict(name="dit", width=768, depth=12, heads=12, patch=(1, 4, 4), mlp_ratio=4.0, time_scale=1000.0)
    config.network.update(dtype="bfloat16", scan=True, local=False)
    config.network.scales = dict(flow=(), biflow=(), condiff=())
    config.prediction = "velocity"  # or "clean": what the network returns where there is noise
    config.alpha_max = 1.0
    config.context = dict(frames=1, noise=0.0)  # number of known frames; the highest noise level on those other than x
    config.loss_weights = dict(flow=(1.0,), biflow=(1.0, 1.0), condiff=(1.0,))

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=1e-4, schedule="constant", warmup_steps=0)
    config.optimizer.update(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, max_grad_norm=1.0, ema=0.0)
    config.train = dict(steps=200_000, batch_size=128)

    # sampling and evaluation
    config.sample = dict(curve="joint", epsilon=0.1, gain=0.0, context_noise=0.0)
    config.sample.update(method="heun", rtol=1e-2, atol=1e-2, steps=config_dict.placeholder(int), per_sample=True)
    config.evaluate = dict(videos=128, frames=512, batch=8, seed=0, window=32, stride=16, pooled=4)
    config.evaluate.update(features="window_pca", dimensions=64, real_clips=1024)

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=100, checkpoint_every=5000, keep=2, sample_every=5000, validate_every=5000)
    config.run.update(evaluate_every=0, sample_frames=64, progress=True, tensorboard=True)

    if mode == "debug":
        config.network.update(width=32, depth=1, heads=2, patch=(1, 16, 16))
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(videos=2, frames=96, batch=2, dimensions=4)
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
