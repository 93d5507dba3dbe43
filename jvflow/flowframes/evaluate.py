"""How good predicted chunks are: comparison with the chunks that really followed, and with baselines that need no model."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Key

from jvflow import metrics
from jvflow.assembly import noise_like
from jvflow.data import pipeline
from jvflow.flow.field import Condition, Field
from jvflow.flow.path import squared_error
from jvflow.flowframes.sample import Chunk, Videos, chunk_equation, chunk_protocol, make_solver, predict_videos
from jvflow.metrics import to_unit_range
from jvflow.networks import as_field
from jvflow.run import Run


def evaluate(run: Run, data: Path) -> dict:
    """Predicts chunks of held-out clips and compares them with what followed; `config.evaluate` is the protocol.

    Returns:
      frames_L: for chunks of L frames, `nfe_N` for each number of steps N: distance (Frechet, between windows of the predictions
        and of the true futures of the same clips), distance_seam (between windows that are half observed, half predicted: a
        prediction can look like video and not follow), motion (over that of the futures), PSNR in dB (peak 2), evaluations;
        `controls`, what needs no model; and `straightness`, (5) of `flowframes`, of a run that moves.
    """
    settings = run.config.evaluate
    real, captions = (
        pipeline.clips(data, "test", count=settings.clips),
        pipeline.captions(data, "test", count=settings.clips),
    )
    if len(real) < settings.clips:
        raise ValueError(
            f"{settings.clips} clips are asked for, {data} has {len(real)} held-out ones: evaluate clips={len(real)}"
        )
    training = _windows(pipeline.clips(data, "train", count=settings.real_clips), settings.window)
    features = metrics.feature_map(settings.features)(training, dimensions=settings.dimensions)
    record = {
        f"frames_{length}": _of_length(run, length, real, captions, features, training) for length in settings.frames
    }
    return record | dict(
        protocol=chunk_protocol(run)
        | dict(
            settings.to_dict(),
            distance=metrics.DISTANCE_NAME,
            reference="the true futures of the same clips",
            nfe="evaluations in all chunks of a prediction",
        )
    )


def pairs(real: Videos, length: int, future: int, starts: int) -> tuple[Videos, Videos, np.ndarray]:
    """Observed chunks of `length` frames and the `future` frames after each, at `starts` places of every clip; and which clip each is of."""
    have, need = real.shape[1], length + future
    if have < need:
        raise ValueError(
            f"{length} observed frames and {future} after them are longer than the clips, {have} frames: use shorter chunks, or fewer"
        )
    at = np.unique(np.linspace(0, have - need, starts).astype(int))
    cut = np.concatenate([real[:, first : first + need] for first in at])
    return cut[:, :length], cut[:, length:], np.tile(np.arange(len(real)), len(at))


def _of_length(run, length, real, captions, features, training) -> dict:
    settings = run.config.evaluate
    observed, future, clip = pairs(real, length, settings.chunks * length, settings.starts)
    captions = [captions[i] for i in clip]
    half = settings.window // 2
    seam = lambda made: features(
        to_unit_range(np.concatenate([observed[:, -half:], made[:, : settings.window - half]], axis=1))
    )
    truth, true_seam = features(_windows(future, settings.window)), seam(future)
    moves = _motion(future)
    worth = lambda made: dict(
        distance=metrics.distance(features(_windows(made, settings.window)), truth),
        distance_seam=metrics.distance(seam(made), true_seam),
        motion=_motion(made) / moves,
        psnr=float(
            np.mean(
                np.concatenate(
                    [
                        metrics.psnr(to_unit_range(a), to_unit_range(b))
                        for a, b in zip(np.array_split(made, 8), np.array_split(future, 8))
                        if len(a)
                    ]
                )
            )
        ),
    )
    same = dict(seed=settings.seed, batch=settings.batch)
    figures = {}
    for steps in settings.steps:
        made, nfe = predict_videos(
            run,
            observed,
            captions,
            chunks=settings.chunks,
            solver=make_solver(run.config.sample.method, steps, run.config.sample.warp),
            **same,
        )
        figures[f"nfe_{steps}"] = worth(made) | dict(nfe=float(np.mean(nfe)))
    figures["controls"] = dict(
        repeat_observed=worth(np.tile(observed, (1, settings.chunks, 1, 1, 1))),
        repeat_last=worth(np.repeat(observed[:, -1:], future.shape[1], axis=1)),
        other_real=dict(distance=metrics.distance(features(training[: len(truth)]), truth)),
    )
    moving = [name for name, value in figures.items() if name.startswith("nfe") and 0.5 <= value["motion"] <= 2]
    figures["straightness"] = (
        _straightness(run, observed[: settings.batch], captions[: settings.batch]) if moving else None
    )
    return figures


def _straightness(run: Run, observed: Videos, captions: list[str]) -> float:
    experiment, sampler = run.experiment, run.experiment.sampler
    start = experiment.codec.encode(experiment.codec.params, jnp.asarray(observed)).mean
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(run.config.evaluate.seed), jnp.arange(len(start)))
    condition = experiment.caption_condition(run.params, captions, run.config.data.fps)
    field = as_field(experiment.network, run.params)
    options = dict(source=sampler.source, context=sampler.context, guidance=float(sampler.guidance))
    return float(straightness(field, start, keys, condition, **options).mean())


def _windows(frames: Videos, length: int) -> Float[np.ndarray, "n length h w c"]:
    """All windows of the clips, one after the other."""
    return rearrange(metrics.windows(to_unit_range(frames), length, length), "b n ... -> (b n) ...")


def _motion(frames: Videos) -> float:
    return float(metrics.motion(to_unit_range(frames), frames.shape[1], frames.shape[1]).mean())


@partial(jax.jit, static_argnames=("source", "context", "steps", "guidance"))
def straightness(
    field: Field,
    observed: Chunk,
    keys: Key[Array, "b"],
    condition: Condition | None = None,
    *,
    source: str = "observed",
    context: bool = False,
    steps: int = 40,
    guidance: float = 1.0,
) -> Float[Array, "b"]:
    """Computes S of (5) along the trajectories of `steps` Euler steps, from the observed chunks or from noise."""
    start = observed if source == "observed" else noise_like(keys, observed)
    derivative = chunk_equation(field, observed, condition, context, guidance)
    at = np.linspace(0, 1, steps + 1)

    def step(x, t):
        v = derivative(jnp.full(len(x), t, x.dtype), x)
        return x + v / steps, v

    end, velocities = jax.lax.scan(step, start, jnp.asarray(at[:-1], start.dtype))
    whole = end - start
    off = jax.vmap(lambda v: squared_error(v, whole))(velocities).mean(0)
    return off / squared_error(whole, jnp.zeros_like(whole))  # (5)
