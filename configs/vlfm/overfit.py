r"""VLFM on one video of your own, in the latents of a tiny autoencoder at 128 x 128: replayed at any frame rate.

    python -m launch.encode   --config=configs/vlfm/overfit.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=VIDEOS --out=out/latents
    python -m launch.train    --config=configs/vlfm/overfit.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=out/latents --workdir=out/overfit
    python -m launch.sample   --workdir=out/overfit --out=out/overfit/replay --fps=48
    python -m launch.evaluate --workdir=out/overfit --out=out/overfit/metrics.json

VIDEOS is a folder with one video; ENCODER and DECODER are the safetensors files of TAEF2. The first 49 frames are
used: training takes every second one, and interpolation is measured on the others.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on procedural pixels, in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "vlfm"
    config.objective = "vlfm"  # or "direct": the paper's ablation without a flow
    config.pretrained = ""  # what training starts from: the workdir of a run, or the folder of a public model

    # data
    config.codec = dict(name="tiny", checkpoint=(), scale=0.85)
    config.data = dict(path="", cache="", frames=49, fps=24.0, size=(128, 128), clips=dict(train=1, test=1), seed=0)
    config.data.update(fit="squeeze", stride=1_000_000, test_fraction=0.0, threads=1, captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    # trained on: N frames of each clip, every second one, from the first on
    config.window = dict(frames=25, every=2, anywhere=False)

    # path and objective
    config.path = dict(order=config_dict.placeholder(int))  # 1.3 N when empty
    config.path.update(rule="first_order_hold", ramp=True, sigma="exponential", alpha=7.0, sigma_min=0.5)
    config.path.velocity_scale = 0.4  # root mean square change of the latents from one frame to the next
    config.times = dict(start=0.1, frames=1.0)  # this fraction of all t falls within so many first frames
    config.prediction = "clean"  # what the network returns; or "velocity", or "scaled_velocity"
    config.mean_weight = 30.0

    # captions and network
    config.text = dict(name="none")
    config.caption_dropout = 0.0
    config.network = dict(name="dit", width=192, depth=4, heads=4, patch=(1, 2, 2), mlp_ratio=4.0, time_scale=30.0)
    config.network.update(dtype="float32", scan=False, local=True)

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=2e-3, schedule="cosine", warmup_steps=100)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, ema=0.998)
    config.train = dict(steps=6000, batch_size=16)

    # sampling and evaluation
    config.sample = dict(guidance=1.0, readout="mean", method="heun", rtol=1e-2, atol=1e-2)
    config.sample.update(steps=config_dict.placeholder(int), per_sample=True)
    config.evaluate = dict(split="train", clips=1, batch=16, seed=0, text_guidance=(1.0,))

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=25, checkpoint_every=500, keep=2, sample_every=1000, validate_every=1000)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)

    if mode == "debug":
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
        config.data.update(path="procedural:comets", size=(16, 16))
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
