"""A solver as an argument returns the same as a constant one, and the count of programs sees each compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from jvflow.flow.field import expand_like
from jvflow.flow.solver import Solver, as_argument

pytestmark = pytest.mark.slow


def test_the_count_sees_a_compilation():
    with compilations() as found:
        jax.jit(lambda x: x * 3.25)(jnp.ones(7))
    assert found


@pytest.mark.parametrize(
    "solver",
    [Solver(rtol=1e-3, atol=1e-4), Solver("euler", steps=3), Solver("heun", steps=11), Solver("rf_solver", steps=8)]
    + [Solver("euler", steps=(0.0, 0.5, 2.0), per_sample=False), Solver("heun", 1e-2, 1e-2, controller="torchode")],
)
def test_a_solver_as_an_argument_returns_the_same(solver):
    derivative = lambda t, x: jnp.sin(3 * x) + expand_like(t, x)
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    expected = solver(derivative, x, 0.0, 2.0)
    made = jax.jit(lambda solver, x: solver(derivative, x, 0.0, 2.0))(as_argument(solver, x, 0.0, 2.0), x)
    np.testing.assert_allclose(made.x, expected.x, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(made.nfe, expected.nfe)
    np.testing.assert_array_equal(made.ok, True)


def test_steps_that_do_not_reach_the_end_are_an_error():
    with pytest.raises(ValueError, match=r"must run strictly from t0 = 0.0 to t1 = 2.0, got \[0.0, 0.5, 1.0\]"):
        as_argument(Solver("euler", steps=(0.0, 0.5, 1.0)), jnp.ones(1), 0.0, 2.0)
