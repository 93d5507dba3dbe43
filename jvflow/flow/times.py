"""Flow times: the distribution of t in training, and the time grid of a solve.

t runs from 0 (the source) to 1 (the data); sigma = 1 - t is the noise level of diffusion models. Public models use the
word "shift" for two different operations; jvflow gives each its own name:

    logit_mean   sigma = sigmoid(m + d n), n ~ N(0, 1)         the mean m of a logit-normal        (1)   LTX-Video
                 m(tokens) linear, 0.95 at 1024 and 2.05 at 4096 tokens                            (2)
    warp         sigma -> w sigma / (1 + (w - 1) sigma)        a warp of the interval onto itself  (3)   Wan 2.1

Both move times towards the source. (1) with mean m equals (3) with w = exp(m) after (1) with mean 0. LTX-Video
samples with w = exp(m(tokens)). It counts the tokens of all frames that its network gets, also of known ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jvflow.flow.public_grids import linear_quadratic, stretch


def logit_mean_for(tokens: int) -> float:
    """Returns the mean (2) for examples of this many tokens; the line continues outside [1024, 4096]."""
    return 0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024)


def warp(sigma: Any, factor: float) -> Any:
    """Warps noise levels in [0, 1] by (3); a factor of 1 keeps them, a larger one moves them towards the source."""
    return factor * sigma / (1 + (factor - 1) * sigma)


def grid(steps: int, factor: float = 1.0, terminal: float | None = None) -> tuple[float, ...]:
    """Returns the steps + 1 times of a solve from 0 to 1, warped by (3): dense near t = 0 if `factor` > 1.

    Args:
      steps: number of steps.
      factor: factor of the warp; exp(m) for a model whose sampler shifts by a logit mean m, such as LTX-Video.
      terminal: if not None, the noise level at which the last step begins, see `stretch`.
    """
    check_steps(steps)
    check_warp(factor)
    times = 1 - warp(1 - np.linspace(0, 1, int(steps) + 1), factor)
    if terminal is not None:
        times[:-1] = stretch(times[:-1], terminal)
    return tuple(float(t) for t in times)


def step_times(steps: int | Sequence[float], t0: float, t1: float) -> np.ndarray:
    """Returns the times of a solve from t0 to t1 with a number of equal steps, or checks the sequence of its times."""
    if np.ndim(steps) == 0:
        check_steps(steps)
        return np.linspace(t0, t1, int(np.asarray(steps)) + 1)
    grid = np.asarray(steps, float)
    direction = np.sign(t1 - t0)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] != t0 or grid[-1] != t1 or np.any(np.diff(grid) * direction <= 0):
        raise ValueError(f"a sequence of steps must run strictly from t0 = {t0} to t1 = {t1}, got {grid.tolist()}")
    return grid


class FixedTimes(diffrax.StepTo):
    """The steps of `StepTo` without its checks at run time, which call the host; `step_times` checks before."""

    def wrap(self, direction):
        return type(self)(self.ts * direction)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return self.ts[1], 2


class PaddedTimes(diffrax.AbstractStepSizeController):
    """Steps at times of which the last may be repeated: unlike `StepTo`, a solve ends as soon as it is reached."""

    ts: Float[Array, "n"]

    def wrap(self, direction):
        return PaddedTimes(self.ts * direction)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return self.ts[1], 2

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        return True, t1, self.ts[controller_state], False, controller_state + 1, diffrax.RESULTS.successful


def check_steps(steps: Any) -> None:
    """Raises ValueError unless `steps` is a positive whole number."""
    if steps < 1 or steps != int(steps):
        raise ValueError(f"steps must be a positive whole number, got {steps}")


def check_warp(factor: float) -> None:
    """Raises ValueError unless the factor of a warp is above 0."""
    if not factor > 0:
        raise ValueError(f"warp is a factor and must be above 0, got {factor}: 1 leaves times as they are")


@dataclass(frozen=True)
class TimeDensity:
    """The distribution of t in training.

    Attributes:
      name: "uniform", or "logit_normal" (1).
      logit_mean: m of (1), for sigma; None derives it from the number of tokens (2).
      logit_std: d of (1).
      warp: w of (3), applied after the draw.
    """

    name: str = "uniform"
    logit_mean: float | None = 0.0
    logit_std: float = 1.0
    warp: float = 1.0

    def __post_init__(self):
        if self.name not in ("uniform", "logit_normal"):
            raise ValueError(f"unknown times {self.name!r}: use uniform or logit_normal")
        if not self.logit_std > 0:
            raise ValueError(f"logit_std is a standard deviation and must be above 0, got {self.logit_std}")
        check_warp(self.warp)

    def mean(self, tokens: int) -> float:
        """Returns the mean m of (1) for examples of this many tokens."""
        return logit_mean_for(tokens) if self.logit_mean is None else self.logit_mean

    def __call__(self, keys: Key[Array, "b"], tokens: int) -> Float[Array, "b"]:
        """Draws one t in [0, 1] for each key; `tokens` is the number of tokens of an example."""
        if self.name == "uniform":
            sigma = 1 - jax.vmap(jax.random.uniform)(keys)
        else:
            sigma = jax.nn.sigmoid(self.mean(tokens) + self.logit_std * jax.vmap(jax.random.normal)(keys))  # (1)
        return 1 - warp(sigma, self.warp)  # (3)


SCHEDULES = ("warp", "tokens", "linear_quadratic")


@dataclass(frozen=True)
class TimeSchedule:
    """The time grid of a solve, for any number of steps.

    Attributes:
      name: "warp", equal steps of sigma, warped by (3); "tokens", the same with w = exp(m(tokens)); or
        "linear_quadratic".
      warp: w of "warp".
      terminal: noise level at which the last step begins, see `grid`; None leaves it where it is.
    """

    name: str = "warp"
    warp: float = 1.0
    terminal: float | None = None

    def __post_init__(self):
        if self.name not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.name!r}: use one of {', '.join(SCHEDULES)}")
        check_warp(self.warp)

    def factor(self, tokens: int) -> float:
        """Returns the factor of the warp (3) for a network that gets this many tokens."""
        return math.exp(logit_mean_for(tokens)) if self.name == "tokens" else self.warp

    def __call__(self, steps: int, tokens: int = 0) -> tuple[float, ...]:
        """Returns the steps + 1 times of a solve, for a network that gets this many tokens."""
        if self.name == "linear_quadratic":
            return linear_quadratic(steps)
        return grid(steps, self.factor(tokens), self.terminal)
