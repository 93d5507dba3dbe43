"""Sampling of VLFM: clips at any times, and the videos of a trained run. Equations are in `jvflow.vlfm.method`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path as FilePath
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, UInt8

from jvflow.assembly import Experiment, refuse, solver_protocol
from jvflow.data import pipeline
from jvflow.flow.field import Condition, Field, along, as_partial, guide
from jvflow.flow.path import Path
from jvflow.flow.solver import SolveError, Solver, as_argument, raise_if_failed
from jvflow.method import SampleRequest
from jvflow.networks import as_field
from jvflow.parallel import processes
from jvflow.report import videos
from jvflow.run import Run

Frames = Float[Array, "b f h w c"]
Times = Float[Array | np.ndarray, "m"] | Sequence[float]
Shape = tuple[int, int, int, int]
PRNGKey = Key[Array, ""]
Videos = UInt8[np.ndarray, "b f h w c"]


# --- clips ----------------------------------------------------------------------------------------


class Generated(NamedTuple):
    """Generated latents (b, m, h, w, c), and the number of evaluations of the field for each clip."""

    frames: Frames
    nfe: Int[Array, "b"]


def generate(
    field: Field, key: PRNGKey, times: Times, shape: Shape, condition: Condition | None = None, **options
) -> Frames:
    """Generates clips at any times; returns their latents (b, m, h, w, c). See `sample_frames` for the arguments."""
    return sample_frames(field, key, times, shape, condition, **options).frames


def sample_frames(
    field: Field,
    key: PRNGKey,
    times: Times,
    shape: Shape,
    condition: Condition | None = None,
    *,
    guidance: float = 1.0,
    solver: Solver | dict = Solver(rtol=1e-2, atol=1e-2),
    sigma: Callable | None = None,
    readout: str = "noise",
    start: Frames | None = None,
) -> Generated:
    """Generates clips at any times: one solve from noise at t = 0, with outputs at `times`.

    Args:
      field: takes s = (t,); its first output is F.
      key: random key of the noise z; row i draws from fold_in(key, i).
      times: increasing times in seconds, at least 0; 1/R apart for R frames per second. The solve ends at the last one,
        which may lie beyond the clips of training (extrapolation).
      shape: shape of the latents of one frame of all clips, (b, h, w, c).
      condition: captions, passed to the field at every evaluation.
      guidance: weight of the guidance by captions, 1 for none; see `field.guide`.
      solver: a `Solver`, or the keyword arguments of one.
      sigma: the noise level over time, for the read-out "noise".
      readout: "noise" subtracts the noise (5), exact for the exact field of one clip; "mean" returns the second
        output of the field at each time (7), with one more evaluation for each time; "none" returns the state.
      start: x(0), (b, 1, h, w, c), in place of noise: z + mu(0) on a path without a ramp. The solve has its dtype.

    Returns:
      Latents (b, m, h, w, c), and the evaluations for each clip, including rejected steps and the read-out.

    Raises:
      SolveError: if a sample does not reach the last time with finite values.
    """
    times = check_times(times, jnp.float32 if start is None else start.dtype)
    if readout not in ("noise", "mean", "none"):
        raise ValueError(f"unknown readout {readout!r}: use noise, mean or none")
    if readout == "noise" and sigma is None:
        raise ValueError("readout='noise' needs sigma, the schedule of the path: pass it, or use readout='none'")
    if readout == "noise" and start is not None:
        raise ValueError("readout='noise' needs z, and only x(0) is given: use readout='mean' or 'none', or no start")
    solver = Solver(**solver) if isinstance(solver, dict) else solver
    z = draw_noise(key, shape, times.dtype)
    guided = as_partial(guide(field, guidance))
    states, nfe = _solve(guided, z if start is None else start, times, condition, solver)
    if sigma is not None and readout == "noise":
        states = states - sigma(jnp.asarray(times))[:, None, None, None, None, None] * z[None]  # (5)
    elif readout == "mean":
        states, nfe = evaluate_output(guided, states, times, condition, output=1), nfe + len(times)
    return Generated(rearrange(states, "m b 1 h w c -> b m h w c"), nfe)


def check_times(times, dtype) -> Array | np.ndarray:
    if not isinstance(times, Tracer):  # under jit the values are not known
        given = np.asarray(times)
        if given.ndim != 1 or not len(given) or not (np.diff(given) > 0).all() or given[0] < 0:
            raise ValueError(f"times must be seconds of at least 0, in increasing order, got {given.tolist()}")
        return given.astype(dtype)
    return jnp.asarray(times, dtype)


def draw_noise(key, shape, dtype) -> Float[Array, "b 1 h w c"]:
    """Draws the noise z of each clip from its own key."""
    b, h, w, c = shape
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(b))
    return jax.vmap(lambda key: jax.random.normal(key, (1, h, w, c), dtype))(keys)


@partial(jax.jit, static_argnames="output")
def evaluate_output(field, states, times, condition, *, output):
    """Evaluates one output of the field in each state (m, b, ...), at its time."""
    at = lambda inputs: field(inputs[0], (jnp.full(len(inputs[0]), inputs[1]),), condition)[output]
    return jax.lax.map(at, (states, times))


def _solve(field, x, times, condition, solver):
    end = float(times[-1])
    if end == 0:
        return x[None], jnp.zeros(len(x), jnp.int32)
    solution = _solve_to(field, x, times, condition, as_argument(solver, x, 0.0, end), end=end)
    raise_if_failed(solution, what="a clip")
    return solution.x, solution.nfe


@partial(jax.jit, static_argnames="end")
def _solve_to(field, x, times, condition, solver, *, end):
    return solver(along(field, lambda k: (k,), condition, num_moving=1), x, 0.0, end, times=times)


# --- videos of a trained run ----------------------------------------------------------------------


@dataclass(frozen=True)
class ClipSampler:
    """The settings with which a run generates clips.

    Attributes:
      path: the latent path of a clip.
      shape: shape of the latents of a frame, (h, w, c).
      generate: `sample_frames`, or `regress` for the ablation.
      options: options of `generate`.
    """

    path: Path
    shape: tuple[int, int, int]
    generate: Callable
    options: dict

    def __call__(self, field: Field, key, times, count: int, condition=None, **options) -> Generated:
        """Generates `count` clips at `times` in seconds; `options` replace the run's options."""
        return self.generate(field, key, times, (count, *self.shape), condition, **self.options | options)

    def read_times(
        self, *, length: int | None = None, fps: float | None = None, extrapolate: bool = False
    ) -> Float[np.ndarray, "m"]:
        """Returns times in seconds, 1 / fps apart: `length` of them, or as many as the clip has.

        The first time is 1 / R, the time of the first frame: before it the path is still mostly noise.
        """
        position, rate = self.path.position, self.path.position.sigma.frame_rate
        fps = rate if fps is None else fps
        if not fps > 0:
            raise ValueError(f"fps is frames per second and must be above 0, got {fps}")
        whole = int((position.frames - 1) / rate * fps + 1e-6) + 1
        length = whole if length is None else length
        if length > whole and not extrapolate:
            raise ValueError(
                f"{length} frames at {fps:g} fps end after the clips of training, {position.frames} frames at {rate:g} "
                f"fps: use {whole} or fewer, or extrapolate (jvflow sample --extrapolate), which quickly becomes "
                "meaningless"
            )
        return 1 / rate + np.arange(length) / fps


def generate_videos(
    run: Run, times: Float[np.ndarray, "m"], captions: list[str], *, seed: int = 0, batch: int = 16, **options
) -> tuple[Videos, np.ndarray, float]:
    """Generates a video for each caption, at `times` in seconds.

    Args:
      times: see `ClipSampler.read_times`.
      captions: one for each video; a run without a text encoder ignores their content.
      seed: seed of the noise.
      batch: number of videos at a time.
      options: options that replace those in the run's `ClipSampler`, such as guidance.

    Returns:
      video uint8 (b, m, h, w, 3); evaluations of the network for each video (b,); seconds, compilation included.
    """
    experiment, codec = run.experiment, run.experiment.codec
    field = as_field(experiment.network, run.params, cast=True)
    clock = time.perf_counter()

    def make(group: int) -> tuple:
        some = captions[group * batch : (group + 1) * batch]
        key = jax.random.fold_in(jax.random.key(seed), group)
        condition = experiment.caption_condition(run.params, some, run.config.data.fps)
        try:
            made = experiment.sampler(field, key, times, len(some), condition, **options)
        except SolveError as error:
            raise SolveError(f"videos {group * batch} to {group * batch + len(some) - 1}: {error}") from None
        return np.asarray(codec.decode(codec.params, made.frames)), np.asarray(made.nfe)

    made, nfe = zip(*processes.distributed_map(-(-len(captions) // batch), make, "generate clips"))
    return np.concatenate(made), np.concatenate(nfe), time.perf_counter() - clock


def sample(run: Run, out: str | FilePath, request: SampleRequest) -> dict:
    """Writes a video for each caption, by default `count` videos for captions of training; returns the record."""
    refuse(request, run.config.objective, "starts from noise and takes no first frame", "first_frame")
    sampler = run.experiment.sampler
    times = sampler.read_times(length=request.length, fps=request.fps, extrapolate=request.extrapolate)
    captions = list(request.captions)
    if not captions:
        count = request.count or pipeline.COUNT
        captions = list(islice(cycle(pipeline.captions(request.data(), "train", count=count)), count))
    made, nfe, seconds = generate_videos(run, times, captions, seed=request.seed)
    fps = float(request.fps or sampler.path.position.sigma.frame_rate)
    nfe, seconds = nfe / len(times), seconds / (len(times) * len(made))
    read = dict(times=[float(times[0]), float(times[-1])], seconds="wall time of a frame, compilation included")
    write = partial(videos.write_samples, fps=fps, seed=request.seed, protocol=clip_protocol(run) | read)
    return write(out, made, captions, nfe_per_frame=nfe, seconds_per_frame=seconds)


def clip_protocol(run: Run) -> dict:
    """Returns the settings that determine the clips of a run; every record of the run contains them."""
    position, options = run.experiment.sampler.path.position, run.experiment.sampler.options
    path = {key: getattr(position, key) for key in ("order", "rule", "basis", "ramp")}
    path |= dict(clip_frames=position.frames, frame_rate=position.sigma.frame_rate, sigma=position.sigma.kind)
    protocol = run.protocol | path | dict(sigma_min=position.sigma.sigma_min, guidance=options["guidance"])
    if "solver" not in options:
        return protocol
    return protocol | dict(readout=options["readout"], **solver_protocol(options["solver"]))


def sampling_program(experiment: Experiment) -> Callable:
    """Returns the program that a dry run compiles: it generates whole clips."""
    times = experiment.sampler.read_times()
    return lambda field, start, key, condition: experiment.sampler(field, key, times, len(start), condition)
