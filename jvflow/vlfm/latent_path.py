"""The latent path of VLFM: a continuous function of video time through the frames of a clip.

    x(t)  = sigma(t) z + mu(t),    mu(t) = r(t) sum_k w_k(t / T) u_k               (1)   VLFM, eq. 3

t is video time in seconds. A clip has the length T, and frame k of N is at k T / N. w are the weights of the frames in
the clip's polynomial (`jvflow.vlfm.hippo`). With N / T = R frames per second, the noise level is

    exponential     (1 - s0) exp(-alpha R t) + s0                                  (2)
    paper           (1 - s0) (sin^2(pi R t) + exp(-alpha t)) + s0                  (3)   VLFM, section 4.2

With (3) a state between two frames is mostly noise, and sigma exceeds 1; (2) is the default. VLFM asserts mu(0) = 0.
A polynomial through the frames does not satisfy this, and mu(0) is unknown when a clip is generated. So r rises
smoothly from 0 to 1 until the first frame, and every path starts at x(0) = z.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Key

from jvflow.assembly import split_each
from jvflow.flow.path import Path
from jvflow.vlfm import hippo


class LatentEnds(NamedTuple):
    """The data of a latent path: the frames of a clip in order, and the noise z of one frame."""

    frames: Float[Array, "b n ..."]
    noise: Float[Array, "b ..."]


@dataclass(frozen=True)
class SigmaSchedule:
    """The noise level over video time, 1 at the start.

    Attributes:
      frame_rate: R, frames per second.
      kind: "exponential" (2) or "paper" (3).
      sigma_min: s0, the level at the frames.
      alpha: rate of decay. In (2) per frame: with 7 the level at the first frame exceeds `sigma_min` of 0.01 by less
        than a tenth. In (3) per second: 10 in the paper.
    """

    frame_rate: float
    kind: str = "exponential"
    sigma_min: float = 0.01
    alpha: float = 7.0

    def __post_init__(self):
        if self.kind not in ("exponential", "paper"):
            raise ValueError(f"unknown schedule {self.kind!r} of sigma: use exponential or paper")
        if not (self.frame_rate > 0 and self.alpha > 0 and 0 < self.sigma_min < 1):
            raise ValueError(
                "a schedule of sigma needs frame_rate and alpha above 0 and sigma_min in (0, 1), got frame_rate "
                f"{self.frame_rate}, alpha {self.alpha}, sigma_min {self.sigma_min}"
            )

    def __call__(self, t: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """Returns sigma at t, in seconds."""
        if self.kind == "exponential":
            above = jnp.exp(-self.alpha * self.frame_rate * t)  # (2)
        else:
            above = jnp.square(jnp.sin(jnp.pi * self.frame_rate * t)) + jnp.exp(-self.alpha * t)  # (3)
        return (1 - self.sigma_min) * above + self.sigma_min


@dataclass(frozen=True)
class LatentPosition:
    """The position (1) on the latent path of one example of `LatentEnds`; `mean` is the position without noise.

    Attributes:
      frames: the number of frames, N.
      order, rule: the polynomial's order and rule, see `jvflow.vlfm.hippo`.
      sigma: the noise level; its frame rate is the clip's.
      ramp: True if the mean rises from 0 (r in (1)); otherwise r = 1, and mu(0) is the value of the polynomial.
      allow_divergence: allows a rule that diverges.
      basis: "legs"; or "paper", to the letter: mu(t) = H g(t) with the printed g, of t in seconds.
    """

    frames: int
    order: int
    sigma: SigmaSchedule
    rule: str = "first_order_hold"
    ramp: bool = True
    allow_divergence: bool = False
    basis: str = "legs"

    def __post_init__(self):
        hippo.kernel(self.frames, self.order, self.rule, allow_divergence=self.allow_divergence)

    @property
    def seconds(self) -> float:
        """The duration of the clip, T."""
        return self.frames / self.sigma.frame_rate

    def mean(self, frames: Float[Array, "n ..."], t: Float[Array, ""]) -> Float[Array, "..."]:
        """Returns mu (1) at t in seconds. Beyond the clip it extrapolates, which soon is meaningless."""
        if len(frames) != self.frames:
            raise ValueError(f"this path is for clips of {self.frames} frames, got {len(frames)}")
        t = jnp.asarray(t, frames.dtype)
        options: dict = dict(extrapolate=True, allow_divergence=self.allow_divergence, basis=self.basis)
        at = t if self.basis == "paper" else t / self.seconds
        w, _ = hippo.weights(at[None], self.frames, self.order, self.rule, **options)
        return self._ramp(t) * _weighted_sum(w[0], frames)

    def _ramp(self, t):
        first = jnp.clip(t * self.sigma.frame_rate, 0.0, 1.0)
        return jnp.square(first) * (3 - 2 * first) if self.ramp else jnp.ones_like(t)

    def __call__(self, ends: LatentEnds, s: tuple) -> Array:
        (t,) = s
        return self.sigma(t) * ends.noise + self.mean(ends.frames, t)  # (1)


def latent(frames: int, order: int, sigma: SigmaSchedule, rule: str = "first_order_hold", **options) -> Path:
    """Returns the latent path (1). The arguments are the fields of `LatentPosition`, which is its `position`."""
    return Path(LatentPosition(frames, order, sigma, rule, **options), coordinates=1)


@dataclass(frozen=True)
class ClipTimeDensity:
    """The density of t: uniform, a fraction `start` of all t in the first `frames` frames and the rest in [0, T].

    `start` is in [0, 1]. The paper has start = 0.
    """

    start: float = 0.0
    frames: float = 1.0

    def __call__(self, keys: Key[Array, "b"], path: Path) -> Float[Array, "b"]:
        """Draws one t for each key, in seconds."""
        whole, early = path.position.seconds, self.frames / path.position.sigma.frame_rate
        which, at = (jax.vmap(jax.random.uniform)(each) for each in split_each(keys, 2))
        return at * jnp.where(which < self.start, early, whole)


def draw(frames, keys, times: ClipTimeDensity, path: Path) -> tuple[Array, LatentEnds]:
    """Draws t, and the ends of the path, from one key for each example."""
    key_t, key_noise = split_each(keys, 2)
    t = times(key_t, path)
    noise = jax.vmap(lambda key: jax.random.normal(key, frames[0, :1].shape, frames.dtype))(key_noise)
    return t, LatentEnds(rearrange(frames, "b n h w c -> b n 1 h w c"), noise)


@jax.custom_jvp
def _weighted_sum(w: Float[Array, "n"], frames: Float[Array, "n ..."]) -> Float[Array, "..."]:
    """Returns sum_k w_k u_k. One product gives the value and the slope in w, so that the frames are read once."""
    return jnp.tensordot(w, frames, 1)


@partial(_weighted_sum.defjvp, symbolic_zeros=True)
def _weighted_sum_jvp(primals, tangents):
    (w, frames), (dw, dframes) = primals, tangents
    is_zero = lambda tangent: isinstance(tangent, SymbolicZero)
    value, slope = jnp.tensordot(jnp.stack([w, jnp.zeros_like(w) if is_zero(dw) else dw]), frames, 1)
    return value, slope if is_zero(dframes) else slope + jnp.tensordot(w, dframes, 1)
