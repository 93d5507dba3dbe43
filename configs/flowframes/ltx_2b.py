r"""The paper's first setting (table 3): FlowFrames from LTX-Video 2B, 17 and 41 frames, 256 x 384 at 24 fps.

    python -m launch.encode   --config=configs/flowframes/ltx_2b.py --config.codec.checkpoint="('LTX/vae',)" \
                              --config.text.checkpoint="('LTX/text_encoder', 'LTX/tokenizer')" \
                              --config.data.path=FOLDER --config.pretrained=LTX/transformer --out=out/ltx_inverted
    python -m launch.train    --config=configs/flowframes/ltx_2b.py --config.codec.checkpoint="('LTX/vae',)" \
                              --config.text.checkpoint="('LTX/text_encoder', 'LTX/tokenizer')" \
                              --config.data.path=out/ltx_inverted --config.pretrained=LTX/transformer --workdir=out/ltx
    python -m launch.sample   --workdir=out/ltx --out=out/ltx/future
    python -m launch.evaluate --workdir=out/ltx --out=out/ltx/metrics.json

LTX is the folder of LTX-Video 0.9.5 in the public hubs' layout: transformer, vae, text_encoder and tokenizer. FOLDER
holds videos with captions. Each chunk flows to the next one of the same length. Latents, embedded captions and inverted
chunks are made once; training runs none of the models that made them. --config.objective=conventional with
--config.inversion.rho=0.0 is LTX-Video's own design: noise, with the observed chunk at t = 1 as a condition.

Batch, microbatches and learning rate are the paper's for 28 GPUs of 80 GB: see `launch.dryrun` for your own machines.
The paper's table states neither how often training drops captions, which guidance needs, nor how many steps invert: 0.1
and 25 here. Cost: unknown; no run of this size was made. Its step is compiled for TPU slices
(`python -m benchmarks.backbones`). Expect: the paper's table 3. `:debug` runs all of the commands above with a very
small model of the same shape:

    python -m launch.train    --config=configs/flowframes/ltx_2b.py:debug --config.objective=text_to_video \
                              --config.inversion.rho=0.0 --workdir=out/tiny_pretrained
    python -m launch.encode   --config=configs/flowframes/ltx_2b.py:debug --config.pretrained=out/tiny_pretrained \
                              --out=out/tiny_inverted
    python -m launch.train    --config=configs/flowframes/ltx_2b.py:debug --config.pretrained=out/tiny_pretrained \
                              --config.data.path=out/tiny_inverted --workdir=out/tiny
    python -m launch.sample   --workdir=out/tiny --out=out/tiny/future
    python -m launch.evaluate --workdir=out/tiny --out=out/tiny/metrics.json
"""

from ml_collections import ConfigDict, config_dict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns the experiment; mode "debug" returns the same code path with a very small model of random parameters."""
    config = defaults.common("flowframes", "flowframes", mode)  # or objective "conventional", "text_to_video"
    # data
    config.codec = dict(name="ltx_vae", checkpoint=(), scale=1.0, piece=0, tile=0, time=0.0, dtype="float32")
    config.data.update(frames=82, fps=24.0, size=(256, 384), stride=82, test_fraction=0.01, threads=4)
    config.data.clips = dict(train=1, test=1)
    config.chunk = dict(frames=(17, 41), noise=0.0)  # chunk lengths, 8 k + 1 frames of video; each batch uses one
    # coupling and objective
    config.coupling = "consecutive"  # or "independent", "minibatch_ot"
    config.inversion = dict(rho=0.7, coin="example", max_error=0.1)  # larger errors are not used; coin: or "batch"
    config.inversion.std = config_dict.placeholder(float)  # sigma_0; when empty, the posterior's
    config.inversion.update(steps=25, guidance=1.0, method="rf_solver", back="rf_solver")
    config.times = dict(name="logit_normal", logit_std=1.0, warp=1.0)
    config.times.logit_mean = config_dict.placeholder(float)  # when empty, it follows the number of tokens
    # captions and network
    config.text = dict(name="t5", checkpoint=(), length=128, dtype="bfloat16", by_layer=True)
    config.caption_dropout = 0.1  # fraction of examples that train without a caption, for guidance
    config.network = dict(name="ltx", depth=28, heads=32, head=64, causal=True)
    config.network.update(dtype="bfloat16", attention=0, scan=True)
    # optimization
    config.optimizer.update(learning_rate=2e-4, schedule="linear", warmup_steps=0, ema=0.0)
    config.train = dict(steps=1450, batch_size=14336)
    # sampling and evaluation
    config.sample = dict(method="euler", steps=5, schedule="tokens", warp=1.0, terminal=0.1, guidance=3.5)  # LTX's own
    config.evaluate = dict(clips=2000, starts=1, batch=4, seed=0, frames=(17,), chunks=1, steps=(5, 10))
    config.evaluate.update(window=16, features="window_pca", dimensions=32, real_clips=2000, fvd="")
    config.run.update(log_every=10, checkpoint_every=100, sample_every=100, validate_every=100)
    config.run.update(microbatches=8, remat="full")
    if mode == "debug":
        defaults.shorten(config)
        config.codec.update(piece=1, tiny=True)
        config.data.update(path="procedural:comets", frames=34, size=(64, 64), clips=dict(train=8, test=4), threads=1)
        config.chunk.frames = (9, 17)
        config.text = dict(name="bytes", length=64, group=4, width=16, depth=1, heads=2)
        config.network.update(depth=2, heads=2, head=12, dtype="float32")
        config.evaluate.update(clips=4, starts=2, frames=(9,), window=8, dimensions=4, real_clips=8)
        config.run.update(microbatches=1, sample_every=20)
    config.tune.dtype = config.network.dtype  # frozen parameters are stored as the network computes
    return config
