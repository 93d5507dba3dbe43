"""Generative Video Bi-flow (Liu and Ritschel): from the last frame to the next.

    FLOW        x(t)        = x0 + t (x1 - x0)             learns v = x1 - x0                   (1)   paper, eq. 3
    BI-FLOW     x(t, alpha) = x0 + t (x1 - x0) + alpha n   learns (v, d) = (x1 - x0, n)         (2)   paper, eq. 4 and 5
    CONDIFF     x(t)        = n + t (x1 - n)               learns v = x1 - n, given x0          (3)   paper, section 3.1

x0 is a frame, x1 the next one, n ~ N(0, I), t and alpha ~ U(0, 1), pixels in [-1, 1].

A frame is sampled by solving dx/dk = f^v dt/dk + f^d dalpha/dk along a curve (t, alpha)(k):      (4)   paper, eq. 8

    plain       (k, 0)              the next frame, no correction
    joint       (k, eps (1 - k))    the next frame from the last one with noise eps n added: the
                                    noise covers the accumulated error, and both are removed      paper, eq. 9
    backward    (k, eps k)          the past frame, solved from k = 1 to 0                        paper, section 5
    correcting  (0, eps (1 - k))    the same frame, cleaned
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jvflow.field import Condition, Field, along, as_partial
from jvflow.path import BILINEAR, LINEAR, Ends, matching_loss
from jvflow.solver import Solver

Frames = Float[Array, "b f h w c"]


# --- objectives -----------------------------------------------------------------------------------


def flow_loss(field: Field, past: Frames, future: Frames, keys: Key[Array, "b"], condition=None, weights=None) -> Float[Array, "b"]:
    """FLOW (1). The field gets s = (t,) and returns one velocity."""
    t = jax.vmap(jax.random.uniform)(keys)
    return matching_loss(LINEAR, field, Ends(past, future), (t,), condition, weights)


def biflow_loss(
    field: Field, past: Frames, future: Frames, keys: Key[Array, "b"], condition=None, weights=None, alpha_max: float = 1.0
) -> Float[Array, "b"]:
    """BI-FLOW (2). The field gets s = (t, alpha) and returns two velocities."""
    key_t, key_alpha, key_noise = _split(keys, 3)
    t = jax.vmap(jax.random.uniform)(key_t)
    alpha = alpha_max * jax.vmap(jax.random.uniform)(key_alpha)
    noise = _noise(key_noise, past)
    return matching_loss(BILINEAR, field, Ends(past, future, noise), (t, alpha), condition, weights)


def condiff_loss(field: Field, past: Frames, future: Frames, keys: Key[Array, "b"], condition=None, weights=None) -> Float[Array, "b"]:
    """CONDIFF (3). The field gets s = (t,), the past frame as `condition.context`, and returns one velocity."""
    key_t, key_noise = _split(keys, 2)
    t = jax.vmap(jax.random.uniform)(key_t)
    condition = replace(condition or Condition(), context=past)
    return matching_loss(LINEAR, field, Ends(_noise(key_noise, future), future), (t,), condition, weights)


@dataclass(frozen=True)
class Objective:
    """One of the paper's three methods: what is learned, and what its network has to look like.

    Attributes:
      loss: `(field, past, future, keys, condition) -> (b,)`, one key per example.
      coordinates: of s, what the network is conditioned on; also the number of its velocities.
      context: whether the past frame stands beside x on the channel axis (6 channels in for RGB).
      source: where the solve of a frame starts, "frame" or "noise".
    """

    loss: Callable
    coordinates: int
    context: bool
    source: str


OBJECTIVES = {
    "flow": Objective(flow_loss, coordinates=1, context=False, source="frame"),
    "biflow": Objective(biflow_loss, coordinates=2, context=False, source="frame"),
    "condiff": Objective(condiff_loss, coordinates=1, context=True, source="noise"),
}


# --- sampling -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A curve in (t, alpha): `curve(epsilon)` is `k -> (t, alpha)`, solved from `start` to `stop`.

    Attributes:
      position: `(k, epsilon) -> (t, alpha)`, scalars.
      start, stop: the interval of k, in the direction of the solve.
      moving: how many coordinates change; a field may leave out the velocities of the others.
    """

    position: Callable
    start: float = 0.0
    stop: float = 1.0
    moving: int = 2

    def __call__(self, epsilon: float) -> Callable:
        return lambda k: self.position(k, epsilon)


plain = Curve(lambda k, epsilon: (k, jnp.zeros_like(k)), moving=1)
joint = Curve(lambda k, epsilon: (k, epsilon * (1 - k)))
backward = Curve(lambda k, epsilon: (k, epsilon * k), start=1.0, stop=0.0)
correcting = Curve(lambda k, epsilon: (jnp.zeros_like(k), epsilon * (1 - k)))

CURVES = {"plain": plain, "joint": joint, "backward": backward, "correcting": correcting}


@partial(jax.jit, static_argnames=("curve", "solver", "source", "clamp"))
def next_frame(field, frame, key, epsilon, condition, *, curve, solver, source="frame", clamp=(-1.0, 1.0)):
    """One frame of `stream`: `(frame (b, f, h, w, c), key) -> (next frame, nfe (b,))`.

    Row i draws its noise from fold_in(key, i), so that a video does not depend on how many others
    stream beside it.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(frame)))
    noise = _noise(keys, frame)
    if source == "noise":
        x, condition = noise, replace(condition or Condition(), context=frame)
    else:
        x = frame if curve is plain else frame + epsilon * noise
    derivative = along(field, curve(epsilon), condition, moving=curve.moving)
    solution = solver(derivative, x, curve.start, curve.stop)
    x = solution.x if clamp is None else jnp.clip(solution.x, *clamp)
    return x, solution.nfe


def stream(
    field: Field,
    frames: Frames,
    key: Key[Array, ""],
    *,
    curve: Curve = joint,
    epsilon: float = 0.1,
    solver: Callable | dict = Solver(rtol=1e-2, atol=1e-2),
    condition: Condition | None = None,
    source: str = "frame",
    clamp: tuple[float, float] | None = (-1.0, 1.0),
) -> Iterator[tuple[Frames, Int[Array, "b"]]]:
    """Streams frames without end, each solved from the last (paper, section 2.2).

    Memory is constant and one program is compiled. A frame is computed while the caller still
    works on the one before it. Every frame has fresh noise, from fold_in(key, frame number).

    Args:
      field: `(x, s, condition) -> velocities`, see `jvflow.networks.as_field`.
      frames: where each stream starts, (b, 1, h, w, c), in [-1, 1].
      key: a key of all noise.
      curve: `plain`, `joint`, `backward` or `correcting`.
      epsilon: the noise level of the curve, in units of the data's; 0 is the plain curve.
      solver: a `Solver`, or the keyword arguments of one.
      condition: given to the field at every frame.
      source: "frame" starts a solve at the last frame; "noise" at noise, with the last frame as
        `condition.context` (CONDIFF).
      clamp: the range each frame is clipped to before it is used again, or None.

    Yields:
      `(frame (b, 1, h, w, c), nfe (b,))`: the first is the frame after the given one (before it,
      on `backward`). Both are on the device and may still be under way.
    """
    if source not in ("frame", "noise"):
        raise ValueError(f"source is {source!r}: use 'frame' (FLOW, BI-FLOW) or 'noise' (CONDIFF)")
    if source == "noise" and curve is not plain:
        raise ValueError("source='noise' (CONDIFF) solves along the curve `plain` alone")
    if not 0 <= epsilon:
        raise ValueError(f"epsilon is a noise level and must be 0 or more, got {epsilon}")
    if frames.ndim != 5:
        raise ValueError(f"frames must be (b, f, h, w, c), got shape {frames.shape}")
    solver = Solver(**solver) if isinstance(solver, dict) else solver
    step = partial(
        next_frame, as_partial(field), epsilon=jnp.float32(epsilon), condition=condition,
        curve=curve, solver=solver, source=source, clamp=clamp,
    )
    return _frames(step, jnp.asarray(frames, jnp.float32), key)


def _frames(step, frame, key):
    number = 0
    pending = step(frame=frame, key=jax.random.fold_in(key, number))
    while True:
        number += 1
        following = step(frame=pending[0], key=jax.random.fold_in(key, number))
        yield pending
        pending = following


# --- noise ----------------------------------------------------------------------------------------


def _split(keys, n):
    """n keys for each example: n arrays (b,)."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, n)))(keys)


def _noise(keys, like):
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)
