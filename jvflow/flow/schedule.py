"""The noise schedules of diffusion models, as public files of diffusers describe them.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e        a_t the cumulative product of 1 - beta; noise at large t

A file names the class of a scheduler. Absent keys take the defaults of that class, which differ: DDIM and DDPM clamp
x_0, others do not; some space their steps evenly over all timesteps, others lead or trail. Only schedules of betas are
read: a scheduler of flow matching has none.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Num

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
GRIDS = ("ddim", "euler", "multistep")
TRAINING = dict(
    num_train_timesteps=1000,
    beta_start=0.0001,
    beta_end=0.02,
    beta_schedule="linear",
    trained_betas=None,
    prediction_type="epsilon",
    steps_offset=0,
)
STEPS = dict(timestep_spacing="leading", clip_sample=False, clip_sample_range=1.0, set_alpha_to_one=True)
STEPS |= dict(rescale_betas_zero_snr=False, snr_shift_scale=1.0, thresholding=False)
EULER = STEPS | dict(timestep_spacing="linspace", use_karras_sigmas=False, use_exponential_sigmas=False)
EULER |= dict(use_beta_sigmas=False, interpolation_type="linear", timestep_type="discrete", final_sigmas_type="zero")
EULER |= dict(sigma_min=None, sigma_max=None)
MULTISTEP = EULER | dict(use_lu_lambdas=False, lambda_min_clipped=-math.inf)
CLASSES = {
    "DDIMScheduler": ("ddim", True, STEPS | dict(clip_sample=True)),
    "DDPMScheduler": ("ddim", False, STEPS | dict(clip_sample=True)),
    "PNDMScheduler": ("ddim", True, STEPS | dict(set_alpha_to_one=False)),
    "CogVideoXDDIMScheduler": (
        "ddim",
        True,
        STEPS
        | dict(clip_sample=True, snr_shift_scale=3.0)
        | dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    ),
    "EulerDiscreteScheduler": ("euler", False, EULER),
    "EulerAncestralDiscreteScheduler": ("euler", False, EULER),
    "LMSDiscreteScheduler": ("euler", False, EULER),
    "HeunDiscreteScheduler": ("euler", False, EULER | dict(beta_start=0.00085, beta_end=0.012)),
    "DEISMultistepScheduler": ("multistep", False, MULTISTEP | dict(set_alpha_to_one=False)),
    "DPMSolverMultistepScheduler": ("multistep", False, MULTISTEP),
    "UniPCMultistepScheduler": ("multistep", False, MULTISTEP),
}
"""For each class of diffusers: the grid of its steps (see `Schedule`), whether all its steps have one length, and its
defaults where they differ from `TRAINING`. A class without one of these keys has the value that describes it."""


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
      trained_betas: all betas, instead of a `beta_schedule`.
      rescale_betas_zero_snr: whether a_t is shifted and scaled so that the last one is 0 (arXiv 2305.08891).
      snr_shift_scale: factor s of the noise, a / (s + (1 - s) a) replaces a.
      grid: whose timesteps are taken: "ddim", "euler" (fractions of timesteps with "linspace"), or "multistep" (the
        last of the timesteps is left out).
      equal_steps: whether a step ends num_train_timesteps // steps earlier; otherwise it ends where the next begins.
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
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    snr_shift_scale: float = 1.0
    grid: str = "ddim"
    equal_steps: bool = True

    def __post_init__(self):
        for value, known in (
            (self.beta_schedule, BETA_SCHEDULES),
            (self.prediction_type, PREDICTION_TYPES),
            (self.timestep_spacing, TIMESTEP_SPACINGS),
            (self.grid, GRIDS),
        ):
            if value not in known:
                raise ValueError(f"unknown {value!r} in a diffusion schedule: use one of {', '.join(known)}")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr makes the noisiest x_t pure noise, from which a model of prediction_type "
                "epsilon gives no data: use v_prediction or sample, or rescale_betas_zero_snr=False"
            )
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} entries for num_train_timesteps "
                f"{self.num_train_timesteps}: use as many"
            )

    @classmethod
    def from_config(cls, config: Mapping) -> "Schedule":
        """Reads the dict of a public scheduler_config.json; without `_class_name` it is a DDIMScheduler's.

        Raises:
          ValueError: for another class, a scheduler of flow matching, or values that are not supported; the message
            gives each of them with the values that are allowed.
        """
        grid, equal_steps, values = _read(config)
        kept = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "prediction_type")
        kept += ("timestep_spacing", "steps_offset", "set_alpha_to_one", "rescale_betas_zero_snr", "snr_shift_scale")
        betas = values["trained_betas"]
        return cls(
            **{key: values[key] for key in kept},
            clip_range=values["clip_sample_range"] if values["clip_sample"] else None,
            trained_betas=None if betas is None else tuple(betas),
            grid=grid,
            equal_steps=equal_steps,
        )

    def alphas(self) -> Float[np.ndarray, "num_train_timesteps"]:
        """Returns a_t of every timestep."""
        n = self.num_train_timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n) ** 2
        else:
            bar = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar(np.arange(1, n + 1) / n) / bar(np.arange(n) / n), 0.999)
        alphas = np.cumprod(1 - betas)
        alphas = alphas / (self.snr_shift_scale + (1 - self.snr_shift_scale) * alphas)
        if self.rescale_betas_zero_snr:
            signal = np.sqrt(alphas)
            alphas = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
        return alphas

    def timesteps(self, steps: int) -> Num[np.ndarray, "steps"]:
        """Returns the timesteps of a solve, from noise to data; fractions if "euler" spaces them by "linspace"."""
        n, one_more = self.num_train_timesteps, self.grid == "multistep" and self.timestep_spacing != "trailing"
        if not 1 <= steps <= n - one_more or steps != int(steps):
            raise ValueError(
                f"steps must be a whole number from 1 to {n - one_more}, the timesteps of training, got {steps}"
            )
        count = int(steps) + one_more
        if self.timestep_spacing == "linspace":
            at = np.linspace(0, n - 1, count)[::-1]
            at = at if self.grid == "euler" else at.round().astype(int)
        elif self.timestep_spacing == "leading":
            at = (np.arange(count) * (n // count))[::-1] + self.steps_offset
        else:
            at = np.round(np.arange(n, 0, -n / steps)).astype(int) - 1
        return at[: int(steps)]

    def step_table(
        self, steps: int
    ) -> tuple[Num[np.ndarray, "steps"], Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        """Returns the timestep of each step from noise to data, a at the timestep, and a after the step."""
        alphas, at = self.alphas(), self.timesteps(steps)
        if at.max() >= self.num_train_timesteps:
            raise ValueError(
                f"{steps} steps with offset {self.steps_offset} reach timestep {at.max()}, but training had only "
                f"{self.num_train_timesteps} timesteps: use another number of steps"
            )
        a = _interpolate(alphas, at)
        last = 1.0 if self.set_alpha_to_one else alphas[0]
        if not self.equal_steps:
            return at, a, np.append(a[1:], last)
        after = at - self.num_train_timesteps // steps
        return at, a, np.where(after >= 0, _interpolate(alphas, np.maximum(after, 0)), last)


def _interpolate(alphas: Float[np.ndarray, "n"], at: Num[np.ndarray, "steps"]) -> Float[np.ndarray, "steps"]:
    """Returns a at timesteps; between two of them sqrt((1 - a) / a) is linear."""
    if np.issubdtype(at.dtype, np.integer):
        return alphas[at]
    ratio = np.sqrt((1 - alphas) / np.maximum(alphas, 2.0**-24))
    return 1 / (1 + np.interp(at, np.arange(len(alphas)), ratio) ** 2)


# --- public files ---------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int, most: int) -> tuple[str, Callable[[Any], bool]]:
    return (
        f"a whole number from {least} to {most}",
        lambda v: isinstance(v, int) and _is_number(v) and least <= v <= most,
    )


def _one_of(*values) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(map(repr, values)), lambda v: v in values


BETA = ("a number above 0 and below 1", lambda v: _is_number(v) and 0 < v < 1)
ABOVE_ZERO = ("a number above 0", lambda v: _is_number(v) and 0 < v < math.inf)
FLAG, FALSE = ("True or False", lambda v: v is None or isinstance(v, bool)), ("False", lambda v: not v)
ALLOWED = dict(
    num_train_timesteps=_whole(2, 10**6),
    beta_start=BETA,
    beta_end=BETA,
    beta_schedule=_one_of(*BETA_SCHEDULES),
    trained_betas=(
        "None or a list of numbers above 0 and below 1",
        lambda v: v is None or (isinstance(v, list | tuple) and bool(v) and all(map(BETA[1], v))),
    ),
    prediction_type=_one_of(*PREDICTION_TYPES),
    steps_offset=_whole(0, 10**6),
    timestep_spacing=_one_of(*TIMESTEP_SPACINGS),
    clip_sample=FLAG,
    clip_sample_range=ABOVE_ZERO,
    set_alpha_to_one=FLAG,
    rescale_betas_zero_snr=FLAG,
    snr_shift_scale=ABOVE_ZERO,
    thresholding=FALSE,
    use_karras_sigmas=FALSE,
    use_exponential_sigmas=FALSE,
    use_beta_sigmas=FALSE,
    use_lu_lambdas=FALSE,
    interpolation_type=_one_of("linear"),
    timestep_type=_one_of("discrete"),
    final_sigmas_type=_one_of("zero", "sigma_min"),
    sigma_min=_one_of(None),
    sigma_max=_one_of(None),
    lambda_min_clipped=_one_of(-math.inf),
)
"""The values of each key that can be read: in words, and as a test."""


def _read(config: Any) -> tuple[str, bool, dict]:
    """Returns grid, equal_steps and the values of all keys that the class of a scheduler_config.json has."""
    if not isinstance(config, Mapping):
        raise ValueError(f"a scheduler's config is an object with keys, got {config!r}")
    name = config.get("_class_name", "DDIMScheduler")
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flow or (isinstance(name, str) and "FlowMatch" in name):
        raise ValueError(
            f"the scheduler {name} of this config is for flow matching, and a diffusion model has a schedule of betas: "
            "give the scheduler of the diffusion model"
        )
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"the scheduler {name} of this config cannot be read: use one of {', '.join(CLASSES)}")
    grid, equal_steps, defaults = CLASSES[name]
    values = {key: config.get(key, default) for key, default in (TRAINING | defaults).items()}
    wrong = [
        f"{key} is {values[key]!r}, allowed: {ALLOWED[key][0]}" for key in values if not ALLOWED[key][1](values[key])
    ]
    if wrong:
        raise ValueError(f"the scheduler {name} of this config cannot be read: {'; '.join(wrong)}")
    if values.get("final_sigmas_type") == "sigma_min":
        values["set_alpha_to_one"] = False
    return grid, equal_steps, values
