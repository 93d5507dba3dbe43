"""The field of the conventional design, which takes the observed chunk as context: (4) of `flowframes.method`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jvflow.flow.field import Bound, Condition, Field, as_partial

Chunk = Float[Array, "b f h w c"]


def with_observed(field: Field, observed: Chunk, frames_per_latent: int = 1) -> Field:
    """Returns a field of the future chunk that passes `field` the observed chunk at t = 1 as first half (4).

    A codec with more than one frame per latent encodes each chunk separately, so that the future chunk begins with a
    latent of a single frame: f latents stand for `frames_per_latent` (f - 1) + 1 frames. `Condition.starts` tells the
    network how many latent frames these are.
    """
    start = observed.shape[1] - 1 + 1 / frames_per_latent
    starts = (0.0, start) if frames_per_latent > 1 else (0.0,)
    return jax.tree_util.Partial(Bound(_with_observed, (starts,)), as_partial(field), observed)


def _with_observed(starts, field, observed, x, s, condition=None):
    (t,) = s
    if len(starts) > 1:
        condition = replace(condition or Condition(), starts=starts)
    known = jnp.ones(observed.shape[:2], t.dtype)
    each = jnp.broadcast_to(t[:, None], x.shape[:2])
    velocities = field(jnp.concatenate([observed, x], axis=1), (jnp.concatenate([known, each], axis=1),), condition)
    return tuple(v[:, observed.shape[1] :] for v in velocities)
