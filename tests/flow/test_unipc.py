"""UniPC: agreement with diffusers' scheduler, order of convergence, and one evaluation per step."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow.flow import unipc
from jvflow.flow.unipc import UniPC

FILE = Path(__file__).parents[1] / "fixtures" / "unipc.safetensors"
with safe_open(FILE, "np") as opened:
    SETTINGS = json.loads(opened.metadata()["meta"])["settings"]


def field(t, x):
    return jnp.sin(3 * x) * jnp.cos(2 * t)[:, None, None] - x / 2


@pytest.mark.parametrize("name", SETTINGS)
def test_sampling_agrees_with_diffusers(name):
    shift, order, steps = SETTINGS[name]
    expected = load_file(FILE)
    times = unipc.grid(steps, shift)
    np.testing.assert_allclose(1 - np.array(times), expected[f"{name}.sigmas"], atol=1e-7)
    made = jax.jit(lambda x: UniPC(times, order)(field, x))(expected["start"])
    np.testing.assert_allclose(
        made.x, expected[f"{name}.sampled"], rtol=0, atol=2e-5 * np.abs(expected[f"{name}.sampled"]).max()
    )
    assert made.nfe.tolist() == [steps] * 2 and made.ok.all()


def test_a_straight_flow_is_solved_in_one_step():
    """Checks that any grid reaches the end, because every state predicts the same end."""
    end = jax.random.normal(jax.random.key(0), (2, 3, 4))
    straight = lambda t, x: (end - x) / (1 - t)[:, None, None]
    for steps in (1, 4):
        np.testing.assert_allclose(UniPC(unipc.grid(steps, 3.0))(straight, jnp.ones((2, 3, 4))).x, end, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_converges_with_its_order(order):
    """Solves dx/dt = -x between two finite lambdas, in float64. The last step has order 1: order 3 converges as 2."""

    def error(steps: int) -> float:
        times = 1 / (1 + np.exp(-np.linspace(-1.5, 1.5, steps + 1)))
        correct, predict = unipc.coefficients(times, order)
        x, before, ends = 1.0, 0.0, [0.0] * order
        for i in range(steps):
            end = x + (1 - times[i]) * -x
            corrected = correct[i] @ np.array([x, before, end, *ends])
            x, before, ends = predict[i] @ np.array([corrected, end, *ends]), corrected, [end, *ends][:order]
        return abs(x - np.exp(times[0] - times[-1]))

    errors = [error(steps) for steps in (20, 40, 80)]
    assert np.log2(errors[1] / errors[2]) > min(order, 2) - 0.2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: UniPC((0.0, 0.5, 1.0)), "strictly from above 0 to 1"),
        (lambda: UniPC((0.1, 0.5)), "strictly from above 0 to 1"),
        (lambda: UniPC(unipc.grid(4), order=0), "1 or more, got 0"),
        (lambda: unipc.grid(0), "positive whole number, got 0"),
        (lambda: unipc.grid(4, -1.0), "above 0, got -1.0"),
        (
            lambda: UniPC(unipc.grid(4))(field, jnp.ones((1, 1, 1)), 1.0, 0.0),
            "got 1.0 to 0.0: use rf_solver for other intervals",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
