"""UniPC for flows (Zhao et al., arXiv 2302.04867): a multistep predictor and corrector, one evaluation per step.

Wan uses it. On the linear path x(t) = t x1 + (1 - t) x0, with sigma = 1 - t, a velocity v predicts the end
m = x + sigma v. With lambda = log(t / sigma), h = lambda_i+1 - lambda_i and r_k = (lambda_i-k - lambda_i) / h,

    x_i+1 = sigma_i+1 / sigma_i x_i - t_i+1 (e^-h - 1) (m_i + sum_k rho_k (m_i-k - m_i) / r_k)     (1)   predictor
    (1) with one more term, rho (m_i+1 - m_i), once m_i+1 is known                                (2)   corrector

The rho make (1) and (2) exact for polynomials of lambda (section 3.2, with B(h) = e^-h - 1; at orders 1 and 2 the
authors set the last rho to 1/2). The order of a step is at most 1 plus the number of steps before it, and at most the
number of remaining steps including itself: so the last step ends at m. The network is evaluated at the predicted x,
not at the corrected one. All coefficients depend on the grid alone and are computed on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jvflow.flow.solver import Solution
from jvflow.flow.times import check_steps, check_warp, stretch, warp

FIRST_TIME = 1e-6
"""The first time of `grid`; at pure noise, t = 0, lambda is not finite."""


def grid(steps: int, factor: float = 1.0, sigma_min: float = 1e-3, terminal: float | None = None) -> tuple[float, ...]:
    """Returns the steps + 1 times of the public scheduler for flows.

    sigma falls linearly from 1 towards `sigma_min`, is warped by `factor`, and jumps to 0 in the last step, which
    begins at `terminal` if this is not None. The first lambda is sensitive to rounding, so the result is rounded to
    float32 as in the public scheduler.
    """
    check_steps(steps)
    check_warp(factor)
    sigma = warp(np.linspace(1, sigma_min, int(steps) + 1)[:-1], factor)
    if terminal is not None:
        sigma = 1 - stretch(1 - sigma, terminal)
    sigma[0] -= FIRST_TIME
    return tuple(float(t) for t in np.float32(1) - np.append(sigma, 0).astype(np.float32))


@dataclass(frozen=True)
class UniPC:
    """A solver from t = 0 to 1, called like a `jvflow.flow.solver.Solver`.

    Attributes:
      steps: the times of the solve, strictly increasing from above 0 to 1, see `grid`.
      order: order of predictor and corrector.
    """

    steps: tuple[float, ...]
    order: int = 2
    method, rtol, atol, per_sample, controller = "unipc", None, None, False, None

    def __post_init__(self):
        times = np.asarray(self.steps)
        if times.ndim != 1 or len(times) < 2 or not times[0] > 0 or times[-1] != 1 or np.any(np.diff(times) <= 0):
            raise ValueError(f"steps must run strictly from above 0 to 1, got {self.steps}: use jvflow.flow.unipc.grid")
        if self.order < 1:
            raise ValueError(f"the order of UniPC must be 1 or more, got {self.order}")

    def __call__(
        self, field: Callable, x: Float[Array | np.ndarray, "b ..."], t0: float = 0.0, t1: float = 1.0
    ) -> Solution:
        """Solves dx/dt = `field (t (b,), x (b, ...))`. Takes x, the state at 0, as the state at `steps[0]`."""
        if (t0, t1) != (0.0, 1.0):
            raise ValueError(f"UniPC solves from 0 to 1, got {t0} to {t1}: use rf_solver for other intervals")
        x = jnp.asarray(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        times = np.asarray(self.steps)
        tables = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), (times[:-1], *coefficients(times, self.order)))

        def step(carry, inputs):
            # the predicted x; the corrected x one step before; m of the `order` steps before, latest first
            predicted, before, ends = carry
            t, correct, predict = inputs
            end = predicted + (1 - t) * jnp.asarray(field(jnp.full(len(x), t, x.dtype), predicted), x.dtype)
            known = jnp.stack([predicted, before, end, *ends])
            corrected = jnp.tensordot(correct, known, 1)
            known = jnp.stack([corrected, end, *ends])
            return (jnp.tensordot(predict, known, 1), corrected, jnp.stack([end, *ends])[: self.order]), None

        start = x, jnp.zeros_like(x), jnp.zeros((self.order, *x.shape), x.dtype)
        (end, _, _), _ = jax.lax.scan(step, start, tables)
        count = jnp.full(len(x), len(self.steps) - 1)
        finite = jnp.isfinite(end.reshape(len(x), -1)).all(1)
        return Solution(end, count, count, finite, jnp.where(finite, jnp.ones((), x.dtype), jnp.nan))


def coefficients(
    times: Float[np.ndarray, "n"], order: int
) -> tuple[Float[np.ndarray, "steps c"], Float[np.ndarray, "steps p"]]:
    """Returns the coefficients of each step, one row per step.

    Returns:
      correct: coefficients of the corrector (2), for (x predicted, x one step before, m, m one step before, ...).
      predict: coefficients of the predictor (1), for (x corrected, m, m one step before, ...).
    """
    steps = len(times) - 1
    with np.errstate(divide="ignore"):
        log = np.log(times) - np.log1p(-times)
    correct, predict = np.zeros((steps, 3 + order)), np.zeros((steps, 2 + order))
    orders = [min(order, i + 1, steps - i) for i in range(steps)]
    for i, used in enumerate(orders):
        scale, weights, _ = _step(times, log, i, used)
        predict[i, 0] = scale
        predict[i, 1 : 1 + used] = weights
        if i == 0:
            correct[0, 0] = 1.0
        else:
            scale, weights, last = _step(times, log, i - 1, orders[i - 1], corrector=True)
            correct[i, 1] = scale
            correct[i, 2] = last
            correct[i, 3 : 3 + orders[i - 1]] = weights
    return correct, predict


def _step(times, log, i: int, order: int, corrector: bool = False) -> tuple:
    """Returns the factors of x_i, of m_i, m_i-1 ..., and of m_i+1 in step i of (1) or (2)."""
    h = log[i + 1] - log[i]
    whole = -times[i + 1] * np.expm1(-h)
    scale = (1 - times[i + 1]) / (1 - times[i])
    weights = np.zeros(order)
    weights[0] = whole
    r = np.array([(log[i - k] - log[i]) / h for k in range(1, order)])
    rho = _rho(h, np.append(r, 1.0), corrector)
    for k in range(1, order):
        weights[k] += whole * rho[k - 1] / r[k - 1]
        weights[0] -= whole * rho[k - 1] / r[k - 1]
    last = whole * rho[-1] if corrector else 0.0
    weights[0] -= last
    return scale, weights, last


def _rho(h, r: Float[np.ndarray, "n"], corrector: bool) -> Float[np.ndarray, "m"]:
    """Solves for the rho of the differences at r. Only the corrector knows m at the last entry of r, the step's end."""
    unknowns = len(r) if corrector else len(r) - 1
    if not unknowns:
        return np.zeros(0)
    if unknowns == 1:
        return np.full(1, 0.5)
    phi, right = np.expm1(-h) / -h - 1, []
    for n in range(1, unknowns + 1):
        right.append(phi * factorial(n) / np.expm1(-h))
        phi = phi / -h - 1 / factorial(n + 1)
    return np.linalg.solve(np.stack([r[:unknowns] ** n for n in range(unknowns)]), np.array(right))
