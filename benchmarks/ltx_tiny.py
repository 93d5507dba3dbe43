"""Runs every stage of configs/flowframes/ltx_2b.py, from videos to predictions, with models that a CPU can train.

    python -m benchmarks.ltx_tiny [--out=out/ltx_tiny]

1. Trains an autoencoder with LTX-Video's architecture (8 x 8 pixels of 2 frames become a latent of 32 channels) on
   procedural video of 32 x 32 pixels, and exports it in diffusers' format.
2. Runs the config at small sizes with this autoencoder: encodes latents, trains a text-to-video transformer with LTX's
   architecture, inverts the data, trains FlowFrames and the conventional design from that transformer, and evaluates
   both on held-out clips with 5 and 10 network evaluations.

Writes `out/benchmarks/ltx_tiny.json`, and OUT/sheet.png: two held-out clips of two chunks, each above the
predictions of both designs after its first chunk. Takes half an hour on one core.
"""

from pathlib import Path

from absl import flags

from benchmarks.record import write
from jvflow import cli

OUT = flags.DEFINE_string("out", "out/ltx_tiny", "Folder for models, data and the sheet.")
VAE = dict(
    _class_name="AutoencoderKLLTXVideo",
    block_out_channels=[32, 64],
    layers_per_block=[1, 1],
    down_block_types=["LTXVideo095DownBlock3D"],
    downsample_type=["spatiotemporal"],
    spatio_temporal_scaling=[True],
    decoder_block_out_channels=[32],
    decoder_layers_per_block=[1, 1],
    decoder_spatio_temporal_scaling=[True],
    upsample_residual=[True],
    upsample_factor=[1],
    timestep_conditioning=True,
    decoder_inject_noise=[False, False],
    latent_channels=32,
    patch_size=4,
    spatial_compression_ratio=8,
    temporal_compression_ratio=2,
)
STEPS, BATCH, PRIOR_WEIGHT = 2500, 8, 1e-5  # for the autoencoder


def main():
    import jax
    import numpy as np

    from jvflow.commands import evaluate_run
    from jvflow.data import dataset, latents, pipeline
    from jvflow.flowframes import inversion
    from jvflow.flowframes.sample import predict_videos
    from jvflow.load import load, load_model, run_dataset
    from jvflow.parallel.mesh import local_mesh
    from jvflow.report import videos
    from jvflow.training.loop import train

    out = Path(OUT.value)
    first = _config(out, "text_to_video")
    data = dataset.prepare(first.data, out)
    autoencoder = out / "vae"
    results = dict(autoencoder=_autoencoder(autoencoder, data))
    print(results, flush=True)
    latents.prepare(first, out / "latents")
    first.data.path = str(out / "latents")
    train(first, out / "pretrained")
    for objective in ("flowframes", "conventional"):
        config = _config(out, objective)
        config.data.path = str(out / "latents")
        if config.inversion.rho:
            inversion.prepare(config, out / "inverted", load_model)
            config.data.path = str(out / "inverted")
        train(config, out / objective)
        run = load(out / objective)
        results[objective] = evaluate_run(run, run_dataset(run))
        figures = results[objective]["frames_9"]
        print(objective, {name: value for name, value in figures.items() if name.startswith("nfe")}, flush=True)
        write("ltx_tiny", dict(results=results))
    real, captions = pipeline.clips(data, "test", count=2, frames=18), pipeline.captions(data, "test", count=2)
    rows = [real]
    for objective in ("flowframes", "conventional"):
        with jax.set_mesh(local_mesh()):
            future, _ = predict_videos(load(out / objective), real[:, :9], captions)
        rows.append(np.concatenate([real[:, :9], future], axis=1))
    rows = np.stack(rows, axis=1)
    videos.write_png(out / "sheet.png", videos.sheet(rows.reshape(-1, *rows.shape[2:]), columns=9))


def _config(out: Path, objective: str):
    from configs.flowframes import ltx_2b

    config = ltx_2b.get_config("debug")
    config.objective = objective
    config.codec = dict(name="ltx_vae", checkpoint=(str(out / "vae"),), scale=1.0, piece=0, tile=0, time=0.0)
    config.data.update(cache=str(out / "data"), frames=36, fps=8.0, size=(32, 32), clips=dict(train=256, test=64))
    config.chunk.frames = (9,)
    config.text = dict(name="bytes", length=256, group=4, width=96, depth=2, heads=4)
    config.network.update(depth=4, heads=4, head=48)
    config.times.logit_mean = 0.0  # the paper's mean is for thousands of tokens; here are 80
    config.sample.guidance = 1.0
    config.evaluate.update(clips=64, starts=2, batch=64, frames=(9,), window=8, dimensions=24, real_clips=256)
    config.run.update(log_every=100, checkpoint_every=1000, sample_every=0)
    config.optimizer.update(
        learning_rate=2e-3 if objective == "text_to_video" else 1e-3, schedule="cosine", warmup_steps=50, ema=0.99
    )
    config.train.update(steps=2500 if objective == "text_to_video" else 800, batch_size=16)
    if objective != "text_to_video":
        config.pretrained = str(out / "pretrained")
    if objective == "conventional":
        config.inversion.rho = 0.0
    return config


def _autoencoder(folder: Path, data) -> dict:
    """Trains the autoencoder and exports it into `folder`, with mean and standard deviation of its latents.

    Returns the PSNR in dB of held-out chunks through the exported codec, and the standard deviations of their latents.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jvflow import codecs, metrics, pretrained
    from jvflow.data import pipeline

    train, test = pipeline.clips(data, "train"), pipeline.clips(data, "test")
    if not folder.exists():
        model = pretrained.KINDS["ltx_vae"].model(VAE, "diffusers")
        apply = model.network.apply
        params = jax.jit(model.network.init)(jax.random.key(0))
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(4e-3, STEPS)))

        def loss(params, video, key):
            mean, log_variance = apply(params, video, method="encode")
            noise = jax.random.normal(key, mean.shape)
            decoded = apply(params, mean + jnp.exp(log_variance / 2) * noise, jnp.zeros(len(video)), method="decode")
            prior = (mean**2 + jnp.exp(log_variance) - log_variance - 1).mean()
            return jnp.abs(decoded - video).mean() + PRIOR_WEIGHT * prior

        @jax.jit
        def step(params, state, video, key):
            video = video.astype(jnp.float32) / 127.5 - 1
            value, gradients = jax.value_and_grad(loss)(params, video, key)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(params, updates), state, value

        state, rng = optimizer.init(params), np.random.default_rng(0)
        for number in range(STEPS):
            rows, starts = rng.integers(len(train), size=BATCH), rng.integers(train.shape[1] - 8, size=BATCH)
            chunks = np.stack([train[row, start : start + 9] for row, start in zip(rows, starts)])
            params, state, value = step(params, state, chunks, jax.random.key(number))
            if number % 500 == 499:
                print(f"autoencoder, step {number + 1}: {float(value):.4f}", flush=True)
        encode = jax.jit(lambda video: apply(params, video.astype(jnp.float32) / 127.5 - 1, method="encode")[0])
        mean = encode(train[:64, :9])
        params |= dict(latents_mean=mean.mean((0, 1, 2, 3)), latents_std=mean.std((0, 1, 2, 3)))
        pretrained.export("ltx_vae", VAE, params, folder)
    codec = codecs.build("ltx_vae", checkpoint=(folder,))
    posterior = codec.encode(codec.params, test[:, :9])
    decoded = np.asarray(codec.decode(codec.params, posterior.mean))
    signal = lambda video: np.asarray(video, np.float32) / 127.5 - 1
    sizes = dict(latents=float(jnp.std(posterior.mean)), posterior=float(posterior.std.mean()))
    return dict(psnr=float(np.mean(metrics.psnr(signal(decoded), signal(test[:, :9])))), **sizes)


if __name__ == "__main__":
    cli.run(main)
