"""A path for Bi-flow that passes through the true frames between two ends; the bilinear path blends the ends.

curved      x(t, alpha) = sum_j w_j(t) u_j + alpha n        u_0 = x0, u_m = x1, true frames between     (4)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jvflow.flow.path import Path


def _curved(ends, s: tuple) -> Array:
    t, alpha = s
    knots = jnp.concatenate([ends.x0[None], ends.between, ends.x1[None]])
    return jnp.tensordot(_basis_weights(t, len(knots)), knots, 1) + alpha * ends.noise  # (4)


def _basis_weights(t, knots: int) -> Float[Array, "m"]:
    """Returns the weights w(t), t in [0, 1], of the piecewise cubic with continuous slope through equally spaced knots.

    Uses Keys' kernel with a = -1/2, which is exact for parabolas, and extends the knots linearly beyond both ends.
    """
    at = jnp.abs(t * (knots - 1) - jnp.arange(-1, knots + 1, dtype=t.dtype))
    near, far = 1 + at**2 * (1.5 * at - 2.5), 2 + at * (-4 + at * (2.5 - 0.5 * at))
    w = jnp.where(at <= 1, near, jnp.where(at < 2, far, 0.0))
    inner = w[1:-1].at[0].add(2 * w[0]).at[1].add(-w[0])
    return inner.at[-1].add(2 * w[-1]).at[-2].add(-w[-1])


CURVED = Path(_curved, coordinates=2)
