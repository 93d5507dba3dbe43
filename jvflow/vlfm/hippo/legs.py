"""HiPPO-LegS: the history of a signal as the coefficients of one polynomial (Gu et al. 2020; VLFM, section 4.1).

    c'(t) = -(1/t) A c(t) + (1/t) B f(t)                                                            (1)
    f(x) ~ sum_n c_n phi_n(x / t) on [0, t],    phi_n(y) = sqrt(2n + 1) P_n(2y - 1)                   (2)

A[n, k] = sqrt((2n + 1)(2k + 1)) below the diagonal, n + 1 on it, 0 above; B[n] = sqrt(2n + 1); n from 0.
The frames of a clip are u_k = f(k), k = 1 .. N. Every rule steps from k - 1 to k by

    c_k = E_k c_(k-1) + p_k u_(k-1) + q_k u_k                                                        (3)

In log t, (1) has constant coefficients, so a step can be exact for an input that is constant or linear between frames.
With r = (k - 1) / k, E_k is exp(A log r), the projection of the old polynomial onto the longer interval,

    E_k[n, m] = r int_0^1 phi_n(r y) phi_m(y) dy                                                 (4)
    p_k[n] = 1/k int_0^1 (1 - z) phi_n(r + z/k) dz,   q_k[n] = 1/k int_0^1 z phi_n(r + z/k) dz   (5)   first-order hold
    p_k = 0,                                          q_k[n] = 1/k int_0^1 phi_n(r + z/k) dz     (6)   zero-order hold

Gauss-Legendre quadrature computes these integrals, and is exact here. The other rules approximate (1):

    forward_euler    c_k = (I - A/k) c_(k-1) + B/k u_k         the paper's rule, Definition D.3; diverges   (7)
    backward_euler   c_k = (I + A/k)^-1 (c_(k-1) + B/k u_k)                                              (8)
    bilinear         c_k = (I + A/2k)^-1 ((I - A/2k) c_(k-1) + B/k u_k)    the rule of HiPPO's code      (9)
    least_squares    H = Phi^+ u with Phi[k, n] = phi_n(k/N), no recurrence   the paper's Lemma 5.2      (10)

All rules are linear in the frames: H = K^T u with a kernel K (N, s), and the polynomial and its slope at
times t are sums of frames with the weights w(t) = K phi(t) and K phi'(t). `project` scans (3), `kernel` and
`weights` serve whole clips; the three agree.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Num

HOLDS = ("first_order_hold", "zero_order_hold")
RECURRENCES = (*HOLDS, "forward_euler", "backward_euler", "bilinear")
RULES = (*RECURRENCES, "least_squares")
MAX_ORDER = 64
"""The largest order that `default_order` and `select_order` return."""
ORDER_PER_FRAME = 1.3
"""The ratio of order to frames at which a hold has the least error between the frames of most clips."""
MAX_KERNEL_ENTRY = 1e3  # kernels have larger entries only where a rule diverges


def default_order(frames: int) -> int:
    """Returns the default order 1.3 N, at most 64, see `ORDER_PER_FRAME`."""
    return min(max(round(ORDER_PER_FRAME * frames), 1), MAX_ORDER)


def transitions(order: int) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s"]]:
    """Returns A and B of (1) in float64; the eigenvalues of A are 1 .. s (the public code stores -A)."""
    check_order(order)
    root = np.sqrt(2 * np.arange(order) + 1.0)
    return np.tril(np.outer(root, root), -1) + np.diag(np.arange(order) + 1.0), root


def legendre_basis(y, order: int, xp):
    """Returns phi (..., s) of (2) and its slope at y, by the three-term recurrences of Legendre's polynomials."""
    x = 2 * y - 1
    values, slopes = [xp.ones_like(x), x], [xp.zeros_like(x), xp.ones_like(x)]
    for n in range(1, order - 1):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
        slopes.append(slopes[n - 1] + (2 * n + 1) * values[n])
    scales = np.sqrt(2 * np.arange(order) + 1.0)
    stack = lambda parts, factor: xp.stack([float(factor * scale) * part for scale, part in zip(scales, parts)], -1)
    return stack(values[:order], 1), stack(slopes[:order], 2)


def basis_values(times, order: int, basis: str, xp):
    """Returns the values and slopes of (2) at fractions of the clip, or of sqrt((2n + 1) / 2) P_n(times), "paper"."""
    if basis not in ("legs", "paper"):
        raise ValueError(f"unknown basis {basis!r}: use 'legs', or 'paper' for the printed one")
    if basis == "legs":
        return legendre_basis(times, order, xp)
    values, slopes = legendre_basis((times + 1) / 2, order, xp)
    return values * float(np.sqrt(0.5)), slopes * float(np.sqrt(0.125))


@lru_cache
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nodes and weights of Gauss-Legendre quadrature on [0, 1], exact up to degree 2 count - 1."""
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, w / 2


def step(rule: str, k, order: int, xp) -> tuple:
    """Returns E (s, s), p (s,) and q (s,) of the step (3) to frame k.

    Args:
      rule, order: as in `kernel`.
      k: the number of the frame, from 1; may be traced.
      xp: NumPy (float64) or jax.numpy (float32).
    """
    if rule in HOLDS:
        y, w = (xp.asarray(a, xp.float64 if xp is np else xp.float32) for a in _nodes(order + 1))
        before = (k - 1) / k
        here = legendre_basis(y, order, xp)[0] * w[:, None]
        longer = before * xp.einsum("yn,ym->nm", legendre_basis(before * y, order, xp)[0], here)  # (4)
        new = legendre_basis(before + y / k, order, xp)[0] / k
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
def clip_steps(frames: int, order: int, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns all steps of a clip in float64: E (N, s, s), p and q (N, s). Frame 1 serves as frame 0."""
    E, p, q = (np.stack(parts) for parts in zip(*(step(rule, k, order, np) for k in range(1, frames + 1))))
    q[0] += p[0]
    p[0] = 0
    return E, p, q


@lru_cache(maxsize=256)
def _kernel(frames: int, order: int, rule: str) -> np.ndarray:
    if rule == "least_squares":
        return np.linalg.pinv(legendre_basis(np.arange(1, frames + 1) / frames, order, np)[0]).T  # (10)
    H = np.zeros((order, frames))
    with np.errstate(over="ignore", invalid="ignore"):
        for k, (E, p, q) in enumerate(zip(*clip_steps(frames, order, rule))):
            H = E @ H
            H[:, k - 1] += p if k else 0.0
            H[:, k] += q
    return H.T


def kernel(
    frames: int, order: int, rule: str = "first_order_hold", *, allow_divergence: bool = False
) -> Float[np.ndarray, "N s"]:
    """Returns K, float64, which gives the coefficients of a clip in one product: H = einsum("n...,ns->...s", u, K).

    Args:
      frames: number of frames of the clip, N, at least 2.
      order: number of coefficients, s.
      rule: see the top of the file.
      allow_divergence: also returns kernels with entries above 1000, which otherwise raise ValueError.
    """
    check_order(order)
    check_rule(rule, RULES)
    if frames < 2:
        raise ValueError(f"a clip must have at least 2 frames, got {frames}: one frame shows no motion")
    K = _kernel(frames, order, rule)
    most = np.abs(K).max()
    if not most <= MAX_KERNEL_ENTRY and not allow_divergence:
        raise ValueError(
            f"{rule} diverges at order {order} with {frames} frames: a frame enters a coefficient with a weight of "
            f"{most:.2g}. Use first_order_hold, which is stable at every order, "
            f"{'a lower order' if order > 1 else 'more frames'}, or allow_divergence=True"
        )
    return K.copy()


def array_module(times):
    """Returns the module of an array of times, NumPy or jax.numpy, and the times in floating point."""
    if isinstance(times, jax.Array):
        return jnp, times if jnp.issubdtype(times.dtype, jnp.floating) else times.astype(jnp.float32)
    return np, np.asarray(times, np.float64)


def weights(
    times: Num[Array | np.ndarray, "m"],
    frames: int,
    order: int,
    rule: str = "first_order_hold",
    *,
    extrapolate: bool = False,
    allow_divergence: bool = False,
    basis: str = "legs",
    orders: Int[Array | np.ndarray, "m"] | None = None,
) -> tuple[Float[Array | np.ndarray, "m N"], Float[Array | np.ndarray, "m N"]]:
    """Returns the weights w(t) of the frames in the polynomial of a clip, and their slopes dw/dt per clip.

    mu = w @ u and mu' = dw @ u need no coefficients, and their cost does not depend on the order.

    Args:
      times: fractions of the clip, as in `reconstruct`. NumPy times give float64 NumPy weights, JAX times JAX weights.
      frames, order, rule, extrapolate, allow_divergence, basis: as in `kernel` and `reconstruct`.
      orders: a separate order for each time, at most `order`, so that the clips of a batch can differ under jit.
    """
    check_times(times, extrapolate)
    K = kernel(frames, order, rule, allow_divergence=allow_divergence)
    xp, times = array_module(times)
    phi, slope = basis_values(times, order, basis, xp)
    if orders is not None:
        if rule == "least_squares":
            raise ValueError(
                "least_squares cannot take orders=, because its first coefficients depend on the order: use a hold"
            )
        kept = xp.arange(order)[None] < xp.asarray(orders)[:, None]
        phi, slope = phi * kept, slope * kept
    K = xp.asarray(K, times.dtype)
    return phi @ K.T, slope @ K.T


def check_order(order):
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"the order is the number of coefficients, an integer of 1 or more, got {order!r}")


def check_rule(rule, rules):
    if rule not in rules:
        raise ValueError(f"unknown rule {rule!r}: use one of {', '.join(rules)}")


def check_times(times, extrapolate):
    if isinstance(times, Tracer) or extrapolate:
        return
    low, high = float(np.min(times)), float(np.max(times))
    if not (0 <= low and high <= 1):
        raise ValueError(
            f"times must be fractions of the clip in [0, 1], and span [{low:g}, {high:g}]: divide by its length, "
            "or pass extrapolate=True"
        )
