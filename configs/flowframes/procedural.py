r"""FlowFrames on procedural video, 16 x 16: the observed chunk of 8 frames flows to the next, from pretrain.py's model.

    python -m launch.train    --config=configs/flowframes/pretrain.py --workdir=out/pretrained
    python -m launch.encode   --config=configs/flowframes/procedural.py --config.pretrained=out/pretrained \
                              --out=out/inverted
    python -m launch.train    --config=configs/flowframes/procedural.py --config.pretrained=out/pretrained \
                              --config.data.path=out/inverted --workdir=out/flowframes
    python -m launch.sample   --workdir=out/flowframes --out=out/flowframes/future --frames=32
    python -m launch.evaluate --workdir=out/flowframes --out=out/flowframes/metrics.json

The paper's algorithm 3 is --config.inversion.rho=0.0, which needs no launch.encode; algorithm 2 adds
--config.coupling=independent to that. --config.objective=conventional trains the design that the paper compares with;
--config.pretrained="" trains from scratch.
"""

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path, small enough to run in seconds."""
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "flowframes"
    config.objective = "flowframes"  # or "conventional": noise with the observed chunk as a condition
    config.pretrained = ""  # the workdir of a run whose parameters training starts from

    # data
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    config.data = dict(path="procedural:comets", cache="", frames=80, fps=8.0, size=(16, 16))
    config.data.update(clips=dict(train=256, test=128), seed=0, fit="crop", stride=80, test_fraction=0.2, threads=1)
    config.data.update(captions="", image_fps=0.0)
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    config.chunk = dict(frames=(8,))  # chunk lengths; with several, each batch uses one

    # coupling and objective
    config.coupling = "consecutive"  # or "independent", "minibatch_ot"
    config.inversion = dict(rho=0.7, coin="example")  # or "batch": one coin for the whole batch
    config.inversion.std = 0.05  # sigma_0 where the codec has no posterior; when empty, the posterior's
    config.inversion.max_error = 0.1  # inversions with a larger error are not used
    config.inversion.update(steps=25, guidance=1.0, method="rf_solver", back="rf_solver")
    config.times = dict(name="uniform", logit_mean=0.0, logit_std=1.0, warp=1.0)

    # captions and network
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = dict(name="dit", width=192, depth=4, heads=4, patch=(2, 4, 4), mlp_ratio=4.0, time_scale=1000.0)
    config.network.update(dtype="float32", attention=0, scan=False, local=True)

    # optimization
    config.optimizer = dict(name="adamw", learning_rate=1e-3, schedule="cosine", warmup_steps=50)
    config.optimizer.update(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, ema=0.99)
    config.train = dict(steps=1000, batch_size=16)

    # sampling and evaluation
    config.sample = dict(method="euler", steps=5, warp=1.0, guidance=1.0)
    config.evaluate = dict(clips=128, starts=4, batch=128, seed=0, frames=(8,), chunks=1, steps=(1, 5, 6, 10, 40))
    config.evaluate.update(window=8, features="window_pca", dimensions=24, real_clips=256)

    # run
    config.tune = dict(layers=(), rank=0, alpha=16.0)  # everything trains; or layers chosen by rule; or LoRA, rank > 0
    # mesh, microbatches and remat: how steps are computed, not what
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none")
    config.run.update(log_every=25, checkpoint_every=500, keep=2, sample_every=1000, validate_every=1000)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)

    if mode == "debug":
        config.data.update(frames=32, clips=dict(train=8, test=4))
        config.chunk.frames = (4,)
        config.text.update(width=32, depth=1, heads=2)
        config.network.update(width=32, depth=1, heads=2)
        config.train.update(steps=20, batch_size=4)
        config.evaluate.update(clips=4, starts=2, batch=4, frames=(4,), window=4, steps=(2,), dimensions=4)
        config.evaluate.real_clips = 8
        config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)
    return config
