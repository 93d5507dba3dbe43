"""DDIM without noise (Song et al., arXiv 2010.02502): from noise to data in few evaluations of a diffusion model, and back.

    x_t  = sqrt(a_t) x_0 + sqrt(1 - a_t) e                  a_t the cumulated product of 1 - beta
    x'   = sqrt(a') x0(x, t) + sqrt(1 - a') e(x, t)         a step from a to a' with what the model says at t    (1)

Sampling goes from large t to small ones; inversion takes the same steps the other way, with what the model says at the
end of each, so that both undo each other to the accuracy of a step. `flow` makes a diffusion model a field of flow matching.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jvflow.flow.field import Field, as_partial, expand_like

Predict = Callable[[Float[Array, "b ..."], Int[Array, "b"]], Float[Array, "b ..."]]
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Schedule:
    """What a diffusion model was trained with; the defaults are those of Stable Diffusion 1.5.

    Attributes:
      betas: "linear", "scaled_linear" (linear in the root) or "squaredcos_cap_v2".
      beta_start, beta_end: the first beta and the last, of the linear ones.
      train_steps: timesteps of training.
      prediction: what the model says: "epsilon" e, "sample" x_0, or "v_prediction" sqrt(a) e - sqrt(1 - a) x_0.
      spacing: how the steps of a solve lie among those: "leading", "trailing" or "linspace".
      offset: added to the steps of "leading".
      ends_at_one: whether the last step ends at a = 1, else at that of timestep 0.
      clip: x_0 is cut to [-clip, clip]; None not at all.
    """

    betas: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    prediction: str = "epsilon"
    spacing: str = "leading"
    offset: int = 1
    ends_at_one: bool = False
    clip: float | None = None

    def __post_init__(self):
        for value, known in ((self.betas, BETAS), (self.prediction, PREDICTIONS), (self.spacing, SPACINGS)):
            if value not in known:
                raise ValueError(f"unknown {value!r} in a diffusion schedule: use one of {', '.join(known)}")

    @classmethod
    def of(cls, config: Mapping) -> "Schedule":
        """The schedule of a public scheduler_config.json; what it leaves out is as the diffusers package has it."""
        return cls(
            betas=config.get("beta_schedule", "linear"), beta_start=config.get("beta_start", 0.0001), beta_end=config.get("beta_end", 0.02),
            train_steps=config.get("num_train_timesteps", 1000), prediction=config.get("prediction_type", "epsilon"),
            spacing=config.get("timestep_spacing", "leading"), offset=config.get("steps_offset", 0), ends_at_one=config.get("set_alpha_to_one", True),
            clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None,
        )

    def alphas(self) -> Float[np.ndarray, "train_steps"]:
        """a_t of every timestep."""
        n = self.train_steps
        if self.betas == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n)
        elif self.betas == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n) ** 2
        else:
            bar = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar(np.arange(1, n + 1) / n) / bar(np.arange(n) / n), 0.999)
        return np.cumprod(1 - betas)

    def timesteps(self, steps: int) -> Int[np.ndarray, "steps"]:
        """The timesteps of a solve, from noise to data."""
        n = self.train_steps
        if not 1 <= steps <= n or steps != int(steps):
            raise ValueError(f"steps must be a whole number from 1 to the {n} of training, got {steps}")
        if self.spacing == "linspace":
            return np.linspace(0, n - 1, steps).round().astype(int)[::-1]
        if self.spacing == "leading":
            return (np.arange(steps) * (n // steps))[::-1] + self.offset
        return np.round(np.arange(n, 0, -n / steps)).astype(int) - 1

    def moves(self, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each step of a solve, from noise to data: the timestep, a there, and a after it."""
        alphas, at = self.alphas(), self.timesteps(steps)
        if at.max() >= self.train_steps:
            raise ValueError(f"{steps} steps with offset {self.offset} reach timestep {at.max()}, and training had {self.train_steps}: use another number of steps")
        after = at - self.train_steps // steps
        last = 1.0 if self.ends_at_one else alphas[0]
        return at, alphas[at], np.where(after >= 0, alphas[np.maximum(after, 0)], last)


def sample(predict: Predict, x: Float[Array, "b ..."], schedule: Schedule, *, steps: int) -> Float[Array, "b ..."]:
    """From noise to data, by `steps` steps (1).

    Args:
      predict: the model, `(x, timesteps (b,)) -> ` what `schedule.prediction` says; parameters in a `jax.tree_util.Partial`.
      x: noise of unit size.
      schedule: of the model's training.
      steps: evaluations of the model.
    """
    at, before, after = schedule.moves(steps)
    return _moved(as_partial(predict), x, at, before, after, schedule=schedule)


def invert(predict: Predict, x: Float[Array, "b ..."], schedule: Schedule, *, steps: int) -> Float[Array, "b ..."]:
    """From data to the noise that `sample` makes it of, to the accuracy of its steps; see `sample`."""
    if schedule.prediction == "sample" and schedule.ends_at_one:
        raise ValueError("a model that predicts x_0 says nothing about the noise in data without any: invert with ends_at_one=False")
    at, before, after = schedule.moves(steps)
    return _moved(as_partial(predict), x, at[::-1], after[::-1], before[::-1], schedule=schedule)


def flow(field: Field, schedule: Schedule) -> Field:
    """A diffusion model as a field of velocities on the straight path from noise at t = 0 to data at t = 1.

        x = t x_0 + (1 - t) e = r (sqrt(a) x_0 + sqrt(1 - a) e)      r^2 = t^2 + (1 - t)^2,  sqrt(a) = t / r            (2)
        v = x_0 - e

    The timestep is the one, between those of training, whose a is that of t (linearly in log(a / (1 - a))); before the noisiest of them and after the
    cleanest one it stays there.

    Args:
      field: of the model at timesteps, s = (timestep,), see `jvflow.networks.as_field`; its first output is what `schedule.prediction` says.
      schedule: of the model's training.
    """
    return jax.tree_util.Partial(partial(_velocity, schedule), as_partial(field))


def _velocity(schedule: Schedule, field, x, s, condition=None):
    t = jnp.clip(s[0], 0.0, 1.0)
    alphas = schedule.alphas()
    odds = np.log(alphas / (1 - alphas))  # falls over the timesteps
    wanted = jnp.clip(2 * (jnp.log(t) - jnp.log1p(-t)), odds[-1], odds[0])
    timestep = jnp.interp(wanted, odds[::-1], np.arange(schedule.train_steps)[::-1].astype(float))
    a, r = expand_like(jax.nn.sigmoid(wanted), x), expand_like(jnp.sqrt(t**2 + (1 - t) ** 2), x)
    clean, noise = _read(field(x / r, (timestep,), condition)[0], x / r, a, schedule)
    return (clean - noise,)


@partial(jax.jit, static_argnames="schedule")
def _moved(predict, x, at, before, after, *, schedule):
    def step(x, move):
        t, a, b = move
        model = predict(x, jnp.full(len(x), t))
        clean, noise = _read(model, x, a, schedule)
        return jnp.sqrt(b) * clean + jnp.sqrt(1 - b) * noise, None  # (1)

    moves = jnp.asarray(at), *(jnp.asarray(a, x.dtype) for a in (before, after))
    return jax.lax.scan(step, x, moves)[0]


def _read(model, x, a, schedule):
    """x_0 and e, of what the model says."""
    size, noise_size = jnp.sqrt(a), jnp.sqrt(1 - a)
    if schedule.prediction == "epsilon":
        clean, noise = (x - noise_size * model) / size, model
    elif schedule.prediction == "sample":
        clean, noise = model, (x - size * model) / noise_size
    else:
        clean, noise = size * x - noise_size * model, size * model + noise_size * x
    return clean if schedule.clip is None else jnp.clip(clean, -schedule.clip, schedule.clip), noise
