"""VLFM on one video of your own, in the latents of a tiny autoencoder at 128 x 128: replayed at any frame rate.

    python -m launch.encode   --config=configs/vlfm/overfit.py --config.codec.weights="('ENCODER', 'DECODER')" --config.data.path=VIDEOS --out=out/latents
    python -m launch.train    --config=configs/vlfm/overfit.py --config.codec.weights="('ENCODER', 'DECODER')" --config.data.path=out/latents --workdir=out/overfit
    python -m launch.sample   --workdir=out/overfit --out=out/overfit/replay --fps=48
    python -m launch.evaluate --workdir=out/overfit --out=out/overfit/metrics.json

VIDEOS is a folder with one video, ENCODER and DECODER the safetensors files of TAEF2. Its first 49 frames are taken,
every second one is trained on, and the others are what interpolation is measured on.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: "" for the experiment, "debug" for the same code in seconds, on procedural pixels."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = "vlfm"  # or "direct": the paper's ablation without a flow
    config.pretrained = ""  # what training starts from: the workdir of a run, or a public model
    config.codec = dict(name="tiny", weights=(), scale=0.85)
    config.data = dict(
        path="", cache="", frames=49, fps=24.0, size=(128, 128), clips=dict(train=1, test=1), seed=0,
        fit="squeeze", stride=1_000_000, test_fraction=0.0, threads=1, captions="", image_fps=0.0,
        dtype="float32",  # of latents on disk; or float16, bfloat16
    )
    config.clip = dict(frames=25, every=2, anywhere=False)  # what is trained on: N frames of each clip, every second one, from the first on
    config.path = dict(
        order=config_dict.placeholder(int),  # 1.3 N when empty
        rule="first_order_hold", ramp=True, sigma="exponential", alpha=7.0, minimum=0.5,
        motion=0.4,  # how much latents change from a frame to the next, root mean square
    )
    config.draw = dict(start=0.1, frames=1.0)  # this part of all t is within so many first frames
    config.prediction = "mean"  # or "velocity", or "plain" without scales: what the network returns
    config.mean_weight = 30.0
    config.text = dict(name="none")
    config.caption_dropout = 0.0
    config.network = dict(
        name="dit", width=192, depth=4, heads=4, patch=(1, 2, 2), mlp_ratio=4.0, time_scale=30.0,
        dtype="float32", scan=False, local=True,
    )
    config.optimizer = dict(
        name="adamw", learning_rate=2e-3, schedule="cosine", warmup_steps=100, b1=0.9, b2=0.99, eps=1e-8,
        weight_decay=0.0, clip=1.0, ema=0.998,
    )
    config.train = dict(steps=6000, batch_size=16)
    config.sample = dict(
        guidance=1.0, readout="mean", method="heun", rtol=1e-2, atol=1e-2, steps=config_dict.placeholder(int), per_sample=True,
    )
    config.evaluate = dict(split="train", clips=1, batch=16, seed=0, text_guidance=(1.0,))
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # what trains: all; layers by rule; or with a rank LoRA beside them
    config.run = dict(
        mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none",  # how steps are computed, not what
        log_every=25, checkpoint_every=500, keep=2, sample_every=1000, validate_every=1000, evaluate_every=0, progress=True, tensorboard=True,
    )
    if mode == "debug":
        config.codec = dict(name="pixels", weights=(), scale=1.0)
        config.data.update(path="procedural:comets", size=(16, 16))
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
