"""Noise schedules of diffusion models: the numbers of diffusers' classes, and files that are refused."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow.flow import ddim
from jvflow.flow.schedule import CLASSES, Schedule

FILE = Path(__file__).parents[1] / "fixtures" / "schedules.safetensors"
NUMBERS = load_file(FILE)
with safe_open(FILE, "np") as opened:
    META = json.loads(opened.metadata()["meta"])


@pytest.mark.parametrize("name", list(META["configs"]))
def test_the_numbers_are_those_of_diffusers(name):
    """Covers the defaults of every class, all betas, all spacings, and zero signal at the noisiest timestep."""
    schedule = Schedule.from_config(META["configs"][name])
    np.testing.assert_allclose(schedule.alphas()[:: META["every"]], NUMBERS[f"{name}.alphas"], rtol=1e-4, atol=1e-7)
    for steps in META["steps"]:
        np.testing.assert_allclose(schedule.timesteps(steps), NUMBERS[f"{name}.{steps}"], atol=1e-3)
        at, before, after = schedule.step_table(steps)
        assert len(at) == len(before) == len(after) == steps and (before <= after).all() and after[-1] <= 1


def test_every_class_is_compared():
    assert {config["_class_name"] for config in META["configs"].values()} == set(CLASSES)


def test_only_classes_that_clamp_do_so():
    clamp = {name: Schedule.from_config(dict(_class_name=name)).clip_range for name in CLASSES}
    assert {name for name, range_ in clamp.items() if range_} == {
        "DDIMScheduler",
        "DDPMScheduler",
        "CogVideoXDDIMScheduler",
    }
    assert (
        Schedule.from_config(dict(_class_name="PNDMScheduler", clip_sample=True, clip_sample_range=2)).clip_range == 2
    )
    assert Schedule.from_config({}).clip_range == 1 and Schedule.from_config(dict(clip_sample=False)).clip_range is None


def test_between_two_timesteps_the_ratio_of_noise_to_signal_is_linear():
    schedule = Schedule.from_config(dict(_class_name="EulerDiscreteScheduler"))
    at, before, after = schedule.step_table(5)
    ratio = np.sqrt((1 - schedule.alphas()) / schedule.alphas())
    assert at.tolist() == [999, 749.25, 499.5, 249.75, 0]
    np.testing.assert_allclose(np.sqrt((1 - before[1]) / before[1]), 0.75 * ratio[749] + 0.25 * ratio[750], rtol=1e-6)
    np.testing.assert_array_equal(after, [*before[1:], 1])


def test_zero_signal_can_be_sampled_inverted_and_made_a_flow():
    config = META["configs"]["DDIM zero"] | dict(clip_sample=False)
    schedule = Schedule.from_config(config)
    assert schedule.alphas()[-1] == 0 and schedule.timesteps(5)[0] == 999
    model = lambda x, t: jnp.sin(x + t[:, None] / 1000)
    x = jnp.linspace(-1, 1, 6).reshape(2, 3)
    sampled = ddim.sample(model, x, schedule, steps=5)
    assert jnp.isfinite(sampled).all() and jnp.isfinite(ddim.invert(model, sampled, schedule, steps=5)).all()
    field = ddim.flow(lambda x, s, condition: (model(x, s[0]),), schedule)
    assert jnp.isfinite(field(x, (jnp.array([0.0, 1.0]),))[0]).all()


@pytest.mark.parametrize(
    "config, message",
    [
        (
            dict(_class_name="FlowMatchEulerDiscreteScheduler", shift=3.0),
            "FlowMatchEulerDiscreteScheduler .* is for flow",
        ),
        (dict(_class_name="UniPCMultistepScheduler", use_flow_sigmas=True), "is for flow matching"),
        (dict(_class_name="DPMSolverMultistepScheduler", prediction_type="flow_prediction"), "is for flow matching"),
        (dict(_class_name="EDMEulerScheduler"), "the scheduler EDMEulerScheduler .* cannot be read: use one of DDIM"),
        (dict(_class_name=None), "the scheduler None of this config cannot be read"),
        (dict(_class_name=["DDIMScheduler"]), "cannot be read: use one of"),
        ([], r"a scheduler's config is an object with keys, got \[\]"),
        (
            dict(beta_start="0.1", steps_offset=1.5, clip_sample=None),
            r"DDIMScheduler .*: beta_start is '0.1', allowed: a number above 0 and below 1; steps_offset is 1.5, "
            "allowed: a whole number from 0 to 1000000$",
        ),
        (dict(beta_schedule="sigmoid"), "beta_schedule is 'sigmoid', allowed: 'linear' or 'scaled_linear' or"),
        (dict(timestep_spacing=None), "timestep_spacing is None, allowed: 'leading' or 'trailing' or 'linspace'$"),
        (dict(thresholding=True), "thresholding is True, allowed: False$"),
        (
            dict(_class_name="EulerDiscreteScheduler", use_karras_sigmas=True),
            "use_karras_sigmas is True, allowed: False",
        ),
        (dict(_class_name="UniPCMultistepScheduler", sigma_max=3.0), "sigma_max is 3.0, allowed: None"),
        (dict(rescale_betas_zero_snr=True), "epsilon gives no data: use v_prediction or sample"),
        (dict(trained_betas=[0.1, 0.2]), "trained_betas has 2 entries for num_train_timesteps 1000: use as many"),
        (dict(trained_betas=[0.1, "a"]), "trained_betas is .*, allowed: None or a list of numbers"),
    ],
)
def test_schedulers_that_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_config(config)
