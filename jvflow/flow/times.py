"""Flow times: where t is drawn in training, and the grid on which a solve stands.

t runs from 0 (the source) to 1 (the data); sigma = 1 - t is what diffusion code calls the noise level. "Shift" means two
things in the models that are fine-tuned here, which have a name each:

    logit_mean   sigma = sigmoid(m + d n), n ~ N(0, 1)         the mean m of a logit-normal        (1)   LTX-Video
                 m(tokens) linear, 0.95 at 1024 and 2.05 at 4096 tokens                            (2)
    warp         sigma -> w sigma / (1 + (w - 1) sigma)        a warp of the interval onto itself  (3)   Wan 2.1

Both move times towards the source; (1) with w = exp(m) is (3) of the logit-normal with mean 0.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Key

FEW, MANY = (1024, 0.95), (4096, 2.05)  # of (2): tokens, mean


def token_mean(tokens: int) -> float:
    """The mean (2) of a logit-normal, from the number of tokens of an example; the line goes on outside [1024, 4096]."""
    (n0, m0), (n1, m1) = FEW, MANY
    return m0 + (m1 - m0) * (tokens - n0) / (n1 - n0)


def warp(sigma, factor: float):
    """The warp (3) of noise levels in [0, 1]; `factor` 1 changes nothing, above 1 is towards the source."""
    return factor * sigma / (1 + (factor - 1) * sigma)


def grid(steps: int, factor: float = 1.0, terminal: float | None = None) -> tuple[float, ...]:
    """The steps + 1 times from 0 to 1 of a solve, warped (3): dense where the warp draws times.

    Args:
      steps: of the solve.
      factor: of the warp; exp(m) where a model's sampler shifts by a logit mean m, as LTX-Video's.
      terminal: noise level at which the last step begins; all times before are stretched to it (LTX-Video: 0.1). None leaves them.
    """
    _check_steps(steps)
    _check_warp(factor)
    times = 1 - warp(1 - np.linspace(0, 1, int(steps) + 1), factor)
    if terminal is not None:
        if not 0 < terminal < 1 or steps == 1:
            raise ValueError(f"terminal is the noise level before the last of 2 or more steps, in (0, 1), got {terminal} for {steps} steps")
        times[:-1] *= (1 - terminal) / times[-2]
    return tuple(float(t) for t in times)


def linear_quadratic(steps: int, threshold: float = 0.025, linear: int | None = None) -> tuple[float, ...]:
    """The steps + 1 times of a solve that goes to `threshold` in `linear` equal steps, half of all when None, and from there with growing ones to 1.

    The two parts meet with the same slope (the linear-quadratic schedule of Movie Gen, arXiv 2410.13720).
    """
    _check_steps(steps)
    linear = steps // 2 if linear is None else linear
    if not 0 < linear < steps or not 0 < threshold < linear / steps:
        raise ValueError(f"{linear} of {steps} steps go to {threshold}: give fewer than all, and a threshold below their part, {linear / steps:g}")
    rest, slope = steps - linear, threshold / linear
    after = np.arange(rest + 1)
    grown = threshold + slope * after + (1 - threshold - slope * rest) * (after / rest) ** 2
    return tuple(float(t) for t in np.concatenate([slope * np.arange(linear), grown]))


def _check_steps(steps):
    if steps < 1 or steps != int(steps):
        raise ValueError(f"steps must be a positive whole number, got {steps}")


def _check_warp(factor):
    if not factor > 0:
        raise ValueError(f"warp is a factor and must be above 0, got {factor}: 1 leaves times as they are")


@dataclass(frozen=True)
class TimeDensity:
    """Where t is drawn.

    Attributes:
      name: "uniform", or "logit_normal" (1).
      logit_mean: m of (1), of sigma; None takes it from the number of tokens (2).
      logit_std: d of (1).
      warp: w of (3), after the draw.
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
        _check_warp(self.warp)

    def __call__(self, keys: Key[Array, "b"], tokens: int) -> Float[Array, "b"]:
        """One t in [0, 1] for each key; `tokens` is how many an example has."""
        if self.name == "uniform":
            sigma = 1 - jax.vmap(jax.random.uniform)(keys)
        else:
            mean = token_mean(tokens) if self.logit_mean is None else self.logit_mean
            sigma = jax.nn.sigmoid(mean + self.logit_std * jax.vmap(jax.random.normal)(keys))  # (1)
        return 1 - warp(sigma, self.warp)  # (3)
