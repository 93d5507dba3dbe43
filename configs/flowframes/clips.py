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
    python -m launch.evaluate --workdir=out/clips --out=out/clips/metrics.json

FOLDER holds the videos, with captions where there are some; ENCODER and DECODER are the safetensors files of TAEF2. For
target inversion encode again, with --config.pretrained=out/clips_pretrained --config.inversion.rho=0.7 and another
folder, and train on that folder with the same flags.
"""

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path on procedural pixels, in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "flowframes"
    config.objective = "flowframes"  # or "conventional": noise with the observed chunk as a condition; "text_to_video"
    config.pretrained = ""  # the workdir of a run of text_to_video, whose parameters training starts from

    # data
    config.codec = dict(name="tiny", checkpoint=(), scale=0.85)
    config.data = dict(path="", cache="", frames=34, fps=12.0, size=(64, 64), clips=dict(train=1, test=1), seed=0)
    config.data.update(fit="squeeze", stride=34, test_fraction=0.2, threads=1, captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    config.chunk = dict(frames=(17,))  # chunk lengths; with several, each batch uses one

    # coupling and objective
    config.coupling = "consecutive"  # or "independent", "minibatch_ot"
    config.inversion = dict(rho=0.0, coin="example")  # 0.7 in the paper; "batch": one coin for the whole batch
    config.inversion.std = 0.05  # sigma_0 where the codec has no posterior; when empty, the posterior's
    config.inversion.max_error = 0.1  # inversions with a larger error are not used
    config.inversion.update(steps=25, guidance=1.0, method="rf_solver", back="rf_solver")
    config.times = dict(name="uniform", logit_mean=0.0, logit_std=1.0, warp=1.0)

    # captions and network
    config.text = dict(name="none")
    config.caption_dropout = 0.0
    config.network = dict(name="dit", width=256, depth=4, heads=4, patch=(1, 2, 2), mlp_ratio=4.0, time_scale=1000.0)
    config.network.update(dtype="float32", attention=0, scan=False, local=True)

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=1e-3, schedule="cosine", warmup_steps=100)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, ema=0.99)
    config.train = dict(steps=1500, batch_size=8)

    # sampling and evaluation
    config.sample = dict(method="euler", steps=5, warp=1.0, guidance=1.0)
    config.evaluate = dict(clips=8, starts=1, batch=8, seed=0, frames=(17,), chunks=1, steps=(1, 5, 10, 40))
    config.evaluate.update(window=8, features="window_pca", dimensions=9, real_clips=256)

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=25, checkpoint_every=250, keep=2, sample_every=500, validate_every=500)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)

    if mode == "debug":
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
        config.data.update(path="procedural:comets", frames=16, size=(16, 16), clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4)
        config.evaluate.real_clips = 8
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
