"""Sampling of Bi-flow: curves in (t, alpha), streams of frames, and the videos of a trained run.

The equations (4) and (5) are in `jvflow.biflow.method`.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, UInt8

from jvflow.assembly import Experiment, fold_in_each, noise_like, refuse, solver_protocol
from jvflow.data import pipeline
from jvflow.flow.field import Condition, Field, along, as_partial, expand_like
from jvflow.flow.solver import Solution, Solver, as_argument, raise_if_failed
from jvflow.method import SampleRequest
from jvflow.networks import as_field
from jvflow.parallel import processes, progress
from jvflow.report import videos
from jvflow.run import Run

Frames = Float[Array, "b n h w c"]
Videos = UInt8[np.ndarray, "b n h w c"]


# --- curves ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A curve in (t, alpha): `curve(epsilon)` is `k -> (t, alpha)`, solved from `start` to `stop`.

    Attributes:
      position: `(k, epsilon) -> (t, alpha)`, scalars.
      start, stop: the interval of k, in the direction of the solve.
      num_moving: number of leading coordinates that change; a field may omit the velocities of the others.
    """

    position: Callable
    start: float = 0.0
    stop: float = 1.0
    num_moving: int = 2

    def __call__(self, epsilon: float) -> Callable:
        return lambda k: self.position(k, epsilon)


plain = Curve(lambda k, epsilon: (k, jnp.zeros_like(k)), num_moving=1)
joint = Curve(lambda k, epsilon: (k, epsilon * (1 - k)))
backward = Curve(lambda k, epsilon: (k, epsilon * k), start=1.0, stop=0.0)
correcting = Curve(lambda k, epsilon: (jnp.zeros_like(k), epsilon * (1 - k)))

CURVES = {"plain": plain, "joint": joint, "backward": backward, "correcting": correcting}


# --- streams --------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("curve", "source", "clamp"))
def next_frame(
    field, past, key, rows, epsilon, context_noise, condition, *, gain=None, curve, solver, source="frame", clamp
) -> Solution:
    """Solves for one frame of `stream`. The x of the solution is `past` (b, n, h, w, c), shifted by the new frame.

    Row i draws its noise from fold_in(key, rows[i]), so that a video does not depend on the number of streams.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    frame, older = past[:, -1:], past if source == "noise" else past[:, :-1]
    condition = add_context(condition, older + context_noise * noise_like(context_keys(keys), older))
    noise, level, probes = noise_like(keys, frame), jnp.full(len(past), epsilon), 0
    if gain is not None:
        level, probes = jnp.minimum(level, gain * corruption(field, frame, epsilon, condition)), 1
    start = frame if curve is plain else frame + expand_like(level, frame) * noise
    derivative = along(field, curve.position, condition, curve_args=(level,), num_moving=curve.num_moving)
    solution = solver(derivative, noise if source == "noise" else start, curve.start, curve.stop)
    x = solution.x if clamp is None else jnp.clip(solution.x, *clamp)
    return solution._replace(x=jnp.concatenate([past[:, 1:], x], axis=1), nfe=solution.nfe + probes)


def add_context(condition: Condition | None, frames: Frames) -> Condition | None:
    """Adds frames to a condition as context, on the channel axis of x; without frames, returns the condition itself."""
    if not frames.shape[1]:
        return condition
    return replace(condition or Condition(), context=rearrange(frames, "b n h w c -> b 1 h w (n c)"))


def context_keys(keys: Key[Array, "b"]) -> Key[Array, "b"]:
    """Returns keys for the noise of the context, different from all other keys derived from `keys`."""
    return fold_in_each(keys, 2**31)


def corruption(field: Field, frames: Frames, epsilon, condition: Condition | None = None) -> Float[Array, "b"]:
    """Estimates the noise in each frame, r (5), in units of the data, with one evaluation of a BI-FLOW field."""
    here = jnp.zeros(len(frames)), jnp.full(len(frames), epsilon)
    noise = field(frames, here, condition)[1]
    return epsilon * jnp.sqrt(jnp.mean(jnp.square(noise), axis=(1, 2, 3, 4)))


def stream(
    field: Field,
    frames: Float[Array, "b ..."],
    key: Key[Array, ""],
    *,
    curve: Curve = joint,
    epsilon: float = 0.1,
    gain: float = 0.0,
    context_noise: float = 0.0,
    solver: Callable | dict = Solver(rtol=1e-2, atol=1e-2),
    condition: Condition | None = None,
    source: str = "frame",
    clamp: tuple[float, float] | None = (-1.0, 1.0),
    rows: Int[Array | np.ndarray, "b"] | None = None,
) -> Iterator[tuple[Frames, Int[Array, "b"]]]:
    """Yields frames without end, each solved from the one before (paper, section 2.2).

    Uses constant memory and compiles one program. The device computes a frame while the caller still works on the one
    before. Every frame has fresh noise, from fold_in(key, frame number).

    Args:
      field: `(x, s, condition) -> velocities`, see `jvflow.networks.as_field`.
      frames: start of each stream, (b, n, h, w, c) in order, in [-1, 1], with n as in training. Each next frame is
        solved from the last one, with the others as context.
      key: random key of all noise.
      curve: `plain`, `joint`, `backward` or `correcting`.
      epsilon: the noise level of the curve, in units of the data; with 0 `joint` equals `plain`.
      gain: if above 0, each frame has its own level min(epsilon, gain r), where r (5) estimates the error of the frame
        before. Only for the curve `joint`; nfe includes the evaluation for r.
      context_noise: the level of the noise that is added to the context.
      solver: a `Solver`, or the keyword arguments of one.
      condition: passed to the field at every frame.
      source: "frame" starts a solve at the last frame, "noise" at noise, with the last frame as context (CONDIFF).
      clamp: the range to which each frame is clipped before the next solve, or None.
      rows: the index of each stream, which determines its noise; 0, 1, ... when None.

    Yields:
      `(frame (b, 1, h, w, c), nfe (b,))`. The first frame follows the given ones (on `backward` it precedes the given
      one). Both arrays are on the device, which may still be computing them.

    Raises:
      ValueError: at the call, if arguments contradict each other.
      SolveError: if the solve of a frame fails; the message names the frame, the rows and the times.
    """
    if source not in ("frame", "noise"):
        raise ValueError(f"source is {source!r}: use 'frame' (FLOW, BI-FLOW) or 'noise' (CONDIFF)")
    if source == "noise" and curve is not plain:
        raise ValueError("source='noise' (CONDIFF) takes only the curve `plain`")
    for name, level in dict(epsilon=epsilon, context_noise=context_noise, gain=gain).items():
        if not 0 <= level:
            raise ValueError(f"{name} scales noise and must be 0 or more, got {level}")
    if gain and (curve is not joint or not epsilon):
        raise ValueError(
            f"gain {gain} sets the noise of the curve `joint`, up to epsilon {epsilon}: "
            "use this curve and an epsilon above 0"
        )
    if frames.ndim != 5:
        raise ValueError(f"frames must be (b, n, h, w, c), got shape {frames.shape}")
    if curve is backward and frames.shape[1] > 1:
        raise ValueError(
            f"the curve `backward` solves for the frame before the given one, so the {frames.shape[1] - 1} frames "
            "before that are not known: use a field that was trained with one frame"
        )
    solver = Solver(**solver) if isinstance(solver, dict) else solver
    rows = jnp.arange(len(frames)) if rows is None else jnp.asarray(rows)
    levels = dict(epsilon=jnp.float32(epsilon), context_noise=jnp.float32(context_noise), gain=float(gain) or None)
    options = dict(solver=as_argument(solver, frames, curve.start, curve.stop), curve=curve, source=source, clamp=clamp)
    step = partial(next_frame, as_partial(field), rows=rows, condition=condition, **levels, **options)
    return _frames(step, jnp.asarray(frames, jnp.float32), key)


def _frames(step: Callable, past: Frames, key) -> Iterator[tuple]:
    pending = step(past=past, key=jax.random.fold_in(key, 0))
    for number in itertools.count(1):
        following = step(past=pending.x, key=jax.random.fold_in(key, number))
        raise_if_failed(pending, what=f"frame {number} of the stream")
        yield pending.x[:, -1:], pending.nfe
        pending = following


# --- videos of a trained run ----------------------------------------------------------------------


@dataclass(frozen=True)
class StreamSettings:
    """The arguments of `stream` that a run uses."""

    curve: Curve
    epsilon: float
    gain: float
    context_noise: float
    solver: Solver
    source: str
    clamp: tuple[float, float] | None


def stream_frames(run: Run, first: Videos, key, **options) -> Iterator[tuple]:
    """Yields the frames after the given ones, as `(frame uint8 (b, 1, h, w, c), nfe (b,))` on the host.

    `options` replace the run's `StreamSettings`, or give `rows`. Raises the errors of `stream`.
    """
    experiment, codec = run.experiment, run.experiment.codec
    start = codec.encode(codec.params, jnp.asarray(first)).mean
    field, options = as_field(experiment.network, run.params, cast=True), vars(experiment.sampler) | options
    frames = stream(field, start, key, **options)  # checks the options at this call, not at the first frame
    return ((np.asarray(codec.decode(codec.params, latent)), np.asarray(nfe)) for latent, nfe in frames)


def sample(run: Run, out: str | Path, request: SampleRequest) -> dict:
    """Writes streams into the folder `out`, the given frames first, and returns the record of `samples.json`.

    Writes each frame when it is ready, so that memory does not grow with the length. On the curve `backward` the frames
    of a file run back in time. Each process computes its share of the rows; the primary process writes. A stream that
    fails raises SolveError and leaves no file.
    """
    objective = run.config.objective
    refuse(request, objective, "makes no chunks", "observed")
    refuse(request, objective, "streams after given frames at the rate of its data", "captions", "fps", "extrapolate")
    length, given = request.length or 64, run.experiment.start_frames
    if length < given:
        raise ValueError(
            f"frames is {length}, and a stream of this run starts from {given} frames: use --frames={given} or more"
        )
    first = pipeline.start_frames(run.config.data, request.data, request.count, given, request.first_frame)
    count, record = len(first), {}
    rows = processes.local_rows(count)
    stream = stream_frames(run, first[rows], jax.random.key(request.seed), rows=rows)
    source = str(request.first_frame or f"split {pipeline.held_out(request.data())}")

    def write(frames: Iterator[tuple]) -> None:
        with videos.replace_samples(out) as folder:
            record.update(_write_stream(run, folder, first, frames, length, request.seed, source))

    processes.gather_stream(stream, count, write)
    return record


def _write_stream(run: Run, out: Path, first, stream: Iterator[tuple], length: int, seed: int, source: str) -> dict:
    count, given = first.shape[:2]
    fps = float(run.config.data.fps)
    files = [out / f"sample_{i:03d}.mp4" for i in range(count)]
    shown = np.unique(np.linspace(0, length - 1, min(length, 8)).round().astype(int))  # columns of the sheet
    kept, nfe = [first[:, shown[shown < given]]], np.zeros(count)
    with ExitStack() as stack:
        writers = [stack.enter_context(videos.Writer(file, fps)) for file in files]
        write = lambda batch: [writer.append(frame) for writer, video in zip(writers, batch) for frame in video]
        write(first)
        clock = perf_counter()
        numbers = progress.track(range(given, length), "write frames", unit="frame")
        for number, (batch, cost) in zip(numbers, stream):
            write(batch)
            nfe += cost
            kept += [batch] if number in shown else []
        seconds = perf_counter() - clock
    steps = max(length - given, 1)
    each = dict(frames=length, fps=fps, seconds_per_frame=seconds / steps, seed=seed)
    samples = [dict(each, file=file.name, nfe_per_frame=float(n / steps)) for file, n in zip(files, nfe)]
    protocol = stream_protocol(run) | dict(
        first_frame=source,
        seconds="wall time of a frame of all streams together, compilation and writing included",
    )
    sheet = videos.sheet(np.concatenate(kept, axis=1), columns=len(shown))
    return videos.write_record(out, samples, protocol, sheet)


def stream_protocol(run: Run) -> dict:
    """Returns the settings that determine the frames of a run; every record of the run contains them."""
    settings = run.experiment.sampler
    curve = next(name for name, curve in CURVES.items() if curve is settings.curve)
    protocol = run.protocol | dict(past_frames=run.experiment.start_frames, curve=curve)
    protocol |= dict(epsilon=settings.epsilon, gain=settings.gain, context_noise=settings.context_noise)
    return protocol | solver_protocol(settings.solver)


def sampling_program(experiment: Experiment) -> Callable:
    """Returns the program that a dry run compiles: one frame of a stream."""
    return lambda field, start, key, condition: next(stream(field, start, key, **vars(experiment.sampler)))
