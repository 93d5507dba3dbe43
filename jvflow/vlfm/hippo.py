"""HiPPO-LegS: the past of a signal as the coefficients of one polynomial (Gu et al. 2020; VLFM, section 4.1).

    c'(t) = -(1/t) A c(t) + (1/t) B f(t)                                                            (1)
    f(x) ~ sum_n c_n phi_n(x / t) on [0, t],    phi_n(y) = sqrt(2n + 1) P_n(2y - 1)                   (2)

A[n, k] = sqrt((2n + 1)(2k + 1)) below the diagonal, n + 1 on it, 0 above; B[n] = sqrt(2n + 1); n from 0.
The frames of a clip are u_k = f(k), k = 1 .. N. Every rule steps from k - 1 to k by

    c_k = E_k c_(k-1) + p_k u_(k-1) + q_k u_k                                                        (3)

In log t (1) has constant coefficients, so a step is exact for an input that is held: with r = (k - 1) / k,
E_k = exp(A log r), the projection of the old polynomial onto the longer interval,

    E_k[n, m] = r int_0^1 phi_n(r y) phi_m(y) dy                                                     (4)
    p_k[n] = 1/k int_0^1 (1 - z) phi_n(r + z/k) dz,   q_k[n] = 1/k int_0^1 z phi_n(r + z/k) dz       (5)   first-order hold
    p_k = 0,                                          q_k[n] = 1/k int_0^1 phi_n(r + z/k) dz         (6)   zero-order hold

by Gauss-Legendre quadrature without an error. The other rules approximate (1):

    forward_euler    c_k = (I - A/k) c_(k-1) + B/k u_k         the paper's, Definition D.3; diverges     (7)
    backward_euler   c_k = (I + A/k)^-1 (c_(k-1) + B/k u_k)                                              (8)
    bilinear         c_k = (I + A/2k)^-1 ((I - A/2k) c_(k-1) + B/k u_k)    the public HiPPO code's       (9)
    least_squares    H = Phi^+ u with Phi[k, n] = phi_n(k/N), no recurrence   the paper's Lemma 5.2      (10)

All of it is linear in the frames: H = K^T u with a kernel K (N, s), and the polynomial and its slope at
times t are sums of frames with the weights w(t) = K phi(t) and K phi'(t). `project` is the scan of (3),
`kernel` and `weights` are for whole clips; the three agree.
"""

from dataclasses import dataclass, field
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

HOLDS = ("first_order_hold", "zero_order_hold")
RECURRENCES = (*HOLDS, "forward_euler", "backward_euler", "bilinear")
RULES = (*RECURRENCES, "least_squares")
DIVERGED = 1e3  # a frame has this much influence on a coefficient only where a rule diverges
MOST = 64  # orders that are tried, at most
LIKELY = 1.3  # coefficients for each frame, with which a hold is best between the frames of most clips
WITHIN = 1.1  # of the least error: as good


def transitions(order: int) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s"]]:
    """A and B of (1), float64; the eigenvalues of A are 1 .. s (the public code stores -A)."""
    _check_order(order)
    root = np.sqrt(2 * np.arange(order) + 1.0)
    return np.tril(np.outer(root, root), -1) + np.diag(np.arange(order) + 1.0), root


# --- the basis ------------------------------------------------------------------------------------


def _basis(y, order: int, xp):
    """phi (..., s) of (2) and its slope at y, by the three-term recurrences of Legendre's polynomials."""
    x = 2 * y - 1
    values, slopes = [xp.ones_like(x), x], [xp.zeros_like(x), xp.ones_like(x)]
    for n in range(1, order - 1):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
        slopes.append(slopes[n - 1] + (2 * n + 1) * values[n])
    scales = np.sqrt(2 * np.arange(order) + 1.0)
    stack = lambda parts, factor: xp.stack([float(factor * scale) * part for scale, part in zip(scales, parts)], -1)
    return stack(values[:order], 1), stack(slopes[:order], 2)


@lru_cache
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre on [0, 1], exact up to degree 2 count - 1."""
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, w / 2


# --- the steps ------------------------------------------------------------------------------------


def _step(rule: str, k, order: int, xp):
    """E (s, s), p (s,) and q (s,) of the step (3) to frame k, a number or a traced scalar."""
    if rule in HOLDS:
        y, w = (xp.asarray(a, xp.float64 if xp is np else xp.float32) for a in _nodes(order + 1))
        before = (k - 1) / k
        here = _basis(y, order, xp)[0] * w[:, None]
        longer = before * xp.einsum("yn,ym->nm", _basis(before * y, order, xp)[0], here)  # (4)
        new = _basis(before + y / k, order, xp)[0] / k
        if rule == "zero_order_hold":
            return longer, xp.zeros_like(w[:order]), w @ new  # (6)
        return longer, (w * (1 - y)) @ new, (w * y) @ new  # (5)
    A, B = (xp.asarray(a, xp.float64 if xp is np else xp.float32) for a in transitions(order))
    one, none = xp.eye(order, dtype=A.dtype), xp.zeros_like(B)
    if rule == "forward_euler":
        return one - A / k, none, B / k  # (7)
    implicit = one + A / k if rule == "backward_euler" else one + A / (2 * k)
    explicit = one if rule == "backward_euler" else one - A / (2 * k)
    both = xp.linalg.solve(implicit, xp.concatenate([explicit, B[:, None] / k], 1))  # (8), (9)
    return both[:, :-1], none, both[:, -1]


@lru_cache(maxsize=32)
def _steps(frames: int, order: int, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All steps of a clip in float64: E (N, s, s), p and q (N, s). Frame 0 is frame 1."""
    E, p, q = (np.stack(parts) for parts in zip(*(_step(rule, k, order, np) for k in range(1, frames + 1))))
    q[0] += p[0]
    p[0] = 0
    return E, p, q


@lru_cache(maxsize=256)
def _kernel(frames: int, order: int, rule: str) -> np.ndarray:
    if rule == "least_squares":
        return np.linalg.pinv(_basis(np.arange(1, frames + 1) / frames, order, np)[0]).T  # (10)
    H = np.zeros((order, frames))
    with np.errstate(over="ignore", invalid="ignore"):
        for k, (E, p, q) in enumerate(zip(*_steps(frames, order, rule))):
            H = E @ H
            H[:, k - 1] += p if k else 0.0
            H[:, k] += q
    return H.T


def kernel(frames: int, order: int, rule: str = "first_order_hold", *, allow_divergence: bool = False) -> Float[np.ndarray, "N s"]:
    """K with H = einsum("n...,ns->...s", u, K): the coefficients of a clip in one product, float64.

    Args:
      frames: of the clip, N, at least 2.
      order: coefficients, s.
      rule: see the top of the file.
      allow_divergence: returns a kernel with entries above 1000 too. Without it that is a ValueError.
    """
    _check_order(order)
    _check_rule(rule, RULES)
    if frames < 2:
        raise ValueError(f"a clip has at least 2 frames, got {frames}: one frame tells no motion")
    K = _kernel(frames, order, rule)
    most = np.abs(K).max()
    if not most <= DIVERGED and not allow_divergence:
        raise ValueError(
            f"{rule} diverges at order {order} with {frames} frames: a frame enters a coefficient with a weight of {most:.2g}. "
            f"Use first_order_hold, which is stable at every order, {'a lower order' if order > 1 else 'more frames'}, or allow_divergence=True"
        )
    return K.copy()


# --- coefficients ---------------------------------------------------------------------------------


def project(u: Float[Array, "N ..."], order: int, rule: str = "first_order_hold", *, allow_divergence: bool = False) -> Float[Array, "s ..."]:
    """The coefficients H of a clip by the recurrence (3): one jitted `lax.scan` over its frames.

    The steps depend on N alone; they are computed once in float64 on the host.

    Args:
      u: frames in order, floating point, N at least 2, with any shape behind.
      order, rule, allow_divergence: as in `kernel`; least_squares has no recurrence.
    """
    if rule == "least_squares":
        raise ValueError("least_squares has no recurrence: use kernel(frames, order, 'least_squares')")
    kernel(len(u), order, rule, allow_divergence=allow_divergence)
    _check_finite(u)
    u = jnp.asarray(u)
    return _scan(u, tuple(jnp.asarray(a, u.dtype) for a in _steps(len(u), order, rule)))


@jax.jit
def _scan(u, steps):
    flat = u.reshape(len(u), -1)

    def step(carry, inputs):
        H, before = carry
        frame, E, p, q = inputs
        return (E @ H + p[:, None] * before[None] + q[:, None] * frame[None], frame), None  # (3)

    start = jnp.zeros((steps[1].shape[1], flat.shape[1]), u.dtype), flat[0]
    (H, _), _ = jax.lax.scan(step, start, (flat, *steps))
    return H.reshape(-1, *u.shape[1:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Coefficients (s, ...) of the frames so far, the last frame, and how many there were."""

    coefficients: Float[Array, "s ..."]
    last: Float[Array, "..."]
    count: Int[Array, ""]
    rule: str = field(default="first_order_hold", metadata=dict(static=True))


def init(order: int, shape: tuple[int, ...], rule: str = "first_order_hold") -> State:
    """The state before the first frame, for frames of `shape` that arrive one by one (float32)."""
    _check_order(order)
    _check_rule(rule, RECURRENCES)
    return State(jnp.zeros((order, *shape)), jnp.zeros(shape), jnp.int32(0), rule)


def update(state: State, frame: Float[Array, "..."]) -> State:
    """The state after one more frame, by (3).

    The step is exact to float32. Under jit, where the count is not known, it is computed on the device in
    float32: 64 frames at order 64 end within 2e-6 of the exact coefficients, 256 within 1e-5.
    """
    frame = jnp.asarray(frame, state.last.dtype)
    if frame.shape != state.last.shape:
        raise ValueError(f"frames of this state have the shape {state.last.shape}, got {frame.shape}")
    order = len(state.coefficients)
    if isinstance(state.count, jax.core.Tracer):
        step = _step(state.rule, (state.count + 1).astype(jnp.float32), order, jnp)
    else:
        _check_finite(frame[None])
        step = _step(state.rule, int(state.count) + 1, order, np)
    return _advance(state, frame, *(jnp.asarray(part, frame.dtype) for part in step))


@jax.jit
def _advance(state, frame, E, p, q):
    before = jnp.where(state.count == 0, frame, state.last)
    outer = lambda weights, values: jnp.tensordot(weights, values, 0)
    H = jnp.tensordot(E, state.coefficients, 1) + outer(p, before) + outer(q, frame)
    return State(H, frame, state.count + 1, state.rule)


def reconstruct(H: Float[Array, "s ..."], times: Float[Array, "m"], *, extrapolate: bool = False, basis: str = "legs") -> Float[Array, "m ..."]:
    """The polynomial with coefficients H at `times`.

    Args:
      H: from `project`, or `einsum` with a `kernel`.
      times: fractions of the clip, frame k of N at k/N. Outside [0, 1] is a ValueError without
        `extrapolate`; traced times are not checked.
      basis: "legs", (2); "paper" is the one that VLFM prints, sqrt((2n + 1) / 2) P_n(t), which does not
        belong to these A and B.
    """
    _check_times(times, extrapolate)
    xp, times = _module(times)
    if basis == "legs":
        phi = _basis(times, len(H), xp)[0]
    elif basis == "paper":
        phi = _basis((times + 1) / 2, len(H), xp)[0] * float(np.sqrt(0.5))
    else:
        raise ValueError(f"unknown basis {basis!r}: use 'legs', or 'paper' for the printed one")
    return jnp.tensordot(phi, H, 1) if isinstance(H, jax.Array) or xp is jnp else np.tensordot(phi, H, 1)


def weights(
    times: Float[Array, "m"], frames: int, order: int, rule: str = "first_order_hold", *,
    extrapolate: bool = False, allow_divergence: bool = False, keep: Int[Array, "m"] | None = None,
) -> tuple[Float[Array, "m N"], Float[Array, "m N"]]:
    """The weights w(t) of the frames in the polynomial of a clip, and their slopes dw/dt per clip.

    mu = w @ u and mu' = dw @ u: no coefficients, and a cost that does not depend on the order.

    Args:
      times: fractions of the clip, as in `reconstruct`. NumPy in gives float64 NumPy, JAX gives JAX.
      frames, order, rule, allow_divergence: as in `kernel`.
      keep: uses only the first `keep` of `order` coefficients at each time, so that clips of one
        batch can have orders of their own under jit. (The first coefficients do not depend on how
        many follow, except for least_squares.)
    """
    _check_times(times, extrapolate)
    K = kernel(frames, order, rule, allow_divergence=allow_divergence)
    xp, times = _module(times)
    phi, slope = _basis(times, order, xp)
    if keep is not None:
        if rule == "least_squares":
            raise ValueError("keep needs a rule whose first coefficients do not depend on the order, and least_squares is none")
        kept = xp.arange(order)[None] < xp.asarray(keep)[:, None]
        phi, slope = phi * kept, slope * kept
    K = xp.asarray(K, times.dtype)
    return phi @ K.T, slope @ K.T


# --- the order ------------------------------------------------------------------------------------


def cross_validation(
    u: Float[Array, "N ..."], orders: tuple[int, ...], rule: str = "first_order_hold", *, generalised: bool | None = None
) -> Float[Array, "o"]:
    """Estimates of the squared error between frames, one for each order; works under jit.

    For the holds, half of the frames predict the other half, with half the order. For least_squares, frame k
    from all others, which is r_k / (1 - S_kk) with the smoother S and r = u - S u. For other rules, or with
    `generalised`, the estimate |r|^2 / N / (1 - tr S / N)^2 (Craven and Wahba 1979): a hold has no more freedom
    than it has frames and follows them at every order, so that this picks orders that are too low for it.
    """
    frames = len(u)
    flat = jnp.asarray(u).reshape(frames, -1)
    if generalised is None:
        generalised = rule not in (*HOLDS, "least_squares")
    if rule in HOLDS and not generalised:
        matrices = [_halves(frames, order, rule) for order in orders]
    else:
        matrices = [_left_out(frames, order, rule, generalised) for order in orders]
    scores = jax.lax.map(lambda matrix: jnp.mean(jnp.square(matrix @ flat)), jnp.asarray(np.stack(matrices), flat.dtype))
    return jnp.where(jnp.isfinite(scores), scores, jnp.inf)


def _left_out(frames, order, rule, generalised):
    """What the frames are multiplied with to give the errors at frames that were left out."""
    S = weights(np.arange(1, frames + 1) / frames, frames, order, rule, allow_divergence=True)[0]
    with np.errstate(all="ignore"):
        return (np.eye(frames) - S) / (1 - (np.trace(S) / frames if generalised else np.diagonal(S)[:, None]))


def _halves(frames, order, rule):
    """The same for the even frames by the odd ones, and for the odd ones by the even ones."""
    rows = []
    for first in (0, 1):
        known = np.arange(first, frames, 2)
        missing = known[:-1] + 1
        if len(known) > 1:
            few = max(1, round(order * len(known) / frames))
            w, _ = weights((np.arange(1, len(known)) + 0.5) / len(known), len(known), few, rule)
            row = -np.eye(frames)[missing]
            row[:, known] += w
            rows.append(row)
    return np.concatenate(rows)


def likely_order(frames: int) -> int:
    """1.3 N, at most 64: with as many coefficients a hold is best between the frames of most clips, unseen."""
    return min(max(round(LIKELY * frames), 1), MOST)


def select_order(u: Float[Array, "N ..."], rule: str = "first_order_hold", orders: tuple[int, ...] | None = None) -> int:
    """The order with the least error between frames by `cross_validation`, without training anything.

    For the holds the error hardly changes once the order passes the number of frames. Of all orders within a tenth
    of the least error, they get the one that is nearest to 1.3 N, where it is least for most clips.

    Args:
      u: the frames of one clip, at least 3.
      orders: those to choose from. When None up to 64, and below N for rules that are no hold.
    """
    _check_finite(u)
    orders = _orders(len(u), rule, orders)
    return int(orders[int(_choice(jnp.asarray(u), orders, rule))])


@partial(jax.jit, static_argnames=("rule", "maximum"))
def select_orders(u: Float[Array, "b N ..."], rule: str = "first_order_hold", maximum: int = MOST) -> Int[Array, "b"]:
    """`select_order` for each clip of a batch, up to `maximum`, under jit: what `weights` takes as `keep`."""
    orders = tuple(n for n in _orders(u.shape[1], rule, None) if n <= maximum)
    return jnp.asarray(orders, jnp.int32)[jax.vmap(lambda clip: _choice(clip, orders, rule))(u)]


def _choice(u, orders, rule):
    scores = cross_validation(u, orders, rule)
    if rule not in HOLDS:
        return jnp.argmin(scores)
    distance = np.abs(np.asarray(orders) - LIKELY * len(u)).astype(np.float32)
    return jnp.argmin(jnp.where(scores <= WITHIN * scores.min(), distance, jnp.inf))


def _orders(frames, rule, orders):
    if frames < 3:
        raise ValueError(f"an order is chosen by leaving frames out, which takes at least 3, got {frames}")
    orders = tuple(range(1, (MOST if rule in HOLDS else min(frames - 1, MOST)) + 1)) if orders is None else tuple(orders)
    if not orders or min(orders) < 1 or (rule == "least_squares" and max(orders) >= frames):
        raise ValueError(f"orders to choose from are 1 or more, and below {frames} frames for least_squares, got {orders}")
    return orders


# --- mistakes -------------------------------------------------------------------------------------


def _module(times):
    """What computes at these times, NumPy or JAX, and the times as its floating-point array."""
    if isinstance(times, jax.Array):
        return jnp, times if jnp.issubdtype(times.dtype, jnp.floating) else times.astype(jnp.float32)
    return np, np.asarray(times, np.float64)


def _check_order(order):
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"the order is the number of coefficients, an integer of 1 or more, got {order!r}")


def _check_rule(rule, rules):
    if rule not in rules:
        raise ValueError(f"unknown rule {rule!r}: use one of {', '.join(rules)}")


def _check_finite(u):
    if isinstance(u, jax.core.Tracer):
        return  # values are not known under jit
    bad = ~np.isfinite(np.asarray(u)).reshape(len(u), -1).all(1)
    if bad.any():
        raise ValueError(f"frames {np.flatnonzero(bad).tolist()} hold values that are not finite: mend or drop them")


def _check_times(times, extrapolate):
    if isinstance(times, jax.core.Tracer) or extrapolate:
        return
    low, high = float(np.min(times)), float(np.max(times))
    if not (0 <= low and high <= 1):
        raise ValueError(f"times are fractions of the clip, in [0, 1], and span [{low:g}, {high:g}]: divide by its length, or pass extrapolate=True")
