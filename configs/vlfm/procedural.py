"""VLFM from captions: 16 procedural clips of two seconds, trained at 24 fps, read at 48 fps and up to eight seconds.

    python -m launch.train    --config=configs/vlfm/procedural.py --workdir=out/captions
    python -m launch.sample   --workdir=out/captions --out=out/captions/clips --count=4 --fps=48
    python -m launch.evaluate --workdir=out/captions --out=out/captions/metrics.json

Each clip has a caption of its own. The evaluation counts for how many captions the sampled clip is nearest to the true
one, also with captions swapped, and measures the frames between and after those of training.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "vlfm"
    config.objective = "vlfm"  # or "direct": the paper's ablation without a flow
    config.pretrained = ""  # what training starts from: the workdir of a run, or the folder of a public model

    # data
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    config.data = dict(path="procedural:bouncing", cache="", frames=384, fps=48.0, size=(32, 32))
    config.data.update(clips=dict(train=16, test=1), seed=0, fit="squeeze", stride=384, test_fraction=0.2, threads=1)
    config.data.update(captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    # trained on: N frames of each clip, every second one, from the first on
    config.window = dict(frames=48, every=2, anywhere=False)

    # path and objective
    config.path = dict(order=config_dict.placeholder(int))  # 1.3 N when empty
    config.path.update(rule="first_order_hold", ramp=True, sigma="exponential", alpha=7.0, sigma_min=0.9)
    config.path.velocity_scale = 0.1  # root mean square change of the latents from one frame to the next
    config.times = dict(start=0.1, frames=1.0)  # this fraction of all t falls within so many first frames
    config.prediction = "clean"  # what the network returns; or "velocity", or "scaled_velocity"
    config.mean_weight = 10.0

    # captions and network
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = dict(name="dit", width=192, depth=4, heads=4, patch=(1, 4, 4), mlp_ratio=4.0, time_scale=30.0)
    config.network.update(dtype="float32", scan=False, local=True)

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=2e-3, schedule="cosine", warmup_steps=100)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, ema=0.998)
    config.train = dict(steps=6000, batch_size=16)

    # sampling and evaluation
    config.sample = dict(guidance=1.0, readout="mean", method="heun", rtol=1e-2, atol=1e-2)
    config.sample.update(steps=config_dict.placeholder(int), per_sample=True)
    config.evaluate = dict(split="train", clips=16, batch=16, seed=0, text_guidance=(1.0, 2.0, 4.0))

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=25, checkpoint_every=500, keep=2, sample_every=1000, validate_every=1000)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)

    if mode == "debug":
        config.data.update(frames=24, size=(16, 16), clips=dict(train=4, test=1))
        config.window.update(frames=6)
        config.text.update(width=32, depth=1, heads=2)
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(clips=4, text_guidance=(1.0, 2.0))
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
