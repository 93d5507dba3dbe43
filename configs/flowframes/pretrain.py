"""The text-to-video flow that FlowFrames starts from: noise to chunks of 8 frames, 16 x 16, captioned procedural video.

    python -m launch.train    --config=configs/flowframes/pretrain.py --workdir=out/pretrained
    python -m launch.sample   --workdir=out/pretrained --out=out/pretrained/chunks --count=4
    python -m launch.evaluate --workdir=out/pretrained --out=out/pretrained/metrics.json

Cost: half an hour on two CPU cores (4.5 steps a second). Expect: distance 0.38 in 40 evaluations and 1.23 in 5; other
real chunks have 0.22. procedural.py starts from out/pretrained.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    config = defaults.common("flowframes", "text_to_video", mode)  # procedural.py has the other objectives
    # data
    config.data.update(path="procedural:comets", frames=80, fps=8.0, size=(16, 16), stride=80)
    config.data.clips = dict(train=256, test=128)
    config.chunk = dict(frames=(8,))  # chunk lengths; with several, each batch uses one
    # objective
    config.times = dict(name="uniform", warp=1.0)
    # captions and network
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = defaults.dit(width=192, depth=4, heads=4, patch=(2, 4, 4), time_scale=1000.0, attention=0)
    # optimization
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema=0.998)
    config.train = dict(steps=8000, batch_size=16)
    # sampling and evaluation
    config.sample = dict(method="euler", steps=40, schedule="warp", warp=1.0, terminal=0.0, guidance=1.0)
    config.evaluate = dict(clips=128, starts=4, batch=128, seed=0, frames=(8,), chunks=1, steps=(5, 10, 40))
    config.evaluate.update(window=8, features="window_pca", dimensions=24, real_clips=256, fvd="")
    config.run.update(log_every=25, checkpoint_every=1000, sample_every=2000, validate_every=2000)
    if mode == "debug":
        defaults.shorten(config)
        config.data.update(frames=32, clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        for part in (config.text, config.network):
            part.update(width=32, depth=1, heads=2)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4)
        config.evaluate.real_clips = 8
    return config
