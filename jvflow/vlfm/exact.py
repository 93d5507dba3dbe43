"""The field that minimises VLFM's objective, in closed form. The equations are in `jvflow.vlfm.method`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jvflow.flow.field import Bound, Field
from jvflow.flow.path import Path
from jvflow.vlfm.method import time_rate


def exact_field(path: Path, clips: Float[Array, "i n h w c"]) -> Field:
    """Returns the field that minimises the objective for equally likely clips: (3) for one, (4) for more.

    Its outputs are F and the mean of mu_i under p_i. It uses no network and ignores its condition.
    """
    return jax.tree_util.Partial(Bound(_exact, (path,)), clips)


def _exact(path, clips, x, s, condition=None):
    position = path.position

    def one(x, t):
        sigma, change = time_rate(position.sigma, t)
        mu, slope = jax.vmap(lambda clip: time_rate(lambda t: position.mean(clip, t), t))(clips[:, :, None])
        p = jax.nn.softmax(-jnp.sum(jnp.square(x[None] - mu), axis=range(1, mu.ndim)) / (2 * sigma**2))  # (4)
        velocity = jnp.tensordot(p, change / sigma * (x[None] - mu) + slope, 1)  # (3)
        return velocity, jnp.tensordot(p, mu, 1)

    return jax.vmap(one)(x, s[0])
