r"""The paper's setting with small encoders: DiT-XL/2 on TAESD's latents, captions by an encoder trained with it.

    python -m launch.encode --config=configs/vlfm/paper.py --config.codec.checkpoint="('TAESD',)" \
                            --config.data.path=FOLDER --out=out/latents
    python -m launch.train  --config=configs/vlfm/paper.py --config.codec.checkpoint="('TAESD',)" \
                            --config.data.path=out/latents --workdir=out/paper

Video Latent Flow Matching, section 6. TAESD is a safetensors file of the tiny autoencoder of Stable Diffusion v1.5's
latents. The paper does not state s, the learning rate, the batch, N, the resolution or the guidance: the values are
ours. So are the corrections of the paper: the ramp, the hold, the exponential schedule, the scales, and the mean as an
output. `config.path.sigma="paper"`, `config.prediction="velocity"` and `config.sample.readout="none"` are as printed.
Cost: unknown; no run of this size was made, its shapes are checked. Expect: no figure is on record.
"""

from ml_collections import ConfigDict, config_dict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on pixels, small enough to run in seconds."""
    config = defaults.common("vlfm", "vlfm", mode)  # or objective "direct": the paper's ablation without a flow
    # data
    config.codec = dict(name="tiny", checkpoint=(), scale=1.0)
    config.data.update(frames=48, fps=24.0, size=(256, 256), stride=48, test_fraction=0.01, threads=16)
    config.window = dict(frames=48, every=1, anywhere=False)  # two seconds
    # path and objective; order: 1.3 N if empty; basis: or "paper"; velocity_scale: rms change per frame
    config.path = dict(order=config_dict.placeholder(int), rule="first_order_hold", basis="legs", ramp=True)
    config.path.update(sigma="exponential", alpha=7.0, sigma_min=0.5, velocity_scale=0.4, allow_divergence=False)
    config.times = dict(start=0.1, frames=1.0)  # the fraction of all t within so many first frames
    config.update(prediction="clean", mean_weight=30.0)  # or prediction "velocity", "scaled_velocity"
    # captions and network
    config.text = dict(name="bytes", length=512, group=4, width=768, depth=6, heads=12)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = defaults.dit(width=1152, depth=28, heads=16, patch=(1, 2, 2), time_scale=30.0)
    config.network.update(dtype="bfloat16", scan=True, local=False)
    # optimization
    config.optimizer.update(name="grams", learning_rate=1e-4, schedule="constant", warmup_steps=1000)
    config.optimizer.update(b2=0.999, eps=1e-6, ema=0.9999)
    config.train = dict(steps=400_000, batch_size=256)
    # sampling and evaluation
    config.sample = dict(guidance=4.0, readout="mean", **defaults.adaptive_heun())
    config.evaluate = dict(split="train", clips=64, batch=16, seed=0, text_guidance=(1.0, 4.0), fvd="")
    config.run.update(log_every=100, checkpoint_every=5000, sample_every=5000, validate_every=5000, remat="full")
    if mode == "debug":
        defaults.shorten(config)
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
        config.data.update(path="procedural:bouncing", frames=6, size=(16, 16), clips=dict(train=4, test=1))
        config.update(window=dict(frames=6), evaluate=dict(clips=4))
        config.text.update(width=32, depth=1, heads=2)
        config.network.update(width=32, depth=2, heads=2)
    return config
