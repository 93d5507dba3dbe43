"""A solver of dx/dt = field(t, x) with diffrax, which counts the evaluations of the field (NFE).

`solve` integrates; `Solver` holds its settings as a hashable value, which can be a static argument of a compiled
program. `jvflow.flow.runge_kutta` lists the methods and their NFE. A failed solve does not raise, because it may run
inside a compiled program: it returns `ok`, and `raise_if_failed` raises outside of the program.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jvflow.flow.field import as_partial
from jvflow.flow.runge_kutta import FIXED_ONLY, METHODS
from jvflow.flow.solve_error import SolveError
from jvflow.flow.times import FixedTimes, PaddedTimes, step_times
from jvflow.flow.torchode import CONTROLLERS, FIRST_STEP_NFE, Torchode, check_torchode

__all__ = ["FIXED_ONLY", "METHODS", "Solution", "SolveError", "Solver", "as_argument", "raise_if_failed", "solve"]

SAMPLES = "samples"  # the mapped axis of a per-sample solve
FIRST_STEP = 0.1
"""The first step of an adaptive solve, as a fraction of the interval."""


class Solution(NamedTuple):
    """The result of `solve`.

    Attributes:
      x: the state at t1, (b, ...); with `times` (m,) the states at these times, (m, b, ...).
      nfe: evaluations of the field that each sample needed. With `per_sample=False` the batch
        advances in common steps, and each entry is the count of the whole batch.
      steps: attempted steps, including rejected ones.
      ok: True if the solve reached its end within `max_steps` and all outputs are finite.
      t_end: the time at which the solve ended: t1 unless it hit `max_steps`. With `times`, the last of
        them that the solve reached, or t0 if none. NaN if an output that it reached is not finite.
    """

    x: Float[Array, "..."]
    nfe: Int[Array, "b"]
    steps: Int[Array, "b"]
    ok: Bool[Array, "b"]
    t_end: Float[Array, "b"]


def raise_if_failed(solution: Solution, *, what: str) -> None:
    """Raises SolveError if any sample of a solve failed; `what` is the subject of the message, such as "frame 3".

    Does nothing under jit, where values are not known.
    """
    if not isinstance(solution.ok, Tracer) and not np.all(solution.ok):
        raise SolveError.of(solution, what)


def make_method(name: str) -> diffrax.AbstractSolver:
    """Returns the diffrax solver with a name from `METHODS`; raises ValueError for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]()


def is_fsal(method: diffrax.AbstractSolver) -> bool:
    """Returns True if the last stage of a step is the first stage of the next one ("first same as last")."""
    tableau = getattr(method, "tableau", None)  # Euler has none
    return tableau is not None and tableau.fsal


def evaluations(name: str, steps: Any) -> Any:
    """Returns the number of evaluations of the field in `steps` attempted steps of a method."""
    tableau = getattr(make_method(name), "tableau", None)
    if tableau is None:  # Euler
        return steps
    return steps * (tableau.num_stages - 1) + 1 if tableau.fsal else steps * tableau.num_stages


def _check_settings(method, rtol, atol, steps, per_sample, controller):
    make_method(method)
    if controller not in CONTROLLERS:
        raise ValueError(f"unknown controller {controller!r}: use one of {', '.join(CONTROLLERS)}")
    if controller == "torchode":
        check_torchode(method, steps, per_sample)
    if steps is not None and (rtol is not None or atol is not None):
        raise ValueError(f"give tolerances (rtol={rtol}, atol={atol}) or steps={steps}, not both")
    if steps is None and method in FIXED_ONLY:
        raise ValueError(f"{method} has no error estimate here: give steps=, or an adaptive method such as heun")


def _check_output_times(times, t0, t1):
    if isinstance(times, Tracer):
        return  # values are not known under jit
    grid = np.asarray(times, float)
    low, high, backwards = min(t0, t1), max(t0, t1), np.diff(grid) * np.sign(t1 - t0) < 0
    if grid.ndim != 1 or not len(grid) or grid.min() < low or grid.max() > high or backwards.any():
        raise ValueError(
            f"times must lie in [{low}, {high}] in the order of the solve from {t0} to {t1}, got {grid.tolist()}"
        )


def solve(
    field: Callable,
    x: Float[Array | np.ndarray, "b ..."],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    method: str = "heun",
    rtol: float | Float[Array, ""] | None = None,
    atol: float | Float[Array, ""] | None = None,
    steps: int | Sequence[float] | Float[Array, "n"] | None = None,
    times: Sequence[float] | Float[Array | np.ndarray, "m"] | None = None,
    per_sample: bool = True,
    max_steps: int = 4096,
    controller: str = "diffrax",
) -> Solution:
    """Integrates dx/dt = field(t, x) from t0 to t1; t1 < t0 runs backwards.

    Args:
      field: `(t (b,), x (b, ...)) -> dx/dt (b, ...)`, always batched.
      x: the state at t0. Half precision is promoted to float32.
      t0, t1: the interval, static numbers.
      method: a name of `runge_kutta.METHODS`.
      rtol, atol: tolerances of an adaptive solve; 1e-2 both when neither they nor `steps` are given (Bi-flow,
        section 3.1). The error of a step is the RMS over the state, scaled by atol + rtol max(|x|, |x'|).
      steps: fixed steps: their number, or the times from t0 to t1 (a jax array is not checked: see `as_argument`).
      times: times of the states to return, in the order of the solve, within [t0, t1]. The method's interpolant
        between steps gives these states, at no evaluation and with its own accuracy (first order for euler).
      per_sample: gives each sample its own step sizes, so that its result does not depend on its batch (up to
        rounding); the network still runs on the whole batch until the slowest sample is done. False uses one
        common step size, as the authors of Bi-flow do. Reverse-mode differentiation needs False, forward mode True.
      max_steps: bound on the steps of an adaptive solve; `ok` is False for samples that hit it.
      controller: "diffrax", or "torchode", the step sizes and the NFE of the Bi-flow paper (`jvflow.flow.torchode`).

    Returns:
      A `Solution`. A failed solve does not raise, see `raise_if_failed`.

    Raises:
      ValueError: for an unknown method, tolerances together with steps, an adaptive solve with a
        method that has no error estimate, or times outside the interval or out of order.
    """
    _check_settings(method, rtol, atol, steps, per_sample, controller)
    stepper = make_method(method)
    if t0 == t1:
        raise ValueError(f"t0 and t1 are both {t0}: nothing to solve")

    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if steps is None:
        rtol = 1e-2 if rtol is None else rtol
        atol = 1e-2 if atol is None else atol
        stepsize = diffrax.PIDController(rtol=rtol, atol=atol, safety=0.9, factormin=0.2, factormax=10.0)
        first, extra = FIRST_STEP * (t1 - t0), 0
        if controller == "torchode":
            stepsize, first, extra = Torchode(rtol, atol), None, FIRST_STEP_NFE
    else:
        kind, grid = (PaddedTimes, steps) if isinstance(steps, Array) else (FixedTimes, step_times(steps, t0, t1))
        stepsize = kind(ts=jnp.asarray(grid, x.dtype))
        first, max_steps, extra = None, len(grid), 0
    if times is None:
        saveat = diffrax.SaveAt(t1=True)
    else:
        _check_output_times(times, t0, t1)
        saveat = diffrax.SaveAt(ts=jnp.asarray(times, x.dtype))

    def common(t, x, _=None):  # x (b, ...) advances in common steps
        return jnp.asarray(field(jnp.full(len(x), t, x.dtype), x), x.dtype)

    def own(t, x, _=None):  # x (...) has steps of its own; the field still sees the whole batch
        batch = [jax.lax.all_gather(a, SAMPLES) for a in (jnp.asarray(t, x.dtype), x)]
        return jnp.asarray(field(*batch), x.dtype)[jax.lax.axis_index(SAMPLES)]

    def integrate(x) -> tuple:
        vector_field = own if per_sample else common
        # By default, diffrax re-evaluates the first stage of an FSAL method until a step is accepted,
        # for all samples while any of them waits for this. Passing the stage makes the count exact.
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            stepper,
            solver_state=(jnp.array(False), vector_field(t0, x)) if is_fsal(stepper) else None,
            t0=t0,
            t1=t1,
            dt0=first,
            y0=x,
            saveat=saveat,
            stepsize_controller=stepsize,
            max_steps=max_steps,
            # a per-sample solve has no reverse mode; diffrax's plain loop gives it forward mode
            adjoint=diffrax.ForwardMode() if per_sample else diffrax.RecursiveCheckpointAdjoint(),
            throw=False,
        )
        return sol.ys, sol.ts, sol.stats["num_steps"], sol.result == diffrax.RESULTS.successful

    if per_sample:
        states, ts, attempted, ended = jax.vmap(integrate, out_axes=(1, 1, 0, 0), axis_name=SAMPLES)(x)
    else:
        states, ts, attempted, ended = integrate(x)
        ts = jnp.broadcast_to(ts[:, None], (len(ts), len(x)))
        attempted, ended = (jnp.broadcast_to(a, (len(x),)) for a in (attempted, ended))
    reached = jnp.isfinite(ts)  # a solve that stopped early returns inf for later outputs and for their times
    finite = jnp.all(jnp.isfinite(states.reshape(*ts.shape, -1)).all(-1) | ~reached, axis=0)
    last = (jnp.max if t1 > t0 else jnp.min)(jnp.where(reached, ts, t0), axis=0)
    return Solution(
        states[0] if times is None else states,
        evaluations(method, attempted) + extra,
        attempted,
        ended & finite,
        jnp.where(finite, last, jnp.nan),
    )


@dataclass(frozen=True)
class Solver:
    """The settings of `solve` as a hashable value. The fields are arguments of `solve`, and calling it solves."""

    method: str = "heun"
    rtol: float | None = None
    atol: float | None = None
    steps: int | tuple[float, ...] | None = None
    per_sample: bool = True
    max_steps: int = 4096
    controller: str = "diffrax"

    def __post_init__(self):
        _check_settings(self.method, self.rtol, self.atol, self.steps, self.per_sample, self.controller)

    def __call__(self, field: Callable, x: Array, t0: float = 0.0, t1: float = 1.0, times=None, **numbers) -> Solution:
        return solve(field, x, t0, t1, times=times, **vars(self) | numbers)


def as_argument(solver: Callable, x: Array, t0: float = 0.0, t1: float = 1.0) -> jax.tree_util.Partial:
    """Returns a solver from x and t0 to t1 as an argument of a program, which serves other tolerances and steps too.

    Times of fixed steps are padded to 8, 16, 32, ... steps: one program serves 1 to 8 steps, another 9 to 16. Inside a
    traced program all of them stay constants.
    """
    if not isinstance(solver, Solver) or isinstance(x, Tracer):
        return as_partial(solver)
    if solver.steps is None:
        return jax.tree_util.Partial(replace(solver, rtol=None, atol=None), rtol=solver.rtol, atol=solver.atol)
    grid = step_times(solver.steps, t0, t1)
    room = max(8, 2 ** (len(grid) - 2).bit_length()) + 1
    return jax.tree_util.Partial(
        replace(solver, steps=1), steps=jnp.asarray(np.pad(grid, (0, room - len(grid)), "edge"))
    )
