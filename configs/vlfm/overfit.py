r"""VLFM on one video of your own, in the latents of a tiny autoencoder at 128 x 128: replayed at any frame rate.

    python -m launch.encode   --config=configs/vlfm/overfit.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=VIDEOS --out=out/latents
    python -m launch.train    --config=configs/vlfm/overfit.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=out/latents --workdir=out/overfit
    python -m launch.sample   --workdir=out/overfit --out=out/overfit/replay --fps=48

Cost: a quarter of an hour on two CPU cores. Expect: 43 to 45 dB at the frames, 35 to 39 dB half-way between them (to
the codec's round trip). VIDEOS holds one video, of which 49 frames are used; ENCODER, DECODER: TAEF2's safetensors.
"""

from ml_collections import ConfigDict, config_dict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on procedural pixels, in seconds."""
    config = defaults.common("vlfm", "vlfm", mode)  # or objective "direct": the paper's ablation without a flow
    # data
    config.codec = dict(name="tiny", checkpoint=(), scale=0.85)
    config.data.update(frames=49, fps=24.0, size=(128, 128), stride=1_000_000, fit="squeeze", test_fraction=0.0)
    config.data.clips = dict(train=1, test=1)
    config.window = dict(frames=25, every=2, anywhere=False)  # N frames of each clip, every second one, from the first
    # path and objective; order: 1.3 N if empty; basis: or "paper"; velocity_scale: rms change per frame
    config.path = dict(order=config_dict.placeholder(int), rule="first_order_hold", basis="legs", ramp=True)
    config.path.update(sigma="exponential", alpha=7.0, sigma_min=0.5, velocity_scale=0.4, allow_divergence=False)
    config.times = dict(start=0.1, frames=1.0)  # the fraction of all t within so many first frames
    config.update(prediction="clean", mean_weight=30.0)  # or prediction "velocity", "scaled_velocity"
    # network
    config.network = defaults.dit(width=192, depth=4, heads=4, patch=(1, 2, 2), time_scale=30.0)
    # optimization
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema=0.998)
    config.train = dict(steps=6000, batch_size=16)
    # sampling and evaluation
    config.sample = dict(guidance=1.0, readout="mean", **defaults.adaptive_heun())
    config.evaluate = dict(split="train", clips=1, batch=16, seed=0, fvd="")
    config.run.update(log_every=25, checkpoint_every=500, sample_every=1000, validate_every=1000)
    if mode == "debug":
        defaults.shorten(config)
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
        config.data.update(path="procedural:comets", size=(16, 16))
        config.network.update(width=32, depth=1, heads=2)
    return config
