"""DDIM without noise (Song et al., arXiv 2010.02502): maps noise to data in few evaluations of a diffusion model.

    x_t  = sqrt(a_t) x_0 + sqrt(1 - a_t) e                  a_t from the model's `Schedule`
    x'   = sqrt(a') x0(x, t) + sqrt(1 - a') e(x, t)         a step from a to a' with the model's output at t    (1)

Sampling goes from large t to small t. Inversion takes the same steps in reverse, with the model's output at the
timestep where each step ends. The two undo each other up to the error of a step. `flow` turns a diffusion model into a
field of flow matching.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jvflow.flow.field import Field, as_partial, expand_like
from jvflow.flow.schedule import Schedule

Predict = Callable[[Float[Array, "b ..."], Num[Array, "b"]], Float[Array, "b ..."]]


def sample(
    predict: Predict, x: Float[Array | np.ndarray, "b ..."], schedule: Schedule, *, steps: int
) -> Float[Array, "b ..."]:
    """Samples data from noise in `steps` steps of (1).

    Args:
      predict: the model, `(x, timesteps (b,)) -> output` of the type `schedule.prediction_type`; a
        `jax.tree_util.Partial` if it has parameters.
      x: noise of unit variance.
      schedule: the schedule of the model's training.
      steps: evaluations of the model.
    """
    at, before, after = schedule.step_table(steps)
    return _step_through(as_partial(predict), x, at, before, after, schedule=schedule)


def invert(
    predict: Predict, x: Float[Array | np.ndarray, "b ..."], schedule: Schedule, *, steps: int
) -> Float[Array, "b ..."]:
    """Inverts data: returns noise from which `sample` makes this data, up to the error of the steps. See `sample`."""
    if schedule.prediction_type == "sample" and schedule.set_alpha_to_one:
        raise ValueError(
            "a model that predicts x_0 does not give the noise of clean data: invert with set_alpha_to_one=False"
        )
    at, before, after = schedule.step_table(steps)
    return _step_through(as_partial(predict), x, at[::-1], after[::-1], before[::-1], schedule=schedule)


def flow(field: Field, schedule: Schedule) -> Field:
    """Turns a diffusion model into a field of velocities on the straight path from noise at t = 0 to data at t = 1.

        x = t x_0 + (1 - t) e = r (sqrt(a) x_0 + sqrt(1 - a) e)      r^2 = t^2 + (1 - t)^2,  sqrt(a) = t / r        (2)
        v = x_0 - e

    The timestep is interpolated, linearly in log(a / (1 - a)), so that its a fulfils (2). It is clamped to the noisiest
    and the cleanest timestep of training.

    Args:
      field: the model at timesteps, s = (timestep,), see `jvflow.networks.as_field`; its first output has the type
        `schedule.prediction_type`.
      schedule: the schedule of the model's training.
    """
    return jax.tree_util.Partial(partial(_velocity, schedule), as_partial(field))


def _velocity(schedule: Schedule, field, x, s, condition=None):
    t = jnp.clip(s[0], 0.0, 1.0)
    alphas = np.maximum(schedule.alphas(), 2.0**-24)  # the last one may be 0
    odds = np.log(alphas / (1 - alphas))  # falls over the timesteps
    wanted = jnp.clip(2 * (jnp.log(t) - jnp.log1p(-t)), odds[-1], odds[0])
    timestep = jnp.interp(wanted, odds[::-1], np.arange(schedule.num_train_timesteps)[::-1].astype(float))
    a, r = expand_like(jax.nn.sigmoid(wanted), x), expand_like(jnp.sqrt(t**2 + (1 - t) ** 2), x)
    clean, noise = _clean_and_noise(field(x / r, (timestep,), condition)[0], x / r, a, schedule)
    return (clean - noise,)


@partial(jax.jit, static_argnames="schedule")
def _step_through(predict, x, at, before, after, *, schedule):
    def step(x, transition):
        t, a, b = transition
        output = predict(x, jnp.full(len(x), t))
        clean, noise = _clean_and_noise(output, x, a, schedule)
        return jnp.sqrt(b) * clean + jnp.sqrt(1 - b) * noise, None  # (1)

    transitions = jnp.asarray(at), *(jnp.asarray(a, x.dtype) for a in (before, after))
    return jax.lax.scan(step, x, transitions)[0]


def _clean_and_noise(output, x, a, schedule):
    """Computes x_0 and e from the output of a model at x."""
    size, noise_size = jnp.sqrt(a), jnp.sqrt(1 - a)
    if schedule.prediction_type == "epsilon":
        clean, noise = (x - noise_size * output) / size, output
    elif schedule.prediction_type == "sample":
        clean, noise = output, (x - size * output) / noise_size
    else:
        clean, noise = size * x - noise_size * output, size * output + noise_size * x
    if schedule.clip_range is not None:
        clean = jnp.clip(clean, -schedule.clip_range, schedule.clip_range)
    return clean, noise
