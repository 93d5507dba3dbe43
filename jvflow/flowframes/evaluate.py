"""Evaluation of predicted chunks: comparison with the true next chunks, and with baselines without a model."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, UInt8

from jvflow import metrics
from jvflow.data import pipeline, records
from jvflow.flow.field import Condition, Field, guide
from jvflow.flow.path import squared_error
from jvflow.flowframes.legend import LEGEND
from jvflow.flowframes.sample import Chunk, Videos, chunk_equation, chunk_protocol, predict_videos, start_of_chunk
from jvflow.method import Preview
from jvflow.metrics import in_evaluation, to_unit_range
from jvflow.networks import as_field
from jvflow.run import Run, described, explained, lowered


def evaluate(run: Run, data: Path) -> dict:
    """Predicts chunks of held-out clips and compares them with the true futures; `config.evaluate` is the protocol.

    Returns:
      A record with `protocol`, and for chunks of L frames `frames_L`, which holds
        nfe_N, for N steps of the solver: distance (Frechet, between windows of the predictions and of the true futures
          of the same clips), distance_seam (the same for windows that are half observed, half predicted, because a
          prediction can look like video and not continue the clip), motion (divided by the motion of the futures),
          psnr (in dB, peak 2) and nfe (evaluations of the network); with `config.evaluate.fvd`, fvd against the true
          futures of the same clips;
        controls: the same figures for baselines without a model;
        straightness: the mean of (5), or None unless some prediction has 0.5 to 2 times the motion of the futures.
    """
    split, made = pipeline.held_out(data), records.manifest(data)
    frames, have, train = made["shape"][0], made["splits"][split], made["splits"]["train"]
    windows = min(train, run.config.evaluate.real_clips) * (frames // run.config.evaluate.window)
    settings, adapted = lowered(run.config.evaluate, data, run.asked, clips=have, dimensions=max(windows - 2, 3))
    real = pipeline.clips(data, split, count=settings.clips)
    captions = pipeline.captions(data, split, count=settings.clips)
    if len(real) < settings.clips:
        raise ValueError(
            f"config.evaluate.clips is {settings.clips}, and split {split!r} of {data} has {len(real)} clips: "
            f"use config.evaluate.clips={len(real)} or fewer"
        )
    training = _windows(pipeline.clips(data, "train", count=settings.real_clips), settings.window)
    features = metrics.feature_map(settings.features)(training, dimensions=settings.dimensions)
    sources = in_evaluation.sources(data, split, len(real))
    scorers = {length: _scorer(run, data, split, real, length) for length in settings.frames}
    record = {
        f"frames_{length}": _evaluate_length(run, length, real, captions, features, training, sources, scorer)
        for length, scorer in scorers.items()
    }
    protocol = chunk_protocol(run) | dict(
        described(settings),
        split=split,
        adapted=adapted,
        distance=metrics.DISTANCE_NAME,
        reference="the true futures of the same clips",
        nfe="evaluations in all chunks of a prediction",
    )
    scored = {f"frames_{length}": scorer.described for length, scorer in scorers.items() if scorer}
    return explained(record | dict(protocol=protocol | (dict(fvd=scored) if scored else {})), LEGEND)


def _scorer(run: Run, data: Path, split: str, real: Videos, length: int) -> in_evaluation.VideoScorer | None:
    """Returns what computes the FVD of the futures of chunks of a length, or None."""
    settings = run.config.evaluate
    future = settings.chunks * length
    starts = tuple(int(first) + length for first in places(real, length, future, settings.starts))
    segments = in_evaluation.Segments(starts, future, len(real))
    options = dict(frames=future, videos=len(real) * len(starts), asked="fvd" in run.asked, segments=segments)
    cure = "longer futures (--protocol=chunks=N), and a data set with longer clips (--real=DATA --real_frames=N)"
    return in_evaluation.VideoScorer.of(settings.fvd, data, split, **options, cure=cure)


def places(real: Videos, length: int, future: int, starts: int) -> Int[np.ndarray, "k"]:
    """Returns the first frames of the observed chunks in each clip; raises ValueError if clips are too short."""
    have, need = real.shape[1], length + future
    if have < need:
        raise ValueError(
            f"{length} observed frames and {future} after them are longer than the clips, {have} frames: "
            "use shorter chunks, or fewer"
        )
    return np.unique(np.linspace(0, have - need, starts).astype(int))


def pairs(
    real: Videos, length: int, future: int, starts: int
) -> tuple[UInt8[np.ndarray, "n o h w c"], UInt8[np.ndarray, "n u h w c"], Int[np.ndarray, "n"]]:
    """Cuts observed chunks and the frames after them out of clips, at `starts` places in each clip.

    Args:
      real: clips.
      length: number of frames in an observed chunk.
      future: number of frames after it.
      starts: number of places, equally spaced; fewer if a clip is too short for so many.

    Returns:
      Observed chunks, the true futures, and the index of the clip for each pair.
    """
    need, at = length + future, places(real, length, future, starts)
    cut = np.concatenate([real[:, first : first + need] for first in at])
    return cut[:, :length], cut[:, length:], np.tile(np.arange(len(real)), len(at))


def _evaluate_length(
    run: Run, length: int, real: Videos, captions: list[str], features, training, sources: list[int], scorer
) -> dict:
    settings = run.config.evaluate
    observed, future, clip = pairs(real, length, settings.chunks * length, settings.starts)
    captions = [captions[i] for i in clip]
    half = settings.window // 2
    seam = lambda made: np.concatenate([observed[:, -half:], made[:, : settings.window - half]], axis=1)
    seam_features = lambda made: features(to_unit_range(seam(made)))
    true_features, true_seam_features = features(_windows(future, settings.window)), seam_features(future)
    figures_of = lambda made: dict(
        distance=metrics.distance(features(_windows(made, settings.window)), true_features),
        distance_seam=metrics.distance(seam_features(made), true_seam_features),
        motion=metrics.motion_ratio(made, future),
        psnr=_psnr(made, future),
    )
    figures = {}
    for steps in settings.steps:
        options = dict(chunks=settings.chunks, steps=steps, seed=settings.seed, batch=settings.batch)
        made, nfe = predict_videos(run, observed, captions, **options)
        figures[f"nfe_{steps}"] = figures_of(made) | dict(nfe=float(np.mean(nfe)))
        if scorer:
            figures[f"nfe_{steps}"]["fvd"] = scorer.score(made, groups=[sources[i] for i in clip])
    figures["controls"] = dict(
        repeat_observed=figures_of(np.tile(observed, (1, settings.chunks, 1, 1, 1))),
        repeat_last=figures_of(np.repeat(observed[:, -1:], future.shape[1], axis=1)),
        other_real=dict(distance=metrics.distance(features(training[: len(true_features)]), true_features)),
    )
    moves = any(0.5 <= (value["motion"] or 0) <= 2 for name, value in figures.items() if name.startswith("nfe"))
    few = slice(settings.batch)
    figures["straightness"] = _straightness(run, observed[few], captions[few]) if moves else None
    return figures


def _straightness(run: Run, observed: Videos, captions: list[str]) -> float:
    """Returns the mean of (5) over observed chunks."""
    experiment, sampler = run.experiment, run.experiment.sampler
    start = experiment.codec.encode(experiment.codec.params, jnp.asarray(observed)).mean
    keys = None
    if sampler.source == "noise" or sampler.noise:
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(run.config.evaluate.seed)))(jnp.arange(len(start)))
    condition = experiment.caption_condition(run.params, captions, run.config.data.fps)
    field = as_field(run.experiment.network, run.params, cast=True)
    options = dict(context=sampler.context, guidance=float(sampler.guidance))
    noise = None if sampler.source == "noise" else sampler.noise
    options |= dict(frames_per_latent=sampler.frames_per_latent, noise=noise)
    return float(straightness(field, start, keys, condition, **options).mean())


def _windows(frames: Videos, length: int) -> Float[Array | np.ndarray, "n length h w c"]:
    """Returns all windows of the clips, one after the other."""
    return rearrange(metrics.windows(to_unit_range(frames), length, length), "b n ... -> (b n) ...")


def _psnr(made: Videos, real: Videos) -> float:
    """Returns the mean PSNR in dB; processes the videos in 8 parts to save memory."""
    parts = zip(np.array_split(made, 8), np.array_split(real, 8))
    values = [metrics.psnr(to_unit_range(a), to_unit_range(b)) for a, b in parts if len(a)]
    return float(np.mean(np.concatenate(values)))


@partial(jax.jit, static_argnames=("context", "frames_per_latent", "steps", "guidance"))
def straightness(
    field: Field,
    observed: Chunk,
    keys: Key[Array, "b"] | None,
    condition: Condition | None = None,
    *,
    context: bool = False,
    noise: float | Float[Array, ""] | None = None,
    frames_per_latent: int = 1,
    steps: int = 40,
    guidance: float = 1.0,
) -> Float[Array, "b"]:
    """Computes S (5) along `steps` Euler steps from `start_of_chunk`."""
    start = start_of_chunk(observed, keys, noise)
    derivative = chunk_equation(guide(field, guidance), observed, condition, context, frames_per_latent)
    at = np.linspace(0, 1, steps + 1)

    def step(x, t):
        v = derivative(jnp.full(len(x), t, x.dtype), x)
        return x + v / steps, v

    end, velocities = jax.lax.scan(step, start, jnp.asarray(at[:-1], start.dtype))
    whole = end - start
    off = jax.vmap(lambda v: squared_error(v, whole))(velocities).mean(0)
    return off / squared_error(whole, jnp.zeros_like(whole))  # (5)


def preview(run: Run, data: Path) -> Preview:
    """Predicts as many chunks of four held-out clips as an evaluation, or as they have, below the real ones."""
    length, follows = max(run.config.chunk.frames), run.experiment.sampler.follows
    split, frames = pipeline.held_out(data), records.manifest(data)["shape"][0]
    chunks = max(min(run.config.evaluate.chunks, frames // length - 1), 1) if follows else 1
    real = pipeline.clips(data, split, count=4, frames=(1 + chunks) * length)
    captions = pipeline.captions(data, split, count=len(real))
    made, _ = predict_videos(run, real[:, :length], captions, seed=run.config.seed, chunks=chunks)
    first = real[:, :length] if follows else made
    pairs = rearrange([real, np.concatenate([first, made], axis=1)], "two b ... -> (b two) ...")
    rows = [row for caption in captions for row in (f"real: {caption}", "generated")]
    return Preview(pairs, float(run.config.data.fps), tuple(rows))
