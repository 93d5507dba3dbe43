"""DDIM without noise (Song et al., arXiv 2010.02502): maps noise to data in few evaluations of a diffusion model.

    x_t  = sqrt(a_t) x_0 + sqrt(1 - a_t) e                  a_t the cumulative product of 1 - beta
    x'   = sqrt(a') x0(x, t) + sqrt(1 - a') e(x, t)         a step from a to a' with the model's output at t    (1)

Sampling goes from large t to small t. Inversion takes the same steps in reverse, with the model's output at the
timestep where each step ends. The two undo each other up to the error of a step. `flow` turns a diffusion model into a
field of flow matching.
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
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Schedule:
    """The noise schedule and output of a diffusion model, with diffusers' names and Stable Diffusion 1.5's values.

    Attributes:
      beta_schedule: "linear", "scaled_linear" (linear in the square root) or "squaredcos_cap_v2".
      beta_start, beta_end: the first and the last beta of the linear schedules.
      num_train_timesteps: number of timesteps in training.
      prediction_type: output of the model: "epsilon" e, "sample" x_0, or "v_prediction" sqrt(a) e - sqrt(1 - a) x_0.
      timestep_spacing: the spacing of a solve's steps among the timesteps: "leading", "trailing" or "linspace".
      steps_offset: number that "leading" adds to its timesteps.
      set_alpha_to_one: True if the last step ends at a = 1; otherwise it ends at the a of timestep 0.
      clip_range: x_0 is clamped to [-clip_range, clip_range], unless it is None.
    """

    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    clip_range: float | None = None

    def __post_init__(self):
        for value, known in (
            (self.beta_schedule, BETA_SCHEDULES),
            (self.prediction_type, PREDICTION_TYPES),
            (self.timestep_spacing, TIMESTEP_SPACINGS),
        ):
            if value not in known:
                raise ValueError(f"unknown {value!r} in a diffusion schedule: use one of {', '.join(known)}")

    @classmethod
    def from_config(cls, config: Mapping) -> "Schedule":
        """Reads a public scheduler_config.json; absent entries have the defaults of the diffusers package."""
        return cls(
            beta_schedule=config.get("beta_schedule", "linear"),
            beta_start=config.get("beta_start", 0.0001),
            beta_end=config.get("beta_end", 0.02),
            num_train_timesteps=config.get("num_train_timesteps", 1000),
            prediction_type=config.get("prediction_type", "epsilon"),
            timestep_spacing=config.get("timestep_spacing", "leading"),
            steps_offset=config.get("steps_offset", 0),
            set_alpha_to_one=config.get("set_alpha_to_one", True),
            clip_range=config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None,
        )

    def alphas(self) -> Float[np.ndarray, "num_train_timesteps"]:
        """Returns a_t of every timestep."""
        n = self.num_train_timesteps
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n) ** 2
        else:
            bar = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar(np.arange(1, n + 1) / n) / bar(np.arange(n) / n), 0.999)
        return np.cumprod(1 - betas)

    def timesteps(self, steps: int) -> Int[np.ndarray, "steps"]:
        """Returns the timesteps of a solve, from noise to data."""
        n = self.num_train_timesteps
        if not 1 <= steps <= n or steps != int(steps):
            raise ValueError(f"steps must be a whole number from 1 to {n}, the timesteps of training, got {steps}")
        if self.timestep_spacing == "linspace":
            return np.linspace(0, n - 1, steps).round().astype(int)[::-1]
        if self.timestep_spacing == "leading":
            return (np.arange(steps) * (n // steps))[::-1] + self.steps_offset
        return np.round(np.arange(n, 0, -n / steps)).astype(int) - 1

    def step_table(
        self, steps: int
    ) -> tuple[Int[np.ndarray, "steps"], Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        """Returns the timestep of each step from noise to data, a at the timestep, and a after the step."""
        alphas, at = self.alphas(), self.timesteps(steps)
        if at.max() >= self.num_train_timesteps:
            raise ValueError(
                f"{steps} steps with offset {self.steps_offset} reach timestep {at.max()}, but training had only "
                f"{self.num_train_timesteps} timesteps: use another number of steps"
            )
        after = at - self.num_train_timesteps // steps
        last = 1.0 if self.set_alpha_to_one else alphas[0]
        return at, alphas[at], np.where(after >= 0, alphas[np.maximum(after, 0)], last)


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
    alphas = schedule.alphas()
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
