r"""FlowFrames on procedural video, 16 x 16: the observed chunk of 8 frames flows to the next, from pretrain.py's model.

    python -m launch.train    --config=configs/flowframes/pretrain.py --workdir=out/pretrained
    python -m launch.encode   --config=configs/flowframes/procedural.py --config.pretrained=out/pretrained \
                              --out=out/inverted
    python -m launch.train    --config=configs/flowframes/procedural.py --config.pretrained=out/pretrained \
                              --config.data.path=out/inverted --workdir=out/flowframes
    python -m launch.sample   --workdir=out/flowframes --out=out/flowframes/future --frames=32

Cost: 4 minutes of training on two CPU cores, after half an hour for pretrain.py. Expect, in 5 evaluations, distance
0.12 and 39.0 dB to the true future (the observed chunk again: 0.61 and 11.8 dB). --config.inversion.rho=0.0 is the
paper's algorithm 3, which needs no launch.encode: 0.085 and 39.4 dB. Algorithm 2 adds --config.coupling=independent.
--config.objective=conventional is the design that the paper compares with.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    config = defaults.common("flowframes", "flowframes", mode)  # or objective "conventional": noise to the next chunk
    # data
    config.data.update(path="procedural:comets", frames=80, fps=8.0, size=(16, 16), stride=80)
    config.data.clips = dict(train=256, test=128)
    config.chunk = dict(frames=(8,), noise=0.0)  # chunk lengths, each batch uses one; noise on the observed chunk
    # coupling and objective
    config.coupling = "consecutive"  # or "independent", "minibatch_ot"
    config.inversion = dict(rho=0.7, coin="example", max_error=0.1)  # larger errors are not used; coin: or "batch"
    config.inversion.std = 0.05  # sigma_0 where the codec has no posterior; when empty, the posterior's
    config.inversion.update(steps=25, guidance=1.0, method="rf_solver", back="rf_solver")
    config.times = dict(name="uniform", warp=1.0)
    # captions and network
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = defaults.dit(width=192, depth=4, heads=4, patch=(2, 4, 4), time_scale=1000.0, attention=0)
    config.prediction = "velocity"  # what the network returns; or "clean"
    # optimization
    config.optimizer.update(learning_rate=1e-3, warmup_steps=50, ema=0.99)
    config.train = dict(steps=1000, batch_size=16)
    # sampling and evaluation
    config.sample = dict(method="euler", steps=5, schedule="warp", warp=1.0, terminal=0.0, guidance=1.0)
    config.evaluate = dict(clips=128, starts=4, batch=128, seed=0, frames=(8,), chunks=1, steps=(1, 5, 6, 10, 40))
    config.evaluate.update(window=8, features="window_pca", dimensions=24, real_clips=256, fvd="")
    config.run.update(log_every=25, checkpoint_every=500, sample_every=1000, validate_every=1000)
    if mode == "debug":
        defaults.shorten(config)
        config.data.update(frames=32, clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        for part in (config.text, config.network):
            part.update(width=32, depth=1, heads=2)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4)
        config.evaluate.real_clips = 8
    return config
