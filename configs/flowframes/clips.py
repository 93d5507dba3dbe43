r"""FlowFrames on a folder of your own videos, 17 frames to the next 17, in a tiny autoencoder's latents at 64 x 64.

    python -m launch.encode   --config=configs/flowframes/clips.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=FOLDER --out=out/latents
    python -m launch.train    --config=configs/flowframes/clips.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=out/latents --config.objective=text_to_video \
                              --workdir=out/clips_pretrained
    python -m launch.train    --config=configs/flowframes/clips.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=out/latents --config.pretrained=out/clips_pretrained \
                              --workdir=out/clips
    python -m launch.sample   --workdir=out/clips --out=out/clips/future

Cost: three quarters of an hour on two CPU cores. Expect, from 45 clips: 15.2 dB and distance 1.11 in 5 evaluations;
still scenes stay sharp, motion smears (the observed chunk again: 16.6 dB and 1.05). FOLDER holds the videos; ENCODER
and DECODER are the safetensors files of TAEF2. For target inversion encode again into another folder, with
--config.pretrained=out/clips_pretrained --config.inversion.rho=0.7, and train on that folder with the same flags.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on procedural pixels, in seconds."""
    config = defaults.common("flowframes", "flowframes", mode)  # or objective "conventional", "text_to_video"
    # data
    config.codec = dict(name="tiny", checkpoint=(), scale=0.85)
    config.data.update(frames=34, fps=12.0, size=(64, 64), stride=34, fit="squeeze", clips=dict(train=1, test=1))
    config.chunk = dict(frames=(17,), noise=0.0)  # chunk lengths, each batch uses one; noise on the observed chunk
    # coupling and objective
    config.coupling = "consecutive"  # or "independent", "minibatch_ot"
    config.inversion = dict(rho=0.0, coin="example", max_error=0.1)  # rho: 0.7 in the paper; coin: or "batch"
    config.inversion.std = 0.05  # sigma_0 where the codec has no posterior; when empty, the posterior's
    config.inversion.update(steps=25, guidance=1.0, method="rf_solver", back="rf_solver")
    config.times = dict(name="uniform", warp=1.0)
    # network
    config.network = defaults.dit(width=256, depth=4, heads=4, patch=(1, 2, 2), time_scale=1000.0, attention=0)
    # optimization
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema=0.99)
    config.train = dict(steps=1500, batch_size=8)
    # sampling and evaluation
    config.sample = dict(method="euler", steps=5, schedule="warp", warp=1.0, terminal=0.0, guidance=1.0)
    config.evaluate = dict(clips=8, starts=1, batch=8, seed=0, frames=(17,), chunks=1, steps=(1, 5, 10, 40))
    config.evaluate.update(window=8, features="window_pca", dimensions=9, real_clips=256, fvd="")
    config.run.update(log_every=25, checkpoint_every=250, sample_every=500, validate_every=500)
    if mode == "debug":
        defaults.shorten(config)
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
        config.data.update(path="procedural:comets", frames=16, size=(16, 16), clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        config.network.update(width=32, depth=1, heads=2)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4)
        config.evaluate.real_clips = 8
    return config
