"""The text-to-video flow that FlowFrames starts from: noise to chunks of 8 frames, 16 x 16, captioned procedural video.

    python -m launch.train    --config=configs/flowframes/pretrain.py --workdir=out/pretrained
    python -m launch.sample   --workdir=out/pretrained --out=out/pretrained/chunks --count=4
    python -m launch.evaluate --workdir=out/pretrained --out=out/pretrained/metrics.json

procedural.py starts from out/pretrained.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "flowframes"
    config.objective = "text_to_video"  # "flowframes" and "conventional" are in procedural.py
    config.pretrained = ""  # the workdir of a run whose parameters training starts from

    # data
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    config.data = dict(path="procedural:comets", cache="", frames=80, fps=8.0, size=(16, 16))
    config.data.update(clips=dict(train=256, test=128), seed=0, fit="crop", stride=80, test_fraction=0.2, threads=1)
    config.data.update(captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    config.chunk = dict(frames=(8,))  # chunk lengths; with several, each batch uses one

    # coupling and objective
    config.coupling = "consecutive"
    config.inversion = dict(rho=0.0, coin="example", std=config_dict.placeholder(float))
    config.inversion.max_error = config_dict.placeholder(float)
    config.inversion.update(steps=25, guidance=1.0, method="rf_solver", back="rf_solver")
    config.times = dict(name="uniform", logit_mean=0.0, logit_std=1.0, warp=1.0)

    # captions and network
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = dict(name="dit", width=192, depth=4, heads=4, patch=(2, 4, 4), mlp_ratio=4.0, time_scale=1000.0)
    config.network.update(dtype="float32", attention=0, scan=False, local=True)

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=2e-3, schedule="cosine", warmup_steps=100)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, ema=0.998)
    config.train = dict(steps=8000, batch_size=16)

    # sampling and evaluation
    config.sample = dict(method="euler", steps=40, warp=1.0, guidance=1.0)
    config.evaluate = dict(clips=128, starts=4, batch=128, seed=0, frames=(8,), chunks=1, steps=(5, 10, 40))
    config.evaluate.update(window=8, features="window_pca", dimensions=24, real_clips=256)

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=25, checkpoint_every=1000, keep=2, sample_every=2000, validate_every=2000)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)

    if mode == "debug":
        config.data.update(frames=32, clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        config.text.update(width=32, depth=1, heads=2)
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4)
        config.evaluate.real_clips = 8
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
