import jax
import numpy as np
import pytest
from scipy.stats import logistic, norm

from jvflow import times
from jvflow.times import TimeDensity

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def drawn(density, tokens=0):
    return np.asarray(density(jax.random.split(jax.random.key(0), 20000), tokens))


def quantiles(density, tokens=0):
    return np.quantile(1 - drawn(density, tokens), LEVELS)


def test_uniform():
    np.testing.assert_allclose(quantiles(TimeDensity()), LEVELS, atol=0.01)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.5, 0.7)])
def test_logit_normal_is_of_sigma(mean, std):
    expected = logistic.cdf(norm.ppf(LEVELS, mean, std))
    np.testing.assert_allclose(quantiles(TimeDensity("logit_normal", mean, std)), expected, atol=0.01)


def test_the_mean_of_ltx_follows_the_tokens():
    assert times.token_mean(1024) == pytest.approx(0.95) and times.token_mean(4096) == pytest.approx(2.05)
    assert times.token_mean(64) == pytest.approx(0.95 - 1.1 * 960 / 3072)  # the line goes on below
    median = lambda tokens: quantiles(TimeDensity("logit_normal", None), tokens)[2]
    for tokens in (64, 1024, 4096):
        assert median(tokens) == pytest.approx(logistic.cdf(times.token_mean(tokens)), abs=0.01)


def test_the_two_shifts_are_one_for_logit_normal_times():
    """logit_mean m is the warp by exp(m); for uniform times they are two things."""
    shifted, warped = TimeDensity("logit_normal", 0.8), TimeDensity("logit_normal", 0.0, warp=float(np.exp(0.8)))
    np.testing.assert_allclose(drawn(shifted), drawn(warped), atol=1e-5)
    np.testing.assert_allclose(quantiles(TimeDensity(warp=3.0)), 3 * LEVELS / (1 + 2 * LEVELS), atol=0.01)


def test_grids():
    np.testing.assert_allclose(times.grid(4), [0, 0.25, 0.5, 0.75, 1], atol=1e-12)
    np.testing.assert_allclose(1 - np.array(times.grid(4, 3.0)), [1, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0], atol=1e-12)
    assert times.grid(7, 5.0)[0] == 0 and times.grid(7, 5.0)[-1] == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TimeDensity("beta"), "unknown times 'beta': use uniform or logit_normal"),
        (lambda: TimeDensity("logit_normal", logit_std=0.0), "logit_std is a standard deviation and must be above 0, got 0.0"),
        (lambda: TimeDensity(warp=-1.0), "warp is a factor and must be above 0, got -1.0"),
        (lambda: times.grid(0), "steps must be a positive whole number, got 0"),
        (lambda: times.grid(2, 0.0), "warp is a factor"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
