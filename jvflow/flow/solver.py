"""Solving dx/dt = field(t, x) with diffrax, and counting what it cost.

One function, `solve`; `Solver` is its settings as a value that can be compiled against.

    method      order   evaluations of the field (NFE)      step size
    euler       1       n                                   fixed
    midpoint    2       2 n                                 fixed or adaptive
    heun        2       2 n                                 fixed or adaptive
    rf_solver   2       2 n                                 fixed; RF-Solver (Wang et al., arXiv 2411.04746): its second
                        order expansion with a difference of two evaluations is the midpoint rule,
                        x <- x + D v(x + D/2 v(x, t), t + D/2)
    rk4         4       4 n                                 fixed
    bosh3       3       3 n + 1                             fixed or adaptive
    tsit5       5       6 n + 1                             fixed or adaptive
    dopri5      5       6 n + 1                             fixed or adaptive
    ...         the other explicit Runge-Kutta methods of diffrax, by their name in lower case

n counts the steps that were tried: a rejected step costs as much as an accepted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

SAMPLES = "samples"  # the mapped axis of a per-sample solve
FIRST_STEP = 0.1
"""First step of an adaptive solve, as a part of the interval."""


class RK4(diffrax.AbstractERK):
    """The classical Runge-Kutta method of order 4. It has no error estimate: fixed steps only."""

    tableau = diffrax.ButcherTableau(
        c=np.array([0.5, 0.5, 1.0]),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.zeros(4),
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
    )
    interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        del terms
        return 4


METHODS = {
    "euler": diffrax.Euler,
    "heun": diffrax.Heun,
    "midpoint": diffrax.Midpoint,
    "ralston": diffrax.Ralston,
    "rf_solver": diffrax.Midpoint,
    "rk4": RK4,
    "bosh3": diffrax.Bosh3,
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
}
FIXED_ONLY = ("euler", "rk4", "rf_solver")


class Solution(NamedTuple):
    """What `solve` returns.

    Attributes:
      x: the state at t1, (b, ...); with `times` (m,) the states there, (m, b, ...).
      nfe: evaluations of the field that each sample needed. With `per_sample=False` the batch
        advances in common steps, and each entry is the count of the whole batch.
      steps: steps tried, rejected ones included.
      ok: whether the end was reached with finite values within `max_steps`.
    """

    x: Float[Array, "..."]
    nfe: Int[Array, "b"]
    steps: Int[Array, "b"]
    ok: Bool[Array, "b"]


def evaluations(method: str, steps):
    """Evaluations of the field in `steps` tried steps of a method (diffrax's tableau decides)."""
    tableau = getattr(_solver(method), "tableau", None)
    if tableau is None:  # Euler
        return steps
    return steps * (tableau.num_stages - 1) + 1 if tableau.fsal else steps * tableau.num_stages


def _solver(method: str) -> diffrax.AbstractSolver:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    return METHODS[method]()


def _check_settings(method, rtol, atol, steps):
    _solver(method)
    if steps is not None and (rtol is not None or atol is not None):
        raise ValueError(f"give tolerances (rtol={rtol}, atol={atol}) or steps={steps}, not both")
    if steps is None and method in FIXED_ONLY:
        raise ValueError(f"{method} has no error estimate here: give steps=, or an adaptive method such as heun")


def _grid(steps, t0, t1) -> np.ndarray:
    """The times of a fixed-step solve, from t0 to t1."""
    if np.ndim(steps) == 0:
        if steps < 1 or steps != int(steps):
            raise ValueError(f"steps must be a positive whole number or a sequence of times, got {steps}")
        return np.linspace(t0, t1, int(steps) + 1)
    grid = np.asarray(steps, float)
    direction = np.sign(t1 - t0)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] != t0 or grid[-1] != t1 or np.any(np.diff(grid) * direction <= 0):
        raise ValueError(f"a sequence of steps must run strictly from t0 = {t0} to t1 = {t1}, got {grid.tolist()}")
    return grid


def solve(
    field: Callable,
    x: Float[Array, "b ..."],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    method: str = "heun",
    rtol: float | None = None,
    atol: float | None = None,
    steps: int | Sequence[float] | None = None,
    times: Sequence[float] | None = None,
    per_sample: bool = True,
    max_steps: int = 4096,
) -> Solution:
    """Integrates dx/dt = field(t, x) from t0 to t1; t1 < t0 runs backwards.

    Args:
      field: `(t (b,), x (b, ...)) -> dx/dt (b, ...)`, always batched.
      x: the state at t0. Half precision is promoted to float32.
      t0, t1: the interval, static numbers.
      method: a name of `METHODS`.
      rtol, atol: tolerances of an adaptive solve; 1e-2 both when neither they nor `steps` are
        given (Bi-flow, section 3.1). The error of a step is the RMS over the state, scaled by
        atol + rtol max(|x|, |x'|).
      steps: fixed steps: how many, or the sequence of times from t0 to t1 (any spacing).
      times: where to give the state, in the order of the solve, within [t0, t1]. Read from the
        method's own interpolant between steps: costs no evaluation, and is as accurate as that
        interpolant (first order for euler).
      per_sample: each sample has its own step sizes, so that no sample's result depends on its
        batch (up to rounding: where tsit5's error estimate is nothing else, that decides a step);
        the network still runs on the whole batch until the slowest sample is done. False:
        one common step size, as the authors of Bi-flow count, and the one that reverse-mode
        differentiation takes.
      max_steps: bound on the steps of an adaptive solve; `ok` is False where it was hit.

    Returns:
      A `Solution`.

    Raises:
      ValueError: for an unknown method, tolerances together with steps, an adaptive solve with a
        method that has no error estimate, or times outside the interval or out of order.
    """
    _check_settings(method, rtol, atol, steps)
    solver, adaptive = _solver(method), steps is None
    if t0 == t1:
        raise ValueError(f"t0 and t1 are both {t0}: nothing to solve")

    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if adaptive:
        rtol = 1e-2 if rtol is None else rtol
        atol = 1e-2 if atol is None else atol
        controller = diffrax.PIDController(rtol=rtol, atol=atol, safety=0.9, factormin=0.2, factormax=10.0)
        first = FIRST_STEP * (t1 - t0)
    else:
        controller = diffrax.StepTo(ts=jnp.asarray(_grid(steps, t0, t1), x.dtype))
        first, max_steps = None, len(_grid(steps, t0, t1))
    if times is None:
        saveat = diffrax.SaveAt(t1=True)
    else:
        _check_times(times, t0, t1)
        saveat = diffrax.SaveAt(ts=jnp.asarray(times, x.dtype))

    def common(t, x, _=None):  # x (b, ...) advances in common steps
        return jnp.asarray(field(jnp.full(len(x), t, x.dtype), x), x.dtype)

    def own(t, x, _=None):  # x (...) has steps of its own; the field still sees the whole batch
        together = [jax.lax.all_gather(a, SAMPLES) for a in (jnp.asarray(t, x.dtype), x)]
        return jnp.asarray(field(*together), x.dtype)[jax.lax.axis_index(SAMPLES)]

    def integrate(x):
        vector_field = own if per_sample else common
        # A first-same-as-last method would evaluate its first stage anew at each step until one is
        # accepted, and for all samples while any of them is there. Given it, the count is exact.
        reuses = getattr(solver, "tableau", None) is not None and solver.tableau.fsal
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            solver,
            solver_state=(jnp.array(False), vector_field(t0, x)) if reuses else None,
            t0=t0,
            t1=t1,
            dt0=first,
            y0=x,
            saveat=saveat,
            stepsize_controller=controller,
            max_steps=max_steps,
            throw=False,
        )
        ok = (sol.result == diffrax.RESULTS.successful) & jnp.all(jnp.isfinite(sol.ys[-1]))
        return sol.ys[0] if times is None else sol.ys, sol.stats["num_steps"], ok

    if per_sample:
        y, tried, ok = jax.vmap(integrate, out_axes=(0 if times is None else 1, 0, 0), axis_name=SAMPLES)(x)
    else:
        y, tried, ok = integrate(x)
        tried, ok = (jnp.broadcast_to(a, (len(x),)) for a in (tried, ok))
    return Solution(y, evaluations(method, tried), tried, ok)


def _check_times(times, t0, t1):
    if isinstance(times, jax.core.Tracer):
        return  # values are not known under jit
    grid = np.asarray(times, float)
    low, high, direction = min(t0, t1), max(t0, t1), np.sign(t1 - t0)
    if grid.ndim != 1 or not len(grid) or grid.min() < low or grid.max() > high or np.any(np.diff(grid) * direction < 0):
        raise ValueError(f"times must lie in [{low}, {high}] in the order of the solve from {t0} to {t1}, got {grid.tolist()}")


@dataclass(frozen=True)
class Solver:
    """Settings of `solve` as a hashable value; calling it solves. Fields as the arguments of `solve`."""

    method: str = "heun"
    rtol: float | None = None
    atol: float | None = None
    steps: int | tuple[float, ...] | None = None
    per_sample: bool = True
    max_steps: int = 4096

    def __post_init__(self):
        _check_settings(self.method, self.rtol, self.atol, self.steps)

    def __call__(self, field: Callable, x: Array, t0: float = 0.0, t1: float = 1.0, times=None) -> Solution:
        return solve(
            field, x, t0, t1, method=self.method, rtol=self.rtol, atol=self.atol, steps=self.steps,
            times=times, per_sample=self.per_sample, max_steps=self.max_steps,
        )
