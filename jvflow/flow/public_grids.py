"""Time grids of the samplers of public flow models, from t = 0 (noise) to 1; `jvflow.flow.times` chooses among them."""

import numpy as np
from jaxtyping import Float


def stretch(times: Float[np.ndarray, "steps"], terminal: float) -> Float[np.ndarray, "steps"]:
    """Rescales the times at which steps begin, from 0 on, so that the last step begins at the noise level `terminal`.

    A single step begins at 0, and stays there.
    """
    if not 0 < terminal < 1:
        raise ValueError(f"terminal is a noise level and must be in (0, 1), got {terminal}")
    return times * ((1 - terminal) / times[-1]) if len(times) > 1 else times


def linear_quadratic(steps: int, threshold: float = 0.025, linear: int | None = None) -> tuple[float, ...]:
    """Returns the steps + 1 times of the linear-quadratic schedule of Movie Gen (arXiv 2410.13720).

    The first `linear` steps (half of all when None) are equal and end at `threshold`; the others grow quadratically and
    end at 1. The two parts meet with the same slope.
    """
    if steps == 1:
        return (0.0, 1.0)
    linear = steps // 2 if linear is None else linear
    if not 0 < linear < steps or not 0 < threshold < linear / steps:
        raise ValueError(f"{linear} of {steps} steps go to {threshold}: use 0 < linear < steps and a lower threshold")
    rest, slope = steps - linear, threshold / linear
    after = np.arange(rest + 1)
    grown = threshold + slope * after + (1 - threshold - slope * rest) * (after / rest) ** 2
    return tuple(float(t) for t in np.concatenate([slope * np.arange(linear), grown]))
