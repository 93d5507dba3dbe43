import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow.flow import ddim
from jvflow.flow.schedule import PREDICTION_TYPES, Schedule
from jvflow.flow.solver import solve

FILE = Path(__file__).parents[1] / "fixtures" / "ddim.safetensors"
TENSORS = load_file(FILE)
with safe_open(FILE, "np") as opened:
    META = json.loads(opened.metadata()["meta"])


def model(x, t):
    """Computes the closed-form model of the fixture."""
    return jnp.tanh(x @ TENSORS["matrix"]) * (0.5 + t[:, None] / 1000)


@pytest.mark.parametrize("name", list(META["configs"]))
def test_sampling_and_inversion_agree_with_diffusers(name):
    """Covers several betas, predictions and spacings, and clipping."""
    schedule, steps = Schedule.from_config(META["configs"][name]), META["steps"]
    sampled = ddim.sample(model, TENSORS["start"], schedule, steps=steps)
    np.testing.assert_allclose(
        sampled, TENSORS[f"{name}.sampled"], atol=1e-5 * np.abs(TENSORS[f"{name}.sampled"]).max()
    )
    if f"{name}.inverted" in TENSORS:
        inverted = ddim.invert(model, TENSORS[f"{name}.sampled"], schedule, steps=steps)
        expected = TENSORS[f"{name}.inverted"]
        assert np.abs(expected - TENSORS[f"{name}.sampled"]).max() > 0.1
        np.testing.assert_allclose(inverted, expected, atol=1e-5 * np.abs(expected).max())


def test_the_default_is_stable_diffusions():
    assert Schedule() == Schedule.from_config(META["configs"]["sd15"])
    assert Schedule().timesteps(50)[[0, -1]].tolist() == [981, 1]


def test_inverted_and_sampled_comes_back_with_first_order():
    """Checks on Gaussian data, whose noise is known, that the error of inversion and sampling falls as 1 / steps."""
    schedule, size = Schedule(), 0.7
    alphas = jnp.asarray(schedule.alphas())

    def exact(x, t):  # E[e | x_t] of data N(0, size^2)
        a = alphas[t][:, None]
        return jnp.sqrt(1 - a) / (a * size**2 + 1 - a) * x

    x = size * jax.random.normal(jax.random.key(0), (4, 16))
    back = lambda steps: ddim.sample(exact, ddim.invert(exact, x, schedule, steps=steps), schedule, steps=steps)
    errors = [float(jnp.abs(back(steps) - x).max()) for steps in (20, 40, 80)]
    assert errors[0] < 0.2 and 1.6 < errors[0] / errors[1] < 2.5 and 1.6 < errors[1] / errors[2] < 2.5
    noise = ddim.invert(exact, x, schedule, steps=200)
    assert float(jnp.std(noise)) == pytest.approx(1, abs=0.15)


def test_one_program_for_all_steps():
    """Checks that the program does not grow with the number of steps."""
    text = lambda steps: (
        jax.jit(lambda x: ddim.sample(model, x, Schedule(), steps=steps)).lower(jnp.zeros((2, 8))).as_text()
    )
    assert len(text(200).splitlines()) == len(text(20).splitlines())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Schedule(beta_schedule="cosine"), "unknown 'cosine' in a diffusion schedule: use one of linear"),
        (lambda: Schedule(prediction_type="flow"), "unknown 'flow'.*v_prediction"),
        (lambda: Schedule(timestep_spacing="even"), "unknown 'even'.*trailing"),
        (lambda: Schedule().timesteps(0), "from 1 to 1000, the timesteps of training, got 0"),
        (lambda: Schedule().timesteps(1001), "got 1001"),
        (
            lambda: ddim.invert(
                model, jnp.zeros((2, 8)), Schedule(prediction_type="sample", set_alpha_to_one=True), steps=5
            ),
            "invert with set_alpha_to_one=False",
        ),
        (lambda: Schedule().step_table(1000), "1000 steps with offset 1 reach timestep 1000"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_a_diffusion_model_is_a_flow(prediction, betas):
    """Checks that the exact model of Gaussian data becomes the exact velocity field and takes noise to data."""
    schedule, size = Schedule(beta_schedule=betas, prediction_type=prediction), 0.7
    alphas = jnp.asarray(schedule.alphas())

    def exact(x, s, condition=None):
        a = jnp.exp(jnp.interp(s[0], np.arange(1000), jnp.log(alphas)))[:, None]
        noise = jnp.sqrt(1 - a) * x / (a * size**2 + 1 - a)
        clean = jnp.sqrt(a) * size**2 * x / (a * size**2 + 1 - a)
        return (
            dict(epsilon=noise, sample=clean, v_prediction=jnp.sqrt(a) * noise - jnp.sqrt(1 - a) * clean)[prediction],
        )

    field = ddim.flow(exact, schedule)
    x, t = jax.random.normal(jax.random.key(0), (7, 5)), jnp.linspace(0.1, 0.95, 7)
    factor = (t * size**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * size**2)
    np.testing.assert_allclose(field(x, (t,))[0], factor[:, None] * x, atol=3e-3)
    ends = field(x, (jnp.array([0.0, 1.0, 0, 0, 0, 0, 0]),))[0]
    assert jnp.isfinite(ends).all()
    solved = solve(lambda t, x: field(x, (t,))[0], x, method="heun", steps=100).x
    np.testing.assert_allclose(solved, size * x, atol=0.02)
