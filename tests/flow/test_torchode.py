"""Tests of the step sizes and the counts of torchode against its rule, written again in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow.flow.solver import Solver, solve
from jvflow.flow.torchode import slowest_of_each


def heun_as_torchode(field, x, t0, t1, rtol, atol):
    """Solves for a batch (b, n); returns the states, the evaluations of each sample, and those of the whole batch."""
    rms = lambda a: np.sqrt((a**2).mean(axis=1))
    calls = 0

    def f(t, x):
        nonlocal calls
        calls += 1
        return np.asarray(field(t, x))

    sign, b = np.sign(t1 - t0), len(x)
    t = np.full(b, t0)
    # Hairer's first step
    f0 = f(t, x)
    scale = atol + rtol * np.abs(x)
    d0, d1 = rms(x / scale), rms(f0 / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = np.minimum(h0, abs(t1 - t0))
        f1 = f(t + sign * h0, x + (sign * h0)[:, None] * f0)
        largest = np.maximum(d1, rms((f1 - f0) / scale) / h0)
        h1 = np.where(largest <= 1e-15, np.maximum(1e-6, h0 * 1e-3), (0.01 / largest) ** 0.5)
    dt = np.minimum(np.minimum(100 * h0, h1), abs(t1 - t0))
    each, running = np.full(b, 2), np.ones(b, bool)
    while running.any():
        step = (sign * dt)[:, None]
        k1 = f(t, x)
        k2 = f(t + sign * dt, x + step * k1)
        new, error = x + step * (k1 + k2) / 2, step * (k2 - k1) / 2
        ratio = np.maximum(rms(error / (atol + rtol * np.maximum(np.abs(x), np.abs(new)))), 1e-38)
        accepted = (ratio < 1) & running
        t, x = np.where(accepted, t + sign * dt, t), np.where(accepted[:, None], new, x)
        each = each + 2 * running
        running = sign * (t1 - t) > 0
        dt = np.where(running, dt * np.clip(0.9 * ratio**-0.5, 0.2, 10), dt)
        dt = np.minimum(dt, sign * (t1 - t))
    return x, each, calls


def carried(t, x):
    """Returns an oscillating, explicit velocity whose rate is the first value of the state: (b, n) -> (b, n)."""
    module = jnp if isinstance(x, jax.Array) else np
    rate = x[:, :1]
    moved = rate * module.sin(6 * x[:, 1:] + rate * t[:, None]) - 0.3 * rate * x[:, 1:]
    return module.concatenate([0 * rate, moved], axis=1)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"])
def test_counts_equal_the_rule(interval, tolerance):
    """Checks 56 solves in batches of eight: the count of each sample, of each batch, and the states."""
    with jax.enable_x64(True):
        solver = Solver(rtol=tolerance, atol=tolerance, controller="torchode")
        run = jax.jit(lambda x: solver(carried, x, *interval))
        seen = set()
        for seed in range(7):
            draw = np.random.default_rng(seed)
            x = draw.normal(size=(8, 5))
            x[:, 0] = 10 ** draw.uniform(-3, 1.5, size=8)
            states, each, batch = heun_as_torchode(carried, x, *interval, tolerance, tolerance)
            solution = run(x)
            assert bool(solution.ok.all())
            np.testing.assert_array_equal(solution.nfe, each)
            assert slowest_of_each(np.asarray(solution.nfe)).tolist() == [batch]
            np.testing.assert_allclose(solution.x, states, rtol=1e-8, atol=1e-10)
            seen |= set(each.tolist())
        assert len(seen) > 8  # from smooth to stiff


def test_a_callback_counts_the_slowest_sample():
    calls = []

    def counted(t, x):
        jax.debug.callback(lambda: calls.append(1))
        return carried(t, x)

    x = jnp.array([[0.1, 1.0], [20.0, 0.4], [3.0, -1.0]])
    solution = solve(counted, x, controller="torchode")
    jax.effects_barrier()
    assert len(set(solution.nfe.tolist())) == 3 and len(calls) == max(solution.nfe.tolist())


def test_a_field_at_rest_and_a_field_that_is_not_finite_end():
    solution = solve(lambda t, x: 0 * x, jnp.ones((2, 3)), controller="torchode")
    states, each, _ = heun_as_torchode(lambda t, x: 0 * x, np.ones((2, 3), np.float32), 0.0, 1.0, 1e-2, 1e-2)
    np.testing.assert_array_equal(solution.x, states)
    assert solution.ok.all() and solution.nfe.tolist() == each.tolist()
    broken = solve(lambda t, x: x / 0, jnp.ones((1, 3)), controller="torchode", max_steps=8)
    assert not broken.ok.any()


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(controller="hairer"), "unknown controller 'hairer': use one of diffrax, torchode"),
        (dict(controller="torchode", method="bosh3"), "not method='bosh3': use heun"),
        (dict(controller="torchode", steps=4), "not steps=4: use tolerances"),
        (dict(controller="torchode", per_sample=False), "not per_sample=False: use True"),
    ],
)
def test_other_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Solver(**settings)


def test_the_slowest_of_each_eight():
    nfe = np.stack([np.arange(20), np.arange(20)[::-1]], axis=1)
    np.testing.assert_array_equal(slowest_of_each(nfe), [[7, 19], [15, 11], [19, 3]])
