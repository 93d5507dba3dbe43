"""Video Latent Flow Matching: a clip as one continuous flow of the latents of an image model.

    psi(t) = sigma(t) z + mu(t)                        the path of a clip, z ~ N(0, I)           (1)   paper, eq. 3
    L      = E |F(psi(t), c, t) - psi'(t)|^2           t in [0, T], c the caption                (2)   paper, section 4.3
    F(x)   = sigma'/sigma (x - mu) + mu'               the minimum for one clip                  (3)   paper, Theorem 4.1
    F(x)   = sum_i p_i(x) F_i(x),   p_i ~ exp(-|x - mu_i|^2 / (2 sigma^2))    ... for clips i    (4)
    u(t)   = x(t) - sigma(t) z,     z = x(0) - mu(0)   read-out without the noise                (5)

t is video time in seconds: frame k of N at R frames per second is at t = k / R, and T = N / R. mu and sigma are those
of `latent_path.latent`. The state is the latent of one frame, (b, 1, h, w, c): a clip comes out of one solve with outputs at any
times. The paper prints (3) with z where x = psi(t) has to stand, and so integrates it in its Theorem F.4.

In the first frame's time sigma falls from 1 to its minimum and psi' is many times what it is from then on. (2) is therefore
averaged in units of the size of psi',

    c(t)^2 = sigma'(t)^2 + m^2,    m the root mean square of mu'                                 (6)

Afterwards sigma'/sigma is 0, and what F got wrong by then it keeps. A network can return the mean and its slope, (a, b):

    F(x) = sigma'/sigma (x - a) + m b,    u(t) = a(x(t), t)                                      (7)

so that each read-out is what the network makes of the whole state, and an error of the solve does not add up. The noise
that is left at the frames has to be large for it (s0 of 0.5, where the paper has 0.01): x = mu + sigma z with little noise
tells the network mu, which it then copies, and never learns from t; when a clip is generated x is no more right than it.
A read-out that takes the noise away loses nothing by that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from jvflow.flow.field import Condition, Field, along, as_partial, column, guide
from jvflow.vlfm.latent_path import Clip
from jvflow.flow.path import Path, squared_error
from jvflow.flow.solver import Solver

Frames = Float[Array, "b f h w c"]
Times = Float[Array, "m"]


# --- objective ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Density:
    """Where t is drawn: uniform in [0, T], as the paper has it, or a part `start` of all draws within the first `frames` frames."""

    start: float = 0.0
    frames: float = 1.0

    def __call__(self, keys: Key[Array, "b"], path: Path) -> Float[Array, "b"]:
        """One t for each key, in seconds."""
        whole, early = path.position.seconds, self.frames / path.position.sigma.frame_rate
        which, at = jax.vmap(lambda key: tuple(jax.random.uniform(k) for k in jax.random.split(key)))(keys)
        return at * jnp.where(which < self.start, early, whole)


def loss(
    field: Field, frames: Frames, keys: Key[Array, "b"], condition: Condition | None = None, *,
    path: Path, slope: float | None = None, density: Density = Density(), mean: float = 0.0,
) -> Float[Array, "b"]:
    """The objective (2), one number per example.

    Args:
      field: gets s = (t,); its first velocity is F. With a second output, the mean of (7), that is
        fitted to mu too, with the weight `mean`.
      frames: clips in latents, in order; as many frames as `path` is for.
      keys: one per example.
      path: of `latent_path.latent`.
      slope: m of (6), latents per second; errors are as they are when None (the paper).
      density: of t.
    """
    t, clip = _drawn(frames, keys, density, path)
    x, (velocity,) = path(clip, (t,))
    outputs = field(x, (t,), condition)
    per = 1.0 if slope is None else jnp.square(_rate(path.position.sigma, t)[1]) + slope**2  # (6)
    total = squared_error(outputs[0], velocity) / per
    if mean:
        if len(outputs) < 2:
            raise ValueError(f"mean={mean} fits a second output of the field to mu, and it has {len(outputs)}: use `from_mean`, or mean=0")
        total = total + mean * squared_error(outputs[1], jax.vmap(path.position.mean)(clip.frames, t))
    return total


def direct_loss(field: Field, frames: Frames, keys: Key[Array, "b"], condition: Condition | None = None, *, path: Path) -> Float[Array, "b"]:
    """The paper's ablation (section 6.4): the same network regresses the latent at t from noise, without a flow."""
    t, clip = _drawn(frames, keys, Density(), path)
    return squared_error(field(clip.noise, (t,), condition)[0], jax.vmap(path.position.mean)(clip.frames, t))


def _drawn(frames, keys, density, path) -> tuple[Array, Clip]:
    """t and the ends of the path, from one key for each example."""
    key_t, key_noise = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    t = density(key_t, path)
    noise = jax.vmap(lambda key: jax.random.normal(key, frames[0, :1].shape, frames.dtype))(key_noise)
    clip = Clip(rearrange(frames, "b n h w c -> b n 1 h w c"), noise)
    return t, clip


def _rate(function: Callable, t):
    """A function of time and its derivative, at times (b,)."""
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


# --- fields ---------------------------------------------------------------------------------------


def from_mean(field: Field, path: Path, slope: float) -> Field:
    """The field (7) of one that returns a mean and its slope in units of `slope`: it returns (F, mean)."""
    return jax.tree_util.Partial(_FromMean(path, slope), as_partial(field))


@dataclass(frozen=True)
class _FromMean:
    path: Path
    slope: float

    def __call__(self, field, x, s, condition=None):
        mean, motion = field(x, s, condition)
        sigma, change = _rate(self.path.position.sigma, s[0])
        return column(change / sigma, x) * (x - mean) + self.slope * motion, mean  # (7)


def scaled(field: Field, path: Path, slope: float) -> Field:
    """The field c(t) f(x / sqrt(1 + sigma^2), t), with c of (6), of an f that gets and returns data of about unit size."""
    return jax.tree_util.Partial(_Scaled(path, slope), as_partial(field))


@dataclass(frozen=True)
class _Scaled:
    path: Path
    slope: float

    def __call__(self, field, x, s, condition=None):
        sigma, change = _rate(self.path.position.sigma, s[0])
        size = jnp.sqrt(jnp.square(change) + self.slope**2)  # (6)
        outputs = field(x / column(jnp.sqrt(1 + jnp.square(sigma)), x), s, condition)
        return tuple(column(size, x) * output for output in outputs)


def exact_field(path: Path, clips: Float[Array, "i n h w c"]) -> Field:
    """The minimum of the objective over the given clips, equally likely: (3) for one, (4) for more. No network.

    It ignores its condition. Returns (F, mean), the mean of the clips under p_i.
    """
    return jax.tree_util.Partial(_Exact(path), clips)


@dataclass(frozen=True)
class _Exact:
    path: Path

    def __call__(self, clips, x, s, condition=None):
        position = self.path.position

        def one(x, t):
            sigma, change = _rate(position.sigma, t)
            mu, slope = jax.vmap(lambda clip: _rate(lambda t: position.mean(clip, t), t))(clips[:, :, None])
            p = jax.nn.softmax(-jnp.sum(jnp.square(x[None] - mu), axis=range(1, mu.ndim)) / (2 * sigma**2))  # (4)
            of_clips = jnp.tensordot(p, change / sigma * (x[None] - mu) + slope, 1)  # (3)
            return of_clips, jnp.tensordot(p, mu, 1)

        return jax.vmap(one)(x, s[0])


# --- sampling -------------------------------------------------------------------------------------


class Clips(NamedTuple):
    """Generated clips, and the evaluations of the field that each of them took."""

    frames: Frames
    nfe: Int[Array, "b"]


def generate(
    field: Field,
    key: Key[Array, ""],
    times: Times,
    shape: tuple[int, int, int, int],
    condition: Condition | None = None,
    *,
    guidance: float = 1.0,
    solver: Callable | dict = Solver(rtol=1e-2, atol=1e-2),
    sigma: Callable | None = None,
    readout: str = "noise",
    start: Frames | None = None,
) -> Frames:
    """Clips at any times: one solve from noise at t = 0, with outputs at `times`.

    Args:
      field: gets s = (t,); its first velocity is F.
      key: of the noise z; row i draws from fold_in(key, i).
      times: in seconds, at least 0, in order; 1/R apart for R frames per second. The last is where the
        solve ends, and may lie beyond the clips of training (extrapolation).
      shape: of the latents of a frame, (b, h, w, c).
      condition: captions, given to the field at every evaluation.
      guidance: of the captions, 1 for none; see `field.guide`.
      solver: a `Solver`, or the keyword arguments of one.
      sigma: the noise level over time, for the read-out "noise".
      readout: "noise" takes away the noise (5), exact for the exact field of one clip; "mean" gives the
        second output of the field at each time (7), for one evaluation more a time; "none" the state.
      start: x(0), (b, 1, h, w, c), in place of noise: z + mu(0) on a path without a ramp. Its type is that of the solve.

    Returns:
      Latents (b, m, h, w, c).
    """
    return sampled(
        field, key, times, shape, condition, guidance=guidance, solver=solver, sigma=sigma, readout=readout, start=start
    ).frames


def sampled(
    field: Field, key: Key[Array, ""], times: Times, shape: tuple[int, int, int, int], condition: Condition | None = None, *,
    guidance: float = 1.0, solver: Callable | dict = Solver(rtol=1e-2, atol=1e-2), sigma: Callable | None = None,
    readout: str = "noise", start: Frames | None = None,
) -> Clips:
    """`generate` with the cost of each clip: the evaluations of the solve, rejected steps included, and those of the read-out."""
    times = _checked(times, jnp.float32 if start is None else start.dtype)
    if readout not in ("noise", "mean", "none"):
        raise ValueError(f"unknown readout {readout!r}: use noise, mean or none")
    if readout == "noise" and sigma is None:
        raise ValueError("readout='noise' takes sigma(t) z away and needs sigma: pass the path's schedule, or readout='none'")
    if readout == "noise" and start is not None:
        raise ValueError("readout='noise' needs the z of the start, and only x(0) is given: use readout='mean' or 'none', or no start")
    solver = Solver(**solver) if isinstance(solver, dict) else solver
    z = _noise(key, shape, times.dtype)
    x = z if start is None else start
    guided = guide(field, guidance)
    states, nfe = _solved(as_partial(guided), x, times, condition, solver)
    if readout == "noise":
        states = states - sigma(times)[:, None, None, None, None, None] * z[None]  # (5)
    elif readout == "mean":
        states, nfe = _values(as_partial(guided), states, times, condition, output=1), nfe + len(times)
    return Clips(rearrange(states, "m b 1 h w c -> b m h w c"), nfe)


def direct(
    field: Field, key: Key[Array, ""], times: Times, shape: tuple[int, int, int, int], condition: Condition | None = None, *, guidance: float = 1.0
) -> Clips:
    """Clips from a field of `direct_loss`, the paper's ablation: its value at each time, from the same noise. See `generate`."""
    times = _checked(times, jnp.float32)
    z = _noise(key, shape, times.dtype)
    states = _values(as_partial(guide(field, guidance)), jnp.broadcast_to(z, (len(times), *z.shape)), times, condition, output=0)
    return Clips(rearrange(states, "m b 1 h w c -> b m h w c"), jnp.full(len(z), len(times)))


def _checked(times, dtype) -> Times:
    if not isinstance(times, jax.core.Tracer):  # under jit there are no values to look at
        given = np.asarray(times)
        if given.ndim != 1 or not len(given) or not (np.diff(given) > 0).all() or given[0] < 0:
            raise ValueError(f"times are seconds from 0 on, each after the one before, got {given.tolist()}")
        return given.astype(dtype)
    return jnp.asarray(times, dtype)


def _noise(key, shape, dtype) -> Float[Array, "b 1 h w c"]:
    """z of each clip, from its own key."""
    b, h, w, c = shape
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(b))
    return jax.vmap(lambda key: jax.random.normal(key, (1, h, w, c), dtype))(keys)


@partial(jax.jit, static_argnames="output")
def _values(field, states, times, condition, *, output):
    """One output of the field in each state, (m, b, ...), at its time."""
    at = lambda inputs: field(inputs[0], (jnp.full(len(inputs[0]), inputs[1]),), condition)[output]
    return jax.lax.map(at, (states, times))


def _solved(field, x, times, condition, solver):
    end = float(times[-1])
    if end == 0:
        return x[None], jnp.zeros(len(x), jnp.int32)
    return _solve(field, x, times, condition, solver=solver, end=end)


@partial(jax.jit, static_argnames=("solver", "end"))
def _solve(field, x, times, condition, *, solver, end):
    derivative = along(field, lambda k: (k,), condition, moving=1)
    solution = solver(derivative, x, 0.0, end, times=times)
    return solution.x, solution.nfe
