"""The schedules with which chunks are sampled: those of the public samplers, and the mistakes of a user."""

import numpy as np
import pytest
from conftest import load_config
from public_models import FIXTURES
from safetensors.numpy import load_file

from jvflow.experiment import assemble
from jvflow.flow.times import TimeSchedule
from jvflow.flowframes import make_solver
from jvflow.training.config_check import check_config


@pytest.fixture(scope="module")
def public():
    return load_file(FIXTURES / "flow_schedules.safetensors")


@pytest.mark.parametrize("steps", [5, 10, 40])
def test_schedules_are_those_of_public_pipelines(public, steps):
    """Compares the sigmas of LTX-Video (three sizes), Wan (three shifts) and the linear-quadratic schedule."""
    same = lambda made, name: np.testing.assert_allclose(1 - np.array(made.steps), public[f"{name}.{steps}"], atol=2e-7)
    ltx = TimeSchedule("tokens", terminal=0.1)
    for tokens in (288, 576, 4290):
        same(make_solver("euler", steps, ltx, tokens), f"ltx.{tokens}")
        same(make_solver("unipc", steps, ltx, tokens), f"unipc.{tokens}")
    for shift in (1, 3, 5):
        same(make_solver("unipc", steps, TimeSchedule(warp=float(shift))), f"wan.{shift}")
    same(make_solver("euler", steps, TimeSchedule("linear_quadratic")), "linear_quadratic")


def test_the_configs_sample_with_the_public_schedules(public):
    """Checks the grids that `config.sample` gives: LTX-Video's by tokens, in both designs, and Wan's."""

    def solver(name, objective, steps, length=17, **change):
        config = load_config(f"flowframes/{name}.py")
        config.objective, config.inversion.rho = objective, 0.0
        config.sample.update(change)
        experiment = assemble(config, abstract=True)
        return experiment.sampler.solver_for(experiment.codec.latent_shape((length, *config.data.size)), steps)

    same = lambda made, name: np.testing.assert_allclose(1 - np.array(made.steps), public[name], atol=2e-7)
    for steps in (5, 10, 40):
        same(solver("ltx_2b", "flowframes", steps), f"ltx.288.{steps}")
    same(solver("ltx_2b", "flowframes", 5, length=41), "ltx.576.5")
    same(solver("ltx_2b", "conventional", 5), "ltx.576.5")
    same(solver("ltx_2b", "text_to_video", 5), "ltx.288.5")
    same(solver("ltx_2b", "flowframes", 5, schedule="linear_quadratic"), "linear_quadratic.5")
    same(solver("wan_1p3b", "flowframes", 10), "wan.3.10")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("ltx_2b", dict(schedule="cosine"), "config.sample.schedule is 'cosine': use one of warp, tokens, linear_quad"),
        ("ltx_2b", dict(terminal=1.0), "config.sample.terminal is 1.0: use a noise level below 1, or 0 to leave"),
        ("ltx_2b", dict(terminal=-0.1), "config.sample.terminal is -0.1: use a noise level below 1"),
        ("ltx_2b", dict(warp=3.0), "config.sample.warp is 3.0, and config.sample.schedule 'tokens' does not use it"),
        ("wan_1p3b", dict(schedule="linear_quadratic", warp=1.0), "config.sample.method 'unipc' has a grid of its own"),
    ],
)
def test_mistakes(name, change, message):
    config = load_config(f"flowframes/{name}.py")
    config.sample.update(change)
    with pytest.raises(ValueError, match=message):
        check_config(config)


def test_unipc_has_no_linear_quadratic_schedule():
    with pytest.raises(ValueError, match="unipc has a grid of its own"):
        make_solver("unipc", 4, TimeSchedule("linear_quadratic"))
