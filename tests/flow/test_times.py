import json

import jax
import numpy as np
import pytest
from scipy.special import expit, ndtri

from jvflow.flow import times
from jvflow.flow.times import TimeDensity, TimeSchedule

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def drawn(density, tokens=0):
    return np.asarray(density(jax.random.split(jax.random.key(0), 20000), tokens))


def quantiles(density, tokens=0):
    return np.quantile(1 - drawn(density, tokens), LEVELS)


def test_uniform():
    np.testing.assert_allclose(quantiles(TimeDensity()), LEVELS, atol=0.01)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.5, 0.7)])
def test_logit_normal_is_the_distribution_of_sigma(mean, std):
    expected = expit(mean + std * ndtri(LEVELS))
    np.testing.assert_allclose(quantiles(TimeDensity("logit_normal", mean, std)), expected, atol=0.01)


def test_the_mean_of_ltx_follows_the_tokens():
    assert times.logit_mean_for(1024) == pytest.approx(0.95) and times.logit_mean_for(4096) == pytest.approx(2.05)
    assert times.logit_mean_for(64) == pytest.approx(0.95 - 1.1 * 960 / 3072)  # extrapolates below 1,024 tokens
    median = lambda tokens: quantiles(TimeDensity("logit_normal", None), tokens)[2]
    for tokens in (64, 1024, 4096):
        assert median(tokens) == pytest.approx(expit(times.logit_mean_for(tokens)), abs=0.01)


def test_both_shifts_are_equal_for_logit_normal_times():
    """Checks that logit_mean m equals the warp by exp(m), and the formula of the warp for uniform times."""
    shifted, warped = TimeDensity("logit_normal", 0.8), TimeDensity("logit_normal", 0.0, warp=float(np.exp(0.8)))
    np.testing.assert_allclose(drawn(shifted), drawn(warped), atol=1e-5)
    np.testing.assert_allclose(quantiles(TimeDensity(warp=3.0)), 3 * LEVELS / (1 + 2 * LEVELS), atol=0.01)


def test_grids_are_those_of_public_samplers(shared):
    """Compares static and exponential shifts and LTX's terminal with diffusers' flow-match Euler scheduler."""
    for name, given in json.loads((shared / "golden" / "flowmatch_euler_sigmas.json").read_text())["schedules"].items():
        factor = np.exp(given["set"]["mu"]) if given["set"] else given["kw"]["shift"]
        made = times.grid(len(given["sigmas"]) - 1, factor, given["kw"].get("shift_terminal"))
        np.testing.assert_allclose(1 - np.array(made), given["sigmas"], atol=2e-7, err_msg=name)


def test_linear_then_quadratic():
    """Checks four equal steps, then four steps up to 1, each longer than the one before by the same amount."""
    made = times.linear_quadratic(8, 0.025)
    assert made[:5] == pytest.approx([0, 0.00625, 0.0125, 0.01875, 0.025]) and made[-1] == 1
    steps = np.diff(made)
    assert np.allclose(steps[:4], 0.00625) and (np.diff(steps[4:]) > 0).all() and np.allclose(np.diff(steps[4:], 2), 0)
    assert np.diff(steps)[3] == pytest.approx(np.diff(steps)[4] / 2)  # the slopes agree where the parts meet


def test_one_step_has_no_terminal():
    for name in ("tokens", "linear_quadratic"):
        assert TimeSchedule(name, terminal=0.1)(1, 288) == (0, 1)


def test_grids():
    np.testing.assert_allclose(times.grid(4), [0, 0.25, 0.5, 0.75, 1], atol=1e-12)
    np.testing.assert_allclose(1 - np.array(times.grid(4, 3.0)), [1, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0], atol=1e-12)
    assert times.grid(7, 5.0)[0] == 0 and times.grid(7, 5.0)[-1] == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TimeDensity("beta"), "unknown times 'beta': use uniform or logit_normal"),
        (
            lambda: TimeDensity("logit_normal", logit_std=0.0),
            "logit_std is a standard deviation and must be above 0, got 0.0",
        ),
        (lambda: TimeDensity(warp=-1.0), "warp is a factor and must be above 0, got -1.0"),
        (lambda: TimeSchedule("cosine"), "unknown schedule 'cosine': use one of warp, tokens, linear_quadratic"),
        (lambda: times.grid(0), "steps must be a positive whole number, got 0"),
        (lambda: times.grid(2, 0.0), "warp is a factor"),
        (lambda: times.grid(5, terminal=1.0), r"terminal is a noise level and must be in \(0, 1\), got 1.0"),
        (lambda: times.linear_quadratic(4, 0.6), "2 of 4 steps go to 0.6: .* a lower threshold"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
