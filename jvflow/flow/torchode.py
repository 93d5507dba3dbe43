"""The step sizes of torchode, the solver of the Bi-flow paper, for diffrax; its evaluations are the paper's "steps".

    first step   h0 = 0.01 |x| / |f|,   h1 = sqrt(0.01 / max(|f|, |f' - f| / h0)),   h = min(100 h0, h1)         (1)
    error        e = |x' - x_euler|, a step is accepted if e < 1                                                (2)
    next step    h <- h min(max(0.9 e^(-1/2), 0.2), 10), after accepted and rejected steps alike                (3)

|.| is the RMS over the values of a sample, scaled by atol + rtol |x| in (1), and by atol + rtol max(|x|, |x'|) in (2).
f' is the field after an Euler step of h0. (1) is the rule of Hairer, Norsett and Wanner (Solving Ordinary Differential
Equations I, section II.4) with the exponent 1/2; it costs two evaluations. The last step ends at the end of the
interval.

torchode solves a batch until its slowest sample is done, and counts the evaluations of the batch. The paper has batches
of eight videos (`slowest_of_each`).
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

CONTROLLERS = ("diffrax", "torchode")
"""Names of the rules for the step size of an adaptive solve."""
BATCH = 8
"""Videos that the paper solves together."""
FIRST_STEP_NFE = 2
"""Evaluations that (1) needs."""
SAFETY, LEAST, MOST = 0.9, 0.2, 10.0


class Torchode(diffrax.AbstractStepSizeController):
    """The rule of torchode as a step size controller of diffrax; use it without `dt0`.

    Attributes:
      rtol, atol: tolerances.
      direction: 1 forwards in time, -1 backwards; diffrax sets it.
    """

    rtol: float | Array
    atol: float | Array
    direction: Any = 1

    def wrap(self, direction) -> "Torchode":
        return Torchode(self.rtol, self.atol, direction)

    def init(self, terms, t0, t1, y0, dt0, args, func: Callable, error_order) -> tuple:
        del dt0, error_order
        scale = self.atol + self.rtol * jnp.abs(y0)
        slope = func(terms, t0, y0, args)
        size, speed = _rms(y0 / scale), _rms(slope / scale)
        short = (size < 1e-5) | (speed < 1e-5)
        trial = jnp.where(short, 1e-6, 0.01 * size / jnp.where(short, 1.0, speed))
        trial = jnp.minimum(trial, t1 - t0)
        ahead = y0 + self.direction * trial * slope  # `func` has no direction, unlike the times here
        bend = _rms((func(terms, t0 + trial, ahead, args) - slope) / scale) / trial
        largest = jnp.maximum(speed, bend)
        still = largest <= 1e-15
        curved = jnp.where(still, jnp.maximum(1e-6, 1e-3 * trial), (0.01 / jnp.where(still, 1.0, largest)) ** 0.5)
        return (t0 + jnp.minimum(100 * trial, curved)).astype(jnp.result_type(t0)), None  # (1)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error: Any, error_order, controller_state) -> tuple:
        del args, error_order
        scale = self.atol + self.rtol * jnp.maximum(jnp.abs(y0), jnp.abs(y1_candidate))
        error = _rms(y_error / scale)  # (2)
        error = jnp.where(jnp.isfinite(error), jnp.maximum(error, 1e-37), jnp.inf)
        accepted = error < 1
        step = (t1 - t0) * jnp.clip(SAFETY * error**-0.5, LEAST, MOST)  # (3)
        begin = jnp.where(accepted, t1, t0)
        end = (begin + step).astype(jnp.result_type(t1))
        return accepted, begin, end, False, controller_state, diffrax.RESULTS.successful


def check_torchode(method: str, steps: Any, per_sample: bool) -> None:
    """Raises ValueError if the settings of a solve are not those of torchode's Heun."""
    wrong = "" if method == "heun" else f"method={method!r}: use heun"
    wrong = wrong if steps is None else f"steps={steps}: use tolerances, or the controller 'diffrax'"
    wrong = wrong if per_sample else "per_sample=False: use True, each sample has step sizes of its own"
    if wrong:
        raise ValueError(f"the controller 'torchode' is adaptive Heun as the Bi-flow paper counts it, not {wrong}")


def slowest_of_each(nfe: Num[np.ndarray, "b ..."], size: int = BATCH) -> Num[np.ndarray, "groups ..."]:
    """Returns the largest count of each `size` samples in order, which is torchode's count of a batch of them.

    The last group may have fewer samples.
    """
    return np.stack([nfe[start : start + size].max(axis=0) for start in range(0, len(nfe), size)])


def _rms(x: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
