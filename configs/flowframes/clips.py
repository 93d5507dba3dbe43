"""FlowFrames on a folder of your own videos, 17 frames to the next 17, in the latents of a tiny autoencoder at 64 x 64.

    python -m launch.encode   --config=configs/flowframes/clips.py --config.codec.weights="('ENCODER', 'DECODER')" --config.data.path=FOLDER --out=out/latents
    python -m launch.train    --config=configs/flowframes/clips.py --config.codec.weights="('ENCODER', 'DECODER')" --config.data.path=out/latents --config.objective=text_to_video --workdir=out/clips_pretrained
    python -m launch.train    --config=configs/flowframes/clips.py --config.codec.weights="('ENCODER', 'DECODER')" --config.data.path=out/latents --config.pretrained=out/clips_pretrained --workdir=out/clips
    python -m launch.sample   --workdir=out/clips --out=out/clips/future
    python -m launch.evaluate --workdir=out/clips --out=out/clips/metrics.json

FOLDER holds the videos, with captions where there are some; ENCODER and DECODER are the safetensors files of TAEF2. For target inversion
encode again with --config.pretrained=out/clips_pretrained --config.inversion.rho=0.7 into another folder, and train on that with the same.
"""

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: "" for the experiment, "debug" for the same code in seconds, on procedural pixels."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = "flowframes"  # or "text_to_video": the model it starts from; "conventional": noise beside the observed chunk
    config.pretrained = ""  # workdir of a run whose parameters training starts from
    config.codec = dict(name="tiny", weights=(), scale=0.85)
    config.data = dict(
        path="", cache="", frames=34, fps=12.0, size=(64, 64), clips=dict(train=1, test=1), seed=0,
        fit="squeeze", stride=34, test_fraction=0.2, threads=1, captions="", image_fps=0.0,
        dtype="float32",  # of latents on disk; or float16, bfloat16
    )
    config.chunk = dict(frames=(17,))  # lengths of chunks; of several, each batch takes one
    config.coupling = "consecutive"  # or "independent", "minibatch_ot"
    config.inversion = dict(
        rho=0.0, coin="example",  # 0.7 in the paper; "batch": one coin for all of a batch
        std=0.05, max_error=0.1,  # sigma_0 where the codec has no posterior (its own when empty); inversions above this error are not used
        steps=25, guidance=1.0, method="rf_solver", back="rf_solver",
    )
    config.times = dict(name="uniform", logit_mean=0.0, logit_std=1.0, warp=1.0)
    config.text = dict(name="none")
    config.caption_dropout = 0.0
    config.network = dict(
        name="dit", width=256, depth=4, heads=4, patch=(1, 2, 2), mlp_ratio=4.0, time_scale=1000.0,
        dtype="float32", attention=0, scan=False, local=True,
    )
    config.optimizer = dict(
        name="adamw", learning_rate=1e-3, schedule="cosine", warmup_steps=100, b1=0.9, b2=0.99, eps=1e-8,
        weight_decay=0.0, clip=1.0, ema=0.99,
    )
    config.train = dict(steps=1500, batch_size=8)
    config.sample = dict(method="euler", steps=5, warp=1.0, guidance=1.0)
    config.evaluate = dict(
        clips=8, starts=1, batch=8, seed=0, frames=(17,), chunks=1, steps=(1, 5, 10, 40), window=8,
        features="window_pca", dimensions=9, real_clips=256,
    )
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # what trains: all; layers by rule; or with a rank LoRA beside them
    config.run = dict(
        mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none",  # how steps are computed, not what
        log_every=25, checkpoint_every=250, keep=2, sample_every=500, validate_every=500, evaluate_every=0, progress=True, tensorboard=True,
    )
    if mode == "debug":
        config.codec = dict(name="pixels", weights=(), scale=1.0)
        config.data.update(path="procedural:comets", frames=16, size=(16, 16), clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4, real_clips=8)
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
