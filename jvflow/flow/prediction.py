"""Velocities from a network that returns the end of a path in place of its velocity.

    along t        (x1 - x) / (1 - t)        x1 is the data                                 (1)   of x0 + t (x1 - x0)
    along alpha    (x - y) / alpha           y is the state without noise                   (2)   of y + alpha n

The denominators are at least `MIN_DENOMINATOR`: a solve leaves 1 / e of this noise in its result. A loss divides errors
of the end by more, see `loss_weight`, or those where the end is almost reached would outweigh all others.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jvflow.flow.field import expand_like

MIN_DENOMINATOR = 0.01
MIN_IN_LOSS = 0.05  # Li and He, arXiv 2511.13720


def to_data(x: Float[Array, "b ..."], t: Float[Array, "b ..."], data: Float[Array, "b ..."]) -> Array:
    """Returns (1) at x (b, f, h, w, c) and times t, (b,) or (b, f)."""
    return (data - x) / expand_like(jnp.maximum(1 - t, MIN_DENOMINATOR), x)


def from_clean(x: Float[Array, "b ..."], alpha: Float[Array, "b"], clean: Float[Array, "b ..."]) -> Array:
    """Returns (2) at x (b, f, h, w, c) and noise levels alpha (b,)."""
    return (x - clean) / expand_like(jnp.maximum(alpha, MIN_DENOMINATOR), x)


def loss_weight(distance: Float[Array, "b"]) -> Float[Array, "b"]:
    """Returns the weight of the squared error of (1) or (2) in a loss, at a distance 1 - t or alpha from the end (b,).

    The weighted error is that of a velocity whose denominator is at least `MIN_IN_LOSS`.
    """
    return jnp.square(jnp.maximum(distance, MIN_DENOMINATOR) / jnp.maximum(distance, MIN_IN_LOSS))
