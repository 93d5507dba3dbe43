"""The VLFM paper's ablation (section 6.4): the same network regresses the latent at t from noise, without a flow."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from jvflow.flow.field import Condition, Field, as_partial, guide
from jvflow.flow.path import Path, squared_error
from jvflow.vlfm.latent_path import ClipTimeDensity, draw
from jvflow.vlfm.sample import Generated, PRNGKey, Shape, Times, check_times, draw_noise, evaluate_output


def direct_loss(
    field: Field,
    frames: Float[Array, "b n h w c"],
    keys: Key[Array, "b"],
    condition: Condition | None = None,
    *,
    path: Path,
) -> Float[Array, "b"]:
    """Computes the squared error of the regressed latent, one number per example. See `jvflow.vlfm.method.loss`."""
    t, ends = draw(frames, keys, ClipTimeDensity(), path)
    return squared_error(field(ends.noise, (t,), condition)[0], jax.vmap(path.position.mean)(ends.frames, t))


def regress(
    field: Field, key: PRNGKey, times: Times, shape: Shape, condition: Condition | None = None, *, guidance: float = 1.0
) -> Generated:
    """Evaluates a field of `direct_loss` at each time from one noise. See `jvflow.vlfm.sample.sample_frames`."""
    times = check_times(times, jnp.float32)
    z = draw_noise(key, shape, times.dtype)
    states = jnp.broadcast_to(z, (len(times), *z.shape))
    states = evaluate_output(as_partial(guide(field, guidance)), states, times, condition, output=0)
    return Generated(rearrange(states, "m b 1 h w c -> b m h w c"), jnp.full(len(z), len(times)))
