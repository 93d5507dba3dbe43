"""From a trained run of FlowFrames to chunks of video, and what they are worth beside the chunks that really followed.

The same for its conventional twin, and for the text-to-video model that both start from, whose chunks follow nothing but a caption.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from jvflow import metrics
from jvflow.flowframes import method as flowframes
from jvflow.parallel import processes
from jvflow.codecs import decode_chunks
from jvflow.data import pipeline
from jvflow.run import Run, protocol, solver_protocol, write_videos

Videos = UInt8[np.ndarray, "b f h w c"]


# --- chunks ---------------------------------------------------------------------------------------


def predict(run: Run, observed: Videos, captions: list[str], *, seed: int = 0, batch: int = 128, **options) -> tuple[Videos, np.ndarray]:
    """The chunks after the observed ones.

    Args:
      run: a run with `experiment.predict`.
      observed: a chunk for each caption, of any length that the network takes; its length is that of every chunk.
      captions: of the videos.
      seed: of the noise, where there is some.
      batch: predictions at a time.
      options: replace those of `flowframes.predicted`: chunks, solver, guidance.

    Returns:
      video uint8 (b, chunks f, h, w, 3); evaluations of the network for each (b,).
    """
    experiment, codec = run.experiment, run.experiment.codec
    codec.latent_shape(observed.shape[1:4])  # a length that cannot be encoded is said here

    def make(group: int) -> tuple:
        rows = slice(group * batch, (group + 1) * batch)
        key = jax.random.fold_in(jax.random.key(seed), group)
        with run.on_devices():
            start = codec.encode(codec.params, jnp.asarray(observed[rows])).mean
            made = experiment.predict(run.field, start, key, run.condition(list(captions[rows])), **options)
            return np.asarray(decode_chunks(codec, codec.params, made.frames, options.get("chunks", 1))), np.asarray(made.nfe)

    videos, nfe = zip(*processes.distributed_map(-(-len(observed) // batch), make))
    return np.concatenate(videos), np.concatenate(nfe)


def is_after(run: Run) -> bool:
    """Whether the run's chunks follow an observed one; those of text_to_video do not."""
    return run.experiment.predict.keywords["design"] is not flowframes.TEXT_TO_VIDEO


def compared(run: Run, data) -> Videos:
    """Four held-out clips of two chunks, each above its first chunk with what the run makes of it."""
    length = max(run.config.chunk.frames)
    real = pipeline.clips(data, "test", count=4, frames=2 * length)
    made, _ = predict(run, real[:, :length], pipeline.captions(data, "test", count=len(real)), seed=run.config.seed)
    whole = np.concatenate([real[:, :length], made], axis=1) if is_after(run) else np.concatenate([made, made], axis=1)
    return rearrange([real, whole], "two b ... -> (b two) ...")


def sample(run: Run, out, observed: Videos, captions: list[str], *, length: int, seed: int = 0) -> dict:
    """Writes videos of `length` frames, the observed ones included; see `sample.sample`."""
    given = observed.shape[1]
    after = is_after(run)
    need = length - given if after else length
    if need < 1:
        raise ValueError(f"frames is {length}, and {given} of them are observed: use --frames={2 * given}, or more")
    clock = time.perf_counter()
    made, nfe = predict(run, observed, captions, seed=seed, chunks=-(-need // given))
    seconds = time.perf_counter() - clock
    whole = np.concatenate([observed, made], axis=1)[:, :length] if after else made[:, :length]
    return write_videos(
        out, whole, captions, fps=float(run.config.data.fps), nfe_per_frame=nfe / made.shape[1], seconds_per_frame=seconds / made[:, :, 0, 0, 0].size,
        seed=seed, protocol=chunk_protocol(run) | dict(observed=given, seconds="wall time of a frame, compilation included"),
    )


def chunk_protocol(run: Run) -> dict:
    """How the chunks of a run are made: what every record of them carries."""
    config, options = run.config, run.experiment.predict.keywords
    return protocol(run) | dict(
        trained_frames=list(config.chunk.frames), coupling=config.coupling, rho=config.inversion.rho, pretrained=config.pretrained,
        guidance=options["guidance"], warp=config.sample.warp,
    ) | solver_protocol(options["solver"])


# --- what they are worth --------------------------------------------------------------------------


def evaluate(run: Run) -> dict:
    """Predicts chunks of held-out clips and compares them with what followed; `config.evaluate` is the protocol.

    Returns:
      frames_L: for chunks of L frames, `nfe_N` for each number of steps N: distance (Frechet, between windows of the predictions
        and of the true futures of the same clips), distance_seam (between windows that are half observed, half predicted: a
        prediction can look like video and not follow), motion (over that of the futures), PSNR in dB (peak 2), evaluations;
        `controls`, what needs no model; and `straightness`, (5) of `flowframes`, of a run that moves.
    """
    settings = run.config.evaluate
    data = run.data()
    real, captions = pipeline.clips(data, "test", count=settings.clips), pipeline.captions(data, "test", count=settings.clips)
    if len(real) < settings.clips:
        raise ValueError(f"{settings.clips} clips are asked for, {data} has {len(real)} held-out ones: evaluate clips={len(real)}")
    training = _windows(pipeline.clips(data, "train", count=settings.real_clips), settings.window)
    features = metrics.feature_map(settings.features)(training, dimensions=settings.dimensions)
    record = {f"frames_{length}": _of_length(run, length, real, captions, features, training) for length in settings.frames}
    return record | dict(protocol=chunk_protocol(run) | dict(
        settings.to_dict(), distance=metrics.DISTANCE_NAME, reference="the true futures of the same clips", nfe="evaluations in all chunks of a prediction",
    ))


def pairs(real: Videos, length: int, future: int, starts: int) -> tuple[Videos, Videos, np.ndarray]:
    """Observed chunks of `length` frames and the `future` frames after each, at `starts` places of every clip; and which clip each is of."""
    have, need = real.shape[1], length + future
    if have < need:
        raise ValueError(f"{length} observed frames and {future} after them are longer than the clips, {have} frames: use shorter chunks, or fewer")
    at = np.unique(np.linspace(0, have - need, starts).astype(int))
    cut = np.concatenate([real[:, first : first + need] for first in at])
    return cut[:, :length], cut[:, length:], np.tile(np.arange(len(real)), len(at))


def _of_length(run, length, real, captions, features, training) -> dict:
    settings = run.config.evaluate
    observed, future, clip = pairs(real, length, settings.chunks * length, settings.starts)
    captions = [captions[i] for i in clip]
    half = settings.window // 2
    seam = lambda made: features(_signal(np.concatenate([observed[:, -half:], made[:, : settings.window - half]], axis=1)))
    truth, true_seam = features(_windows(future, settings.window)), seam(future)
    moves = _motion(future)
    worth = lambda made: dict(
        distance=metrics.distance(features(_windows(made, settings.window)), truth),
        distance_seam=metrics.distance(seam(made), true_seam), motion=_motion(made) / moves,
        psnr=float(np.mean(np.concatenate([metrics.psnr(_signal(a), _signal(b)) for a, b in zip(np.array_split(made, 8), np.array_split(future, 8)) if len(a)]))),
    )
    same = dict(seed=settings.seed, batch=settings.batch)
    figures = {}
    for steps in settings.steps:
        made, nfe = predict(run, observed, captions, chunks=settings.chunks, solver=flowframes.stepping(run.config.sample.method, steps, run.config.sample.warp), **same)
        figures[f"nfe_{steps}"] = worth(made) | dict(nfe=float(np.mean(nfe)))
    figures["controls"] = dict(
        repeat_observed=worth(np.tile(observed, (1, settings.chunks, 1, 1, 1))), repeat_last=worth(np.repeat(observed[:, -1:], future.shape[1], axis=1)),
        other_real=dict(distance=metrics.distance(features(training[: len(truth)]), truth)),
    )
    moving = [name for name, value in figures.items() if name.startswith("nfe") and 0.5 <= value["motion"] <= 2]
    figures["straightness"] = _straightness(run, observed[: settings.batch], captions[: settings.batch]) if moving else None
    return figures


def _straightness(run: Run, observed: Videos, captions: list[str]) -> float:
    experiment = run.experiment
    start = experiment.codec.encode(experiment.codec.params, jnp.asarray(observed)).mean
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(run.config.evaluate.seed), jnp.arange(len(start)))
    options = experiment.predict.keywords
    values = flowframes.straightness(run.field, start, keys, run.condition(captions), design=options["design"], guidance=float(options["guidance"]))
    return float(values.mean())


def _signal(frames: Videos) -> Float[np.ndarray, "..."]:
    return np.asarray(frames, np.float32) / 127.5 - 1


def _windows(frames: Videos, length: int) -> Float[np.ndarray, "n length h w c"]:
    """All windows of the clips, one after the other."""
    return rearrange(metrics.windows(_signal(frames), length, length), "b n ... -> (b n) ...")


def _motion(frames: Videos) -> float:
    return float(metrics.motion(_signal(frames), frames.shape[1], frames.shape[1]).mean())
