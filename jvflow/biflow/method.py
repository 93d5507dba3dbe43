"""Generative Video Bi-flow (Liu and Ritschel): from the last frame to the next.

    FLOW        x(t)        = x0 + t (x1 - x0)             learns v = x1 - x0                   (1)   paper, eq. 3
    BI-FLOW     x(t, alpha) = x0 + t (x1 - x0) + alpha n   learns (v, d) = (x1 - x0, n)         (2)   paper, eq. 4 and 5
    CONDIFF     x(t)        = n + t (x1 - n)               learns v = x1 - n, given x0          (3)   paper, section 3.1

x0 is a frame, x1 the next one, n ~ N(0, I), t and alpha ~ U(0, 1), pixels in [-1, 1]. Where a frame
does not tell its motion, the field is given the frames before it too, with noise of their own, so
that it learns to see through what went wrong in them. (The paper names its context of one frame as
its main limitation, section 6, and has no more.)

n has no structure, and a small network with large patches cannot carry it: each number of it would have to
pass through. Such a network can return the clean state y, x0 + t (x1 - x0) or x1, from which the noise follows:

    BI-FLOW   d = (x - y) / max(alpha, 0.05)        CONDIFF   v = (y - x) / max(1 - t, 0.05)    (6)   Li and He, arXiv 2511.13720

A frame is sampled by solving dx/dk = f^v dt/dk + f^d dalpha/dk along a curve (t, alpha)(k):      (4)   paper, eq. 8

    plain       (k, 0)              the next frame, no correction
    joint       (k, eps (1 - k))    the next frame from the last one with noise eps n added: the
                                    noise covers the accumulated error, and both are removed      paper, eq. 9
    backward    (k, eps k)          the past frame, solved from k = 1 to 0                        paper, section 5
    correcting  (0, eps (1 - k))    the same frame, cleaned

The paper has one eps for all frames, and leaves open to choose it from what is wrong with the frame
(section 6). A network that took x for x0 + eps n would see in it

    r(x) = eps RMS(f^d(x, (0, eps)))                                                               (5)

of noise: little in a clean frame, whose content it knows, and more the more was added or went wrong. So a
frame can be given its own level, min(eps, g r(x)) with a gain g, for one evaluation more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from jvflow.flow.field import Condition, Field, along, as_partial, column
from jvflow.flow.path import BILINEAR, LINEAR, Ends, matching_loss
from jvflow.flow.solver import Solver

Frames = Float[Array, "b f h w c"]


# --- objectives -----------------------------------------------------------------------------------


def flow_loss(
    field: Field, past: Frames, future: Frames, keys: Key[Array, "b"], condition=None, weights=None, context_noise: float = 0.0
) -> Float[Array, "b"]:
    """FLOW (1). The field gets s = (t,) and returns one velocity."""
    condition = _with_noised(condition, past[:, :-1], _of_context(keys), context_noise)
    t = jax.vmap(jax.random.uniform)(keys)
    return matching_loss(LINEAR, field, Ends(past[:, -1:], future), (t,), condition, weights)


def biflow_loss(
    field: Field, past: Frames, future: Frames, keys: Key[Array, "b"], condition=None, weights=None,
    context_noise: float = 0.0, alpha_max: float = 1.0,
) -> Float[Array, "b"]:
    """BI-FLOW (2). The field gets s = (t, alpha) and returns two velocities."""
    condition = _with_noised(condition, past[:, :-1], _of_context(keys), context_noise)
    key_t, key_alpha, key_noise = _split(keys, 3)
    t = jax.vmap(jax.random.uniform)(key_t)
    alpha = alpha_max * jax.vmap(jax.random.uniform)(key_alpha)
    noise = _noise(key_noise, future)
    return matching_loss(BILINEAR, field, Ends(past[:, -1:], future, noise), (t, alpha), condition, weights)


def condiff_loss(
    field: Field, past: Frames, future: Frames, keys: Key[Array, "b"], condition=None, weights=None, context_noise: float = 0.0
) -> Float[Array, "b"]:
    """CONDIFF (3). The field gets s = (t,), all of the past as `condition.context`, and returns one velocity."""
    condition = _with_noised(condition, past, _of_context(keys), context_noise)
    key_t, key_noise = _split(keys, 2)
    t = jax.vmap(jax.random.uniform)(key_t)
    return matching_loss(LINEAR, field, Ends(_noise(key_noise, future), future), (t,), condition, weights)


def _with_noised(condition, frames, keys, most):
    """The condition with frames (b, n, h, w, c) beside x, under noise of a level that is uniform in [0, most]."""
    if not most:
        return _with(condition, frames)
    key_level, key_noise = _split(keys, 2)
    level = most * jax.vmap(jax.random.uniform)(key_level)
    return _with(condition, frames + column(level, frames) * _noise(key_noise, frames))


def _with(condition, frames):
    """The condition with frames (b, n, h, w, c) beside x on the channel axis; itself when n is 0."""
    if not frames.shape[1]:
        return condition
    return replace(condition or Condition(), context=rearrange(frames, "b n h w c -> b 1 h w (n c)"))


NEAREST = 0.05  # (6) divides by the distance from the clean state


def _biflow_from_clean(x, s, outputs):
    velocity, clean = outputs
    return velocity, (x - clean) / column(jnp.maximum(s[1], NEAREST), x)  # (6)


def _condiff_from_clean(x, s, outputs):
    (clean,) = outputs
    return ((clean - x) / column(jnp.maximum(1 - s[0], NEAREST), x),)  # (6)


@dataclass(frozen=True)
class Objective:
    """One of the paper's three methods: what is learned, and what its network has to look like.

    Attributes:
      loss: `(field, past, future, keys, condition) -> (b,)`, one key per example. `past` is the
        frames that are known, (b, n, h, w, c) in order; x0 is the last of them.
      coordinates: of s, what the network is conditioned on; also the number of its velocities.
      source: where the solve of a frame starts: "frame" (x0 flows) or "noise" (x0 is context).
      from_clean: `(x, s, outputs) -> velocities` for a network that returns the clean state (6);
        FLOW has no noise, and nothing changes.
    """

    loss: Callable
    coordinates: int
    source: str
    from_clean: Callable = lambda x, s, outputs: outputs

    def context(self, past: int) -> int:
        """How many of `past` known frames stand beside x on the channel axis (for RGB 3 channels each)."""
        return past if self.source == "noise" else past - 1


OBJECTIVES = {
    "flow": Objective(flow_loss, coordinates=1, source="frame"),
    "biflow": Objective(biflow_loss, coordinates=2, source="frame", from_clean=_biflow_from_clean),
    "condiff": Objective(condiff_loss, coordinates=1, source="noise", from_clean=_condiff_from_clean),
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


@partial(jax.jit, static_argnames=("gain", "curve", "solver", "source", "clamp"))
def next_frame(
    field, past, key, rows, epsilon, context_noise, condition, *, gain=0.0, curve, solver, source="frame", clamp=(-1.0, 1.0)
):
    """One frame of `stream`: `past (b, n, h, w, c) -> (past with the next frame as its last, nfe (b,))`.

    Row i draws its noise from fold_in(key, rows[i]), so that a video does not depend on how many others
    stream beside it.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    frame, older = past[:, -1:], past if source == "noise" else past[:, :-1]
    condition = _with(condition, older + context_noise * _noise(_of_context(keys), older))
    noise, level, probes = _noise(keys, frame), jnp.full(len(past), epsilon), 0
    if gain:
        level, probes = jnp.minimum(level, gain * corruption(field, frame, epsilon, condition)), 1
    if source == "noise":
        x = noise
    else:
        x = frame if curve is plain else frame + column(level, frame) * noise
    derivative = along(field, curve.position, condition, each=(level,), moving=curve.moving)
    solution = solver(derivative, x, curve.start, curve.stop)
    x = solution.x if clamp is None else jnp.clip(solution.x, *clamp)
    return jnp.concatenate([past[:, 1:], x], axis=1), solution.nfe + probes


def corruption(field: Field, frames: Frames, epsilon, condition: Condition | None = None) -> Float[Array, "b"]:
    """How much noise a field of BI-FLOW sees in each frame when it is told that there may be `epsilon` (5).

    In units of the data. One evaluation of the field.
    """
    here = jnp.zeros(len(frames)), jnp.full(len(frames), epsilon)
    noise = field(frames, here, condition)[1]
    return epsilon * jnp.sqrt(jnp.mean(jnp.square(noise), axis=(1, 2, 3, 4)))


def stream(
    field: Field,
    frames: Frames,
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
    rows: Int[np.ndarray, "b"] | None = None,
) -> Iterator[tuple[Frames, Int[Array, "b"]]]:
    """Streams frames without end, each solved from the last (paper, section 2.2).

    Memory is constant and one program is compiled. A frame is computed while the caller still
    works on the one before it. Every frame has fresh noise, from fold_in(key, frame number).

    Args:
      field: `(x, s, condition) -> velocities`, see `jvflow.networks.as_field`.
      frames: where each stream starts, (b, n, h, w, c) in order, in [-1, 1]; as many as the field
        was trained with. Each next frame is solved from the last one, given the others as context.
      key: a key of all noise.
      curve: `plain`, `joint`, `backward` or `correcting`.
      epsilon: the noise level of the curve, in units of the data's; 0 is the plain curve.
      gain: when not 0, each frame of each stream has its own level, min(epsilon, gain r) with r (5)
        what is wrong with the frame before. On the curve `joint`; counted in the NFE.
      context_noise: the level of the noise that is added to the context.
      solver: a `Solver`, or the keyword arguments of one.
      condition: given to the field at every frame.
      source: "frame" starts a solve at the last frame; "noise" at noise, with the last frame among
        the context (CONDIFF).
      clamp: the range each frame is clipped to before it is used again, or None.
      rows: the number of each stream, which its noise belongs to; 0, 1, ... when None.

    Yields:
      `(frame (b, 1, h, w, c), nfe (b,))`: the first is the frame after the given ones (before it,
      on `backward`). Both are on the device and may still be under way.
    """
    if source not in ("frame", "noise"):
        raise ValueError(f"source is {source!r}: use 'frame' (FLOW, BI-FLOW) or 'noise' (CONDIFF)")
    if source == "noise" and curve is not plain:
        raise ValueError("source='noise' (CONDIFF) solves along the curve `plain` alone")
    for name, level in dict(epsilon=epsilon, context_noise=context_noise, gain=gain).items():
        if not 0 <= level:
            raise ValueError(f"{name} scales noise and must be 0 or more, got {level}")
    if gain and (curve is not joint or not epsilon):
        raise ValueError(f"gain {gain} chooses the noise of the curve `joint` up to epsilon {epsilon}: use that curve, and an epsilon above 0")
    if frames.ndim != 5:
        raise ValueError(f"frames must be (b, n, h, w, c), got shape {frames.shape}")
    if curve is backward and frames.shape[1] > 1:
        raise ValueError(
            f"the curve `backward` solves for the frame before the given one, so the {frames.shape[1] - 1} frames before "
            "that are not known: it takes a field that was trained with one frame"
        )
    solver = Solver(**solver) if isinstance(solver, dict) else solver
    step = partial(
        next_frame, as_partial(field), rows=jnp.arange(len(frames)) if rows is None else jnp.asarray(rows), epsilon=jnp.float32(epsilon), context_noise=jnp.float32(context_noise),
        condition=condition, gain=float(gain), curve=curve, solver=solver, source=source, clamp=clamp,
    )
    return _frames(step, jnp.asarray(frames, jnp.float32), key)


def _frames(step, past, key):
    number = 0
    pending = step(past=past, key=jax.random.fold_in(key, number))
    while True:
        number += 1
        following = step(past=pending[0], key=jax.random.fold_in(key, number))
        yield pending[0][:, -1:], pending[1]
        pending = following


# --- noise ----------------------------------------------------------------------------------------


def _split(keys, n):
    """n keys for each example: n arrays (b,)."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, n)))(keys)


def _of_context(keys):
    """Keys (b,) for the noise of the context, apart from all that come of `keys` itself."""
    return jax.vmap(lambda key: jax.random.fold_in(key, 2**31))(keys)


def _noise(keys, like):
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)
