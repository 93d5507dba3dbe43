"""VLFM from captions: 16 procedural clips of two seconds, trained at 24 fps, read at 48 fps and up to eight seconds.

    python -m launch.train    --config=configs/vlfm/procedural.py --workdir=out/captions
    python -m launch.sample   --workdir=out/captions --out=out/captions/clips --count=4 --fps=48
    python -m launch.evaluate --workdir=out/captions --out=out/captions/metrics.json

Cost: 25 minutes on one CPU core. Expect: each of the 16 captions generates the clip nearest to its own, at 25.2 dB at
the frames and between them, with 2.3 evaluations a frame. Each clip has a caption of its own.
"""

from ml_collections import ConfigDict, config_dict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    config = defaults.common("vlfm", "vlfm", mode)  # or objective "direct": the paper's ablation without a flow
    # data
    config.data.update(path="procedural:bouncing", frames=384, fps=48.0, size=(32, 32), stride=384, fit="squeeze")
    config.data.clips = dict(train=16, test=1)
    config.window = dict(frames=48, every=2, anywhere=False)  # N frames of each clip, every second one, from the first
    # path and objective; order: 1.3 N if empty; basis: or "paper"; velocity_scale: rms change per frame
    config.path = dict(order=config_dict.placeholder(int), rule="first_order_hold", basis="legs", ramp=True)
    config.path.update(sigma="exponential", alpha=7.0, sigma_min=0.9, velocity_scale=0.1, allow_divergence=False)
    config.times = dict(start=0.1, frames=1.0)  # the fraction of all t within so many first frames
    config.update(prediction="clean", mean_weight=10.0)  # or prediction "velocity", "scaled_velocity"
    # captions and network
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = defaults.dit(width=192, depth=4, heads=4, patch=(1, 4, 4), time_scale=30.0)
    # optimization
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema=0.998)
    config.train = dict(steps=6000, batch_size=16)
    # sampling and evaluation
    config.sample = dict(guidance=1.0, readout="mean", **defaults.adaptive_heun())
    config.evaluate = dict(split="train", clips=16, batch=16, seed=0, text_guidance=(1.0, 2.0, 4.0), fvd="")
    config.run.update(log_every=25, checkpoint_every=500, sample_every=1000, validate_every=1000)
    if mode == "debug":
        defaults.shorten(config)
        config.data.update(frames=24, size=(16, 16), clips=dict(train=4, test=1))
        config.update(window=dict(frames=6), evaluate=dict(clips=4, text_guidance=(1.0, 2.0)))
        for part in (config.text, config.network):
            part.update(width=32, depth=1, heads=2)
    return config
