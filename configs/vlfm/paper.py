r"""The paper's setting with small encoders: DiT-XL/2 on TAESD's latents, captions by an encoder trained with it.

    python -m launch.encode --config=configs/vlfm/paper.py --config.codec.checkpoint="('TAESD',)" \
                            --config.data.path=FOLDER --out=out/latents
    python -m launch.train  --config=configs/vlfm/paper.py --config.codec.checkpoint="('TAESD',)" \
                            --config.data.path=out/latents --workdir=out/paper

Video Latent Flow Matching, section 6. TAESD is a safetensors file of the tiny autoencoder of Stable Diffusion v1.5's
latents. The paper does not state s, the learning rate, the batch, N, the resolution or the guidance: these are ours.
So are the corrections where the paper is wrong: the ramp, the hold, the exponential schedule, the scales, and the mean
as an output. `config.path.sigma="paper"`, `config.prediction="velocity"` and `config.sample.readout="none"` are as
printed. Nothing of this size has been run: only its shapes are checked.
"""

import ml_collections
from ml_collections import config_dict


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on pixels, small enough to run in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "vlfm"
    config.objective = "vlfm"  # or "direct": the paper's ablation without a flow
    config.pretrained = ""  # what training starts from: the workdir of a run, or the folder of a public model

    # data
    config.codec = dict(name="tiny", checkpoint=(), scale=1.0)
    config.data = dict(path="", cache="", frames=48, fps=24.0, size=(256, 256), clips=dict(train=0, test=0), seed=0)
    config.data.update(fit="crop", stride=48, test_fraction=0.01, threads=16, captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    config.window = dict(frames=48, every=1, anywhere=False)  # two seconds

    # path and objective
    config.path = dict(order=config_dict.placeholder(int))  # 1.3 N when empty
    config.path.update(rule="first_order_hold", ramp=True, sigma="exponential", alpha=7.0, sigma_min=0.5)
    config.path.velocity_scale = 0.4  # root mean square change of the latents from one frame to the next
    config.times = dict(start=0.1, frames=1.0)  # this fraction of all t falls within so many first frames
    config.prediction = "clean"  # what the network returns; or "velocity", or "scaled_velocity"
    config.mean_weight = 30.0

    # captions and network
    config.text = dict(name="bytes", length=512, group=4, width=768, depth=6, heads=12)
    config.caption_dropout = 0.1
    config.network = dict(name="dit", width=1152, depth=28, heads=16, patch=(1, 2, 2), mlp_ratio=4.0, time_scale=30.0)
    config.network.update(dtype="bfloat16", scan=True, local=False)

    # optimization
    config.optimizer = dict(name="grams", learning_rate=1e-4, schedule="constant", warmup_steps=1000)
    config.optimizer.update(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.0, max_grad_norm=1.0, ema=0.9999)
    config.train = dict(steps=400_000, batch_size=256)

    # sampling and evaluation
    config.sample = dict(guidance=4.0, readout="mean", method="heun", rtol=1e-2, atol=1e-2)
    config.sample.update(steps=config_dict.placeholder(int), per_sample=True)
    config.evaluate = dict(split="train", clips=64, batch=16, seed=0, text_guidance=(1.0, 4.0))

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="full")
    config.run.update(log_every=100, checkpoint_every=5000, keep=2, sample_every=5000, validate_every=5000)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)

    if mode == "debug":
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
        config.data.update(path="procedural:bouncing", frames=6, size=(16, 16), clips=dict(train=4, test=1))
        config.window.update(frames=6)
        config.text.update(width=32, depth=1, heads=2)
        config.network.update(width=32, depth=2, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(clips=4)
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
