"""Sampling of FlowFrames: chunks after the observed one, and the videos of a trained run.

The same code samples the conventional design, and the text-to-video model, whose chunks depend on a caption alone. The
equations are in `jvflow.flowframes.method`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from jvflow.assembly import Experiment, noise_like, refuse, solver_protocol
from jvflow.codecs import decode_chunks
from jvflow.data import pipeline
from jvflow.flow import unipc
from jvflow.flow.field import Condition, Field, along, as_partial, guide
from jvflow.flow.solver import Solution, Solver, as_argument, raise_if_failed
from jvflow.flow.times import TimeSchedule
from jvflow.flow.unipc import UniPC
from jvflow.flowframes.context import with_observed
from jvflow.method import SampleRequest
from jvflow.networks import as_field
from jvflow.parallel import processes
from jvflow.report import videos
from jvflow.run import Run

Chunk = Float[Array, "b f h w c"]
Videos = UInt8[np.ndarray, "b f h w c"]


# --- chunks ---------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """Predicted frames (b, f, h, w, c), all chunks in order, and the evaluations of the field for each example (b,)."""

    frames: Chunk
    nfe: Int[Array, "b"]


def predict(
    field: Field,
    observed: Float[Array, "b ..."],
    condition: Condition | None = None,
    *,
    steps: int = 5,
    chunks: int = 1,
    guidance: float = 1.0,
    solver: Callable | None = None,
) -> Float[Array, "b n h w c"]:
    """Predicts the chunks after the observed one, (b, chunks f, h, w, c), by Euler steps of (1).

    Args:
      field: u.
      observed: x0 (b, f, h, w, c), the mean of its latents; f as in training, or longer for a longer prediction.
      condition: captions.
      steps: number of equal Euler steps for each chunk.
      chunks: number of chunks; each starts from the one before it.
      guidance: weight of the guidance by captions, 1 for none.
      solver: a solver that replaces the `steps` Euler steps.

    Raises:
      SolveError: if a chunk is not finite, or if an adaptive solver reaches its `max_steps`.
    """
    solver = solver or make_solver("euler", steps)
    return predict_chunks(field, observed, None, condition, solver=solver, chunks=chunks, guidance=guidance).frames


def make_solver(method: str, steps: int, schedule: TimeSchedule = TimeSchedule(), tokens: int = 0) -> Callable:
    """Returns a solver with fixed steps: "unipc" on its own grid, or a method of `flow.solver` on the schedule's.

    `tokens` is the number of tokens that the network gets, for a schedule that depends on it.
    """
    if method == "unipc":
        if schedule.name == "linear_quadratic":
            raise ValueError("unipc has a grid of its own, and the schedule is linear_quadratic: use euler")
        return UniPC(unipc.grid(steps, schedule.factor(tokens), terminal=schedule.terminal))
    return Solver(method, steps=schedule(steps, tokens), per_sample=False)


def predict_chunks(
    field: Field,
    observed: Float[Array, "b ..."],
    key: Key[Array, ""] | None,
    condition: Condition | None = None,
    *,
    source: str = "observed",
    context: bool = False,
    noise: float = 0.0,
    frames_per_latent: int = 1,
    solver: Callable,
    chunks: int = 1,
    guidance: float = 1.0,
) -> Prediction:
    """Predicts chunks as `predict` does, for every objective, and counts evaluations (guidance doubles their cost).

    Args:
      observed: with the source "noise" and without `context`, only its shape is used.
      key: random key of the noise; row i draws from fold_in(key, i). None if there is no noise.
      source: start of a chunk: "observed" or "noise".
      context: True if the field takes the observed chunk as context (4).
      noise: with the source "observed", deviation of the noise that is added to each observed chunk.
      frames_per_latent: number of frames that a latent frame stands for, see `context.with_observed`.
    """
    if observed.ndim != 5:
        raise ValueError(f"a chunk must be (b, f, h, w, c), got shape {observed.shape}")
    if chunks < 1 or chunks != int(chunks):
        raise ValueError(f"chunks must be a positive whole number, got {chunks}")
    if (random := bool(source == "noise" or noise)) and key is None:
        raise ValueError(f"source={source!r} with noise={noise:g} needs random numbers: give a key")
    options: dict = dict(context=context, frames_per_latent=frames_per_latent, solver=as_argument(solver, observed))
    options |= dict(noise=None if source == "noise" else noise)
    guided = as_partial(guide(field, guidance))
    frames, nfe, keys = [jnp.asarray(observed, jnp.float32)], jnp.zeros(len(observed), int), None
    for number in range(int(chunks)):
        if random and key is not None:
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, number)))(jnp.arange(len(observed)))
        solution = next_chunk(guided, frames[-1], keys, condition, **options)
        raise_if_failed(solution, what=f"chunk {number + 1}")
        frames.append(solution.x)
        nfe = nfe + solution.nfe
    return Prediction(jnp.concatenate(frames[1:], axis=1), nfe)


@partial(jax.jit, static_argnames=("context", "frames_per_latent"))
def next_chunk(field, observed, keys, condition, *, noise=None, context, frames_per_latent, solver) -> Solution:
    """Solves for the chunk after `observed` (b, f, h, w, c), from `start_of_chunk`."""
    equation = chunk_equation(field, observed, condition, context, frames_per_latent)
    return solver(equation, start_of_chunk(observed, keys, noise))


def start_of_chunk(
    observed: Chunk, keys: Key[Array, "b"] | None, noise: float | Float[Array, ""] | None = None
) -> Chunk:
    """Returns x0: `observed` if `keys` is None, unit noise if `noise` is, else `observed` + `noise` n."""
    if keys is None:
        return observed
    unit = noise_like(keys, observed)
    return unit if noise is None else observed + noise * unit


def chunk_equation(field: Field, observed: Chunk, condition, context: bool, frames_per_latent: int = 1) -> Callable:
    """Returns the right-hand side of a chunk's equation, `(t (b,), x) -> dx/dt`."""
    return along(with_observed(field, observed, frames_per_latent) if context else field, lambda t: (t,), condition)


def check_chunks(observed, future) -> None:
    """Raises ValueError unless two chunks have one shape."""
    if observed.shape != future.shape:
        raise ValueError(
            f"the observed chunk has shape {observed.shape}, the next one {future.shape}: "
            "give both the same shape (b, f, h, w, c)"
        )


# --- videos of a trained run ----------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkSampler:
    """The settings with which a run predicts chunks.

    Attributes:
      source, context, noise, frames_per_latent, guidance: arguments of `predict_chunks`.
      follows: True if chunks continue an observed one; False for text-to-video.
      method, steps, schedule: arguments of `make_solver`.
      count_tokens: `shape of a chunk's latents (f, h, w, c) -> number of tokens that the network gets`.
      shape: shape of the latents of the longest chunk of training.
    """

    source: str
    context: bool
    noise: float
    frames_per_latent: int
    guidance: float
    follows: bool
    method: str
    steps: int
    schedule: TimeSchedule
    count_tokens: Callable
    shape: tuple[int, ...]

    def solver_for(self, shape: tuple[int, ...], steps: int | None = None) -> Callable:
        """Returns the solver of a chunk with latents of this shape, with the run's number of steps if None."""
        return make_solver(self.method, self.steps if steps is None else steps, self.schedule, self.count_tokens(shape))

    @property
    def solver(self) -> Callable:
        """The solver of the longest chunk of training."""
        return self.solver_for(self.shape)

    def __call__(
        self, field: Field, observed: Chunk, key, condition=None, *, steps: int | None = None, **options
    ) -> Prediction:
        """Predicts chunks; `options` replace the run's solver and guidance, and give the number of chunks."""
        own: dict = {name: getattr(self, name) for name in ("source", "context", "noise", "frames_per_latent")}
        own |= dict(guidance=self.guidance, solver=self.solver_for(observed.shape[1:], steps))
        return predict_chunks(field, observed, key, condition, **own | options)


def predict_videos(
    run: Run, observed: Videos, captions: list[str], *, seed: int = 0, batch: int = 128, **options
) -> tuple[UInt8[np.ndarray, "b n h w c"], np.ndarray]:
    """Predicts the chunks after the observed ones.

    Args:
      observed: a chunk for each video, of any length that the network takes; every predicted chunk has this length.
      captions: one for each video.
      seed: seed of the noise, for objectives that start from noise.
      batch: number of predictions at a time.
      options: options of `ChunkSampler`: chunks, steps, solver, guidance.

    Returns:
      video uint8 (b, chunks f, h, w, 3); evaluations of the network for each video (b,).
    """
    experiment, codec = run.experiment, run.experiment.codec
    codec.latent_shape(observed.shape[1:4])  # raises ValueError if the codec cannot encode this length
    field = as_field(experiment.network, run.params, cast=True)

    def make(group: int) -> tuple:
        rows = slice(group * batch, (group + 1) * batch)
        key = jax.random.fold_in(jax.random.key(seed), group)
        start = codec.encode(codec.params, jnp.asarray(observed[rows])).mean
        condition = experiment.caption_condition(run.params, list(captions[rows]), run.config.data.fps)
        made = experiment.sampler(field, start, key, condition, **options)
        decoded = decode_chunks(codec, codec.params, made.frames, options.get("chunks", 1))
        return np.asarray(decoded), np.asarray(made.nfe)

    made, nfe = zip(*processes.distributed_map(-(-len(observed) // batch), make, "predict chunks"))
    return np.concatenate(made), np.concatenate(nfe)


def sample(run: Run, out: str | Path, request: SampleRequest) -> dict:
    """Writes videos: the observed chunk, then the predicted chunks. Returns the record of `samples.json`."""
    objective, follows = run.config.objective, run.experiment.sampler.follows
    refuse(request, objective, "makes frames at the rate of its data, and chunks without end", "fps", "extrapolate")
    if not follows:
        refuse(request, objective, "starts from noise and takes no first frame", "first_frame")
    given = request.observed or run.experiment.start_frames
    captions = list(request.captions)
    length = request.length or given * (1 + follows)
    need = length - given if follows else length
    if need < 1:
        raise ValueError(f"frames is {length}, and {given} of them are observed: use --frames={2 * given} or more")
    wanted, split = len(captions) or request.count, "" if request.first_frame else pipeline.held_out(request.data())
    observed = pipeline.start_frames(run.config.data, request.data, wanted, given, request.first_frame)
    if (have := observed.shape[1]) < given:
        raise ValueError(
            f"a chunk of {given} frames is longer than the held-out clips, {have} frames: "
            "use a shorter one, or give a video"
        )
    if not captions:
        count = len(observed)
        captions = [""] * count if request.first_frame else pipeline.captions(request.data(), split, count=count)
    clock = time.perf_counter()
    made, nfe = predict_videos(run, observed, captions, seed=request.seed, chunks=-(-need // given))
    seconds = time.perf_counter() - clock
    whole = np.concatenate([observed, made], axis=1)[:, :length] if follows else made[:, :length]
    protocol = chunk_protocol(run, given) | dict(
        observed=given, first_frame=str(request.first_frame or f"split {split}")
    )
    protocol["seconds"] = "wall time of a frame, compilation included"
    costs = dict(nfe_per_frame=nfe / made.shape[1], seconds_per_frame=seconds / made[:, :, 0, 0, 0].size)
    fps = float(run.config.data.fps)
    return videos.write_samples(out, whole, captions, fps=fps, seed=request.seed, protocol=protocol, **costs)


def chunk_protocol(run: Run, frames: int | None = None) -> dict:
    """Returns the settings that determine the chunks of a run; every record of the run contains them.

    The steps are those of chunks of `frames` frames; if None, of the longest chunk of training.
    """
    config, sampler = run.config, run.experiment.sampler
    shape = sampler.shape if frames is None else run.experiment.codec.latent_shape((frames, *config.data.size))
    rho = config.inversion.rho if run.experiment.window.inverted else 0.0
    trained = dict(trained_frames=list(config.chunk.frames), rho=rho)
    trained |= dict(coupling=config.coupling, noise=sampler.noise) if sampler.follows else {}
    sampled = dict(pretrained=config.pretrained, guidance=sampler.guidance, warp=sampler.schedule.warp)
    sampled |= dict(schedule=sampler.schedule.name, terminal=sampler.schedule.terminal)
    return run.protocol | trained | sampled | solver_protocol(sampler.solver_for(shape))


def sampling_program(experiment: Experiment) -> Callable:
    """Returns the program that a dry run compiles: one chunk."""
    return lambda field, start, key, condition: experiment.sampler(field, start, key, condition)
