import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jvflow.flow import solver
from jvflow.flow.solver import FIXED_ONLY, METHODS, SolveError, Solver, raise_if_failed
from jvflow.flow.unipc import UniPC, grid

pytestmark = pytest.mark.slow

ADAPTIVE = [m for m in METHODS if m not in FIXED_ONLY]


def solve(field, x, *interval, **options):
    """Solves in one program, which compiles faster than its operations one by one."""
    return jax.jit(lambda x: solver.solve(field, x, *interval, **options))(x)


def oscillator(t, x):
    """Returns the velocity of x'' = -(1 + t) x as a first-order system: smooth, and explicit in t."""
    return jnp.stack([x[:, 1], -(1 + t) * x[:, 0]], axis=1)


def decay(t, x):
    """Returns the velocity of x' = -r x, where r is the second entry of a sample."""
    return jnp.concatenate([-x[:, 1:] * x[:, :1], jnp.zeros_like(x[:, 1:])], axis=1)


def counted(field):
    calls = []

    def wrapped(t, x):
        jax.debug.callback(lambda: calls.append(1))
        return field(t, x)

    return wrapped, calls


@pytest.mark.parametrize("per_sample", [True, False])
def test_a_compiled_solve_never_calls_the_host(per_sample):
    for options in (dict(steps=4), dict(rtol=1e-2, atol=1e-2)):
        program = jax.jit(functools.partial(solver.solve, oscillator, per_sample=per_sample, **options))
        assert "callback" not in program.lower(jnp.ones((2, 2))).as_text()


FORWARDS, BACKWARDS = (0.0, 1.0), (1.0, 0.0)
# every method once, and each way of stepping of a method with and of one without first-same-as-last
FIRST = [(method, FORWARDS, True) for method in METHODS]
FIRST += [("heun", BACKWARDS, True), ("heun", FORWARDS, False), ("bosh3", BACKWARDS, False)]
EVERY = list(itertools.product(METHODS, (FORWARDS, BACKWARDS), (True, False)))
COUNTED = FIRST + [pytest.param(*each, marks=pytest.mark.integration) for each in EVERY if each not in FIRST]


@pytest.mark.parametrize("method, interval, per_sample", COUNTED)
def test_nfe_is_what_a_callback_counts(method, interval, per_sample):
    """Covers every method, fixed and adaptive; both directions, per sample and per batch."""
    # stiff enough that the first step is rejected: a first-same-as-last method then reuses its first evaluation
    stiff = lambda t, x: -60.0 * x * jnp.cos(3 * t)[:, None]
    for options in [dict(steps=5)] + ([dict(rtol=1e-3, atol=1e-3)] if method in ADAPTIVE else []):
        field, calls = counted(stiff)
        solution = solve(field, 0.1 * jnp.ones((1, 2)), *interval, method=method, per_sample=per_sample, **options)
        jax.effects_barrier()
        assert int(solution.nfe[0]) == len(calls), (method, options)
        assert "steps" in options or int(solution.steps[0]) > 3


@pytest.mark.parametrize("method", ["heun", "bosh3"])
def test_nfe_of_each_sample_in_a_batch(method):
    """Checks that each sample's NFE is its NFE alone; the batch runs the network as often as its slowest sample."""
    # the rate is part of the state, so that one field serves the batch and each sample alone
    field, calls = counted(decay)
    solved = jax.jit(lambda x: solver.solve(field, x, method=method, rtol=1e-4, atol=1e-4))

    def count(x):
        calls.clear()
        solution = solved(x)
        jax.effects_barrier()
        return solution, len(calls)

    x = jnp.array([[1.0, 1.0], [1.0, 40.0], [1.0, 5.0]])
    alone = [count(row[None])[1] for row in x]
    together, runs = count(x)
    assert together.nfe.tolist() == alone
    assert len(set(alone)) == 3
    assert runs == max(alone)  # one evaluation serves the whole batch


def test_a_batch_in_common_steps_reports_one_count():
    x = jnp.array([[1.0, 1.0], [1.0, 40.0]])
    field, calls = counted(decay)
    common = solve(field, x, per_sample=False, rtol=1e-4, atol=1e-4)
    jax.effects_barrier()
    assert common.nfe.tolist() == [len(calls)] * 2
    each = solve(decay, x, rtol=1e-4, atol=1e-4)
    assert int(each.nfe[0]) < int(common.nfe[0])


ORDERS = dict(euler=1, heun=2, midpoint=2, rf_solver=2, ralston=2, bosh3=3, rk4=4)


@pytest.mark.parametrize(
    "method, interval",
    [(method, FORWARDS) for method in ORDERS]
    + [
        pytest.param(method, BACKWARDS, marks=() if method in ("heun", "rk4") else pytest.mark.integration)
        for method in ORDERS
    ],
)
def test_measured_order(method, interval):
    with jax.enable_x64(True):
        x = jnp.array([[1.0, 0.3]])
        true = solve_ivp(lambda t, y: [y[1], -(1 + t) * y[0]], interval, x[0], method="DOP853", rtol=1e-12, atol=1e-12)
        error = []
        for steps in (16, 32):
            found = solve(oscillator, x, *interval, method=method, steps=steps)
            error.append(np.abs(found.x[0] - true.y[:, -1]).max())
        assert np.log2(error[0] / error[1]) == pytest.approx(ORDERS[method], abs=0.25)


@pytest.mark.parametrize("method", ["heun", "dopri5"])
def test_forwards_then_backwards_returns(method):
    with jax.enable_x64(True):
        x = jnp.array([[1.0, 0.3], [-0.5, 2.0]])
        there = solve(oscillator, x, method=method, rtol=1e-6, atol=1e-6)
        back = solve(oscillator, there.x, 1.0, 0.0, method=method, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(back.x, x, atol=1e-4)
        assert not np.allclose(there.x, x, atol=1e-2)


def test_gaussian_flow():
    """Checks that the exact field from noise to N(0, s^2) takes x to s x."""
    scale = 0.4
    field = lambda t, x: ((t * scale**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * scale**2))[:, None] * x
    x = jax.random.normal(jax.random.key(0), (8, 3))
    np.testing.assert_allclose(solve(field, x, rtol=1e-6, atol=1e-6).x, scale * x, atol=1e-4)


def test_states_at_given_times_need_no_extra_evaluations():
    with jax.enable_x64(True):
        x = jnp.array([[1.0, 0.3], [0.2, 1.0]])
        for interval, times in (((0.0, 1.0), [0.0, 0.3, 0.55, 1.0]), ((1.0, 0.0), [0.9, 0.1])):
            options = dict(method="rk4", steps=64)
            solution = solve(oscillator, x, *interval, times=times, **options)
            assert solution.x.shape == (len(times), 2, 2)
            assert solution.nfe.tolist() == [4 * 64, 4 * 64]
            for row in range(2):
                true = solve_ivp(lambda t, y: [y[1], -(1 + t) * y[0]], interval, x[row], t_eval=times, rtol=1e-10)
                np.testing.assert_allclose(solution.x[:, row], true.y.T, atol=1e-6)
        both = [solve(oscillator, x, times=[0.4], per_sample=p, method="rk4", steps=64).x for p in (True, False)]
        np.testing.assert_allclose(*both, atol=1e-12)


def test_default_is_adaptive_heun_at_one_percent():
    x = jnp.array([[1.0, 0.3]])
    given, default = solve(oscillator, x, rtol=1e-2, atol=1e-2), solve(oscillator, x)
    np.testing.assert_array_equal(given.x, default.x)
    assert default.nfe.tolist() == (2 * default.steps).tolist()


def test_failure_is_reported_per_sample():
    blows_up = lambda t, x: jnp.where(x > 5, jnp.nan, x)
    solution = solve(blows_up, jnp.array([[0.1], [4.9]]), method="euler", steps=10)
    assert solution.ok.tolist() == [True, False]
    assert not bool(solve(oscillator, jnp.ones((1, 2)), rtol=1e-6, atol=1e-6, max_steps=3).ok[0])


# zero, slow, and so fast that the solve needs many steps
RATES = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 400.0]])


@pytest.mark.parametrize("interval", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
def test_a_solve_that_hits_max_steps_is_an_error_that_names_rows_and_times(interval):
    start, end = interval
    options = dict(rtol=1e-3, atol=1e-3, max_steps=60)
    solution = solve(decay, RATES, *interval, **options)
    assert solution.ok.tolist() == [True, True, False]
    np.testing.assert_array_equal(solution.t_end[:2], end)
    stopped = float(solution.t_end[2])
    assert 0 < abs(stopped - start) < 0.3
    # the state is the solution at t_end: it decays from the start until then
    np.testing.assert_allclose(solution.x[2, 0], np.exp(-400 * (stopped - start)), rtol=0.02, atol=2e-3)
    message = (
        rf"^frame 3: the solve failed for 1 of 3 samples\. max_steps .* row 2 at t = {stopped:.4g} after 60 steps: "
    )
    with pytest.raises(SolveError, match=message + "use looser rtol and atol, a larger max_steps, or fixed steps"):
        raise_if_failed(solution, what="frame 3")

    times = [start + (end - start) * part for part in (0.0, abs(stopped - start) / 2, 0.5, 1.0)]
    solution = solve(decay, RATES, *interval, times=times, **options)
    assert solution.ok.tolist() == [True, True, False]
    np.testing.assert_allclose(solution.t_end, [end, end, times[1]], rtol=1e-6)
    assert np.isfinite(solution.x[:2]).all() and not np.isfinite(solution.x[2:, 2]).any()
    with pytest.raises(SolveError, match=r"row 2 at t = .* after 60 steps"):
        raise_if_failed(solution, what="a clip")
    assert solve(decay, RATES, *interval, times=times[2:], **options).t_end.tolist() == [end, end, start]


@pytest.mark.parametrize("times", [None, [0.5, 1.0]])
@pytest.mark.parametrize("per_sample", [True, False])
def test_a_result_that_is_not_finite_is_an_error_that_names_its_rows(per_sample, times):
    blows_up = lambda t, x: jnp.where(x > 5, jnp.nan, x)
    solution = solve(blows_up, jnp.array([[0.1], [4.9], [0.2]]), steps=10, per_sample=per_sample, times=times)
    assert solution.ok.tolist() == [True, False, True]
    np.testing.assert_array_equal(solution.t_end, [1.0, np.nan, 1.0])
    with pytest.raises(
        SolveError, match=r"failed for 1 of 3 samples\. The result is not finite in rows \[1\]: use a lower"
    ):
        raise_if_failed(solution, what="frame 3")


def test_an_adaptive_solve_stops_where_its_field_is_not_finite():
    """Checks that it rejects each step beyond this point until it reaches max_steps."""
    blows_up = lambda t, x: jnp.where(x > 5, jnp.nan, x)
    adaptive = solve(blows_up, jnp.array([[0.1], [4.9]]), max_steps=50)
    assert adaptive.ok.tolist() == [True, False]
    assert float(adaptive.t_end[1]) == pytest.approx(np.log(5 / 4.9), rel=1e-3)
    with pytest.raises(
        SolveError, match=r"row 1 at t = 0\.0.* if the field is not finite there, a lower learning rate"
    ):
        raise_if_failed(adaptive, what="frame 3")


def test_unipc_reports_what_is_not_finite():
    solution = UniPC(grid(4))(lambda t, x: jnp.where(x > 5, jnp.nan, x), jnp.array([[0.1], [4.9]]))
    assert solution.ok.tolist() == [True, False]
    np.testing.assert_array_equal(solution.t_end, [1.0, np.nan])
    with pytest.raises(SolveError, match=r"not finite in rows \[1\]"):
        raise_if_failed(solution, what="a chunk")


@pytest.mark.parametrize("settings", [Solver(), Solver("euler", steps=4), UniPC(grid(4))])
def test_a_solve_without_failures_is_silent(settings):
    solution = settings(decay, RATES[:2])
    raise_if_failed(solution, what="a frame")
    assert solution.t_end.tolist() == [1.0, 1.0]


def test_failures_are_not_checked_under_jit():
    """Checks that `ok`, whose value is unknown inside the program, is returned and checked outside."""

    @jax.jit
    def compiled(x):
        solution = solver.solve(decay, x, rtol=1e-3, atol=1e-3, max_steps=60)
        raise_if_failed(solution, what="a frame")
        return solution

    shapes = jax.eval_shape(compiled, RATES)
    assert shapes.t_end.shape == shapes.ok.shape == (3,)
    with pytest.raises(SolveError, match="row 2"):
        raise_if_failed(compiled(RATES), what="a frame")


def test_a_field_may_close_over_what_differs_between_samples():
    """Checks that the field gets the whole batch, also when each sample has its own steps."""
    rates = jnp.array([1.0, 5.0, 20.0])
    field = lambda t, x: -rates[:, None] * x
    exact = jnp.exp(-rates)[:, None] * jnp.ones((3, 2))
    for per_sample in (True, False):
        settings = Solver(rtol=1e-5, atol=1e-5, per_sample=per_sample)
        solution = jax.jit(functools.partial(settings, field))(jnp.ones((3, 2)))
        np.testing.assert_allclose(solution.x, exact, atol=1e-4)


@pytest.mark.parametrize("gradient, per_sample", [(jax.grad, False), (jax.jacfwd, True)])
def test_a_solve_can_be_differentiated(gradient, per_sample):
    rates = jnp.array([0.5, 2.0])
    options = dict(rtol=1e-5, atol=1e-5, per_sample=per_sample)
    end = lambda r: solver.solve(lambda t, x: -r[:, None] * x, jnp.ones((2, 1)), **options).x.sum()
    np.testing.assert_allclose(jax.jit(gradient(end))(rates), -jnp.exp(-rates), atol=1e-3)


def test_half_precision_is_promoted_and_jit_agrees():
    x = jnp.ones((1, 2), jnp.bfloat16)
    assert solve(oscillator, x, steps=4).x.dtype == jnp.float32
    settings = Solver(rtol=1e-4, atol=1e-4)
    plain = settings(oscillator, jnp.ones((1, 2)))
    compiled = jax.jit(functools.partial(settings, oscillator))(jnp.ones((1, 2)))
    np.testing.assert_allclose(plain.x, compiled.x, rtol=1e-6)
    assert hash(settings) == hash(Solver(rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(method="huen"), "unknown method 'huen'.*heun"),
        (dict(steps=5, rtol=1e-3), "not both"),
        (dict(method="euler"), "no error estimate"),
        (dict(method="rk4", rtol=1e-3), "no error estimate"),
        (dict(steps=0), "positive whole number"),
        (dict(steps=(0.0, 0.7, 0.5, 1.0)), "strictly from t0"),
        (dict(steps=(0.0, 0.5)), "strictly from t0"),
        (dict(times=[0.5, 1.2]), "times must lie"),
        (dict(times=[0.5, 0.2]), "order of the solve"),
        (dict(t1=0.0), "nothing to solve"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        solve(oscillator, jnp.ones((1, 2)), **options)
