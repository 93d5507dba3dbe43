"""Paths between two ends, their velocities, and the regression that learns them.

Flow time t runs from 0 (the source: a past frame, or noise) to 1 (the data).

    linear      x(t)        = x0 + t (x1 - x0)                  v = x1 - x0                 (1)
    bilinear    x(t, alpha) = x0 + t (x1 - x0) + alpha n        (v, d) = (x1 - x0, n)       (2)   Bi-flow, eq. 4
    curved      x(t, alpha) = sum_j w_j(t) u_j + alpha n        u_0 = x0, u_m = x1, and true frames between     (4)
    latent      x(t) = sigma(t) z + mu(t),  mu(t) = r(t) sum_k w_k(t / T) u_k               (5)   VLFM, eq. 3
    matching    |f_i(x(s), s) - dx/ds_i|^2, summed over the coordinates s_i of the path     (3)   Bi-flow, eq. 1, 3 and 5

On the latent path t is video time in seconds, T the length of a clip whose frame k of N is at k T / N, and w the
weights of the clip's polynomial (`jvflow.hippo`). With N / T = R frames per second, its noise level is

    exponential     (1 - s0) exp(-alpha R t) + s0                                           (6)
    paper           (1 - s0) (sin^2(pi R t) + exp(-alpha t)) + s0                           (7)   VLFM, section 4.2

By (7) a state between two frames is mostly noise, and sigma passes 1; (6) is the default. VLFM asserts mu(0) = 0, which
a polynomial through the frames does not fulfil, and nothing would know mu(0) when a clip is generated. So r rises
smoothly from 0 to 1 until the first frame, and a path starts at x(0) = z.

A path gives the position alone. Its velocities are one `jax.jvp` of that position for each
coordinate, so value and derivative cannot disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jvflow import hippo

Coordinates = tuple[Float[Array, "b"], ...]
"""The coordinates s of a batch on its path: (t,) or (t, alpha), each (b,)."""

Velocities = tuple[Float[Array, "b ..."], ...]
"""One velocity for each coordinate, each of the shape of x."""


class Ends(NamedTuple):
    """What a path runs between. Arrays share one shape, (b, f, h, w, c) in this project."""

    x0: Float[Array, "b ..."]
    x1: Float[Array, "b ..."]
    noise: Float[Array, "b ..."] | None = None
    between: Float[Array, "b m ..."] | None = None
    """States between x0 and x1 at equal distances of t, for the curved path."""


class Clip(NamedTuple):
    """What the latent path runs through: the frames of a clip, and the noise z of one frame."""

    frames: Float[Array, "b n ..."]
    noise: Float[Array, "b ..."]


@dataclass(frozen=True)
class Path:
    """A path with coordinates.

    Attributes:
      position: `(ends, s) -> x` for one example: `s` is a tuple of scalars, one per coordinate.
      coordinates: how many coordinates the path has.
    """

    position: Callable[[Ends | Clip, tuple], Array]
    coordinates: int

    def __call__(self, ends: Ends | Clip, s: Coordinates) -> tuple[Array, Velocities]:
        """Returns `x (b, ...)` at the coordinates `s`, each (b,), and the velocities there."""
        if len(s) != self.coordinates:
            raise ValueError(f"this path has {self.coordinates} coordinates, {len(s)} were given")

        def one(ends, s):
            along = lambda s: self.position(ends, s)
            basis = [
                tuple(jnp.ones_like(c) if i == j else jnp.zeros_like(c) for j, c in enumerate(s))
                for i in range(len(s))
            ]
            return along(s), tuple(jax.jvp(along, (s,), (e,))[1] for e in basis)

        return jax.vmap(one)(ends, s)


def _linear(ends: Ends, s: tuple) -> Array:
    (t,) = s
    return ends.x0 + t * (ends.x1 - ends.x0)  # (1)


def _bilinear(ends: Ends, s: tuple) -> Array:
    t, alpha = s
    return ends.x0 + t * (ends.x1 - ends.x0) + alpha * ends.noise  # (2)


def _curved(ends: Ends, s: tuple) -> Array:
    t, alpha = s
    knots = jnp.concatenate([ends.x0[None], ends.between, ends.x1[None]])
    return jnp.tensordot(_interpolation(t, len(knots)), knots, 1) + alpha * ends.noise  # (4)


def _interpolation(t, knots: int) -> Float[Array, "m"]:
    """Weights of equally spaced knots at t in [0, 1]: the cubic through them whose slope is continuous.

    Keys' kernel with a = -1/2, exact for parabolas, and beyond the ends a straight line.
    """
    at = jnp.abs(t * (knots - 1) - jnp.arange(-1, knots + 1, dtype=t.dtype))
    near, far = 1 + at**2 * (1.5 * at - 2.5), 2 + at * (-4 + at * (2.5 - 0.5 * at))
    w = jnp.where(at <= 1, near, jnp.where(at < 2, far, 0.0))
    inner = w[1:-1].at[0].add(2 * w[0]).at[1].add(-w[0])
    return inner.at[-1].add(2 * w[-1]).at[-2].add(-w[-1])


LINEAR = Path(_linear, coordinates=1)
BILINEAR = Path(_bilinear, coordinates=2)
CURVED = Path(_curved, coordinates=2)


# --- the latent path ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SigmaSchedule:
    """The noise level over video time, 1 at the start.

    Attributes:
      frame_rate: R, frames per second.
      kind: "exponential" (6) or "paper" (7).
      minimum: s0, the level at the frames.
      alpha: of (6) per frame, where 7 brings the first frame within a tenth of `minimum`; of (7) per second,
        where the paper has 10.
    """

    frame_rate: float
    kind: str = "exponential"
    minimum: float = 0.01
    alpha: float = 7.0

    def __post_init__(self):
        if self.kind not in ("exponential", "paper"):
            raise ValueError(f"unknown schedule {self.kind!r} of sigma: use exponential or paper")
        if not (self.frame_rate > 0 and self.alpha > 0 and 0 < self.minimum < 1):
            raise ValueError(
                f"a schedule of sigma needs frame_rate and alpha above 0 and a minimum in (0, 1), got frame_rate {self.frame_rate}, "
                f"alpha {self.alpha}, minimum {self.minimum}"
            )

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """sigma at t, in seconds."""
        if self.kind == "exponential":
            above = jnp.exp(-self.alpha * self.frame_rate * t)  # (6)
        else:
            above = jnp.square(jnp.sin(jnp.pi * self.frame_rate * t)) + jnp.exp(-self.alpha * t)  # (7)
        return (1 - self.minimum) * above + self.minimum


@dataclass(frozen=True)
class LatentPosition:
    """The position (5) on the latent path of one `Clip`; `mean` is what it is without noise.

    Attributes:
      frames: N of the clip.
      order, rule: of its polynomial, see `jvflow.hippo`.
      sigma: the noise level; its frame rate is the clip's.
      ramp: whether the mean rises from 0 (r in (5)); without it mu(0) is the polynomial's own.
      allow_divergence: lets a diverging rule through.
    """

    frames: int
    order: int
    sigma: SigmaSchedule
    rule: str = "first_order_hold"
    ramp: bool = True
    allow_divergence: bool = False

    def __post_init__(self):
        hippo.kernel(self.frames, self.order, self.rule, allow_divergence=self.allow_divergence)

    @property
    def seconds(self) -> float:
        """The length of the clip, T."""
        return self.frames / self.sigma.frame_rate

    def mean(self, frames: Float[Array, "n ..."], t: Float[Array, ""]) -> Float[Array, "..."]:
        """mu (5) at t in seconds. Beyond the clip it is what the polynomial says, which soon is nothing true."""
        if len(frames) != self.frames:
            raise ValueError(f"this path is for clips of {self.frames} frames, got {len(frames)}")
        t = jnp.asarray(t, frames.dtype)
        at = (t / self.seconds)[None]
        w, _ = hippo.weights(at, self.frames, self.order, self.rule, extrapolate=True, allow_divergence=self.allow_divergence)
        return self._rise(t) * jnp.tensordot(w[0], frames, 1)

    def _rise(self, t):
        first = jnp.clip(t * self.sigma.frame_rate, 0.0, 1.0)
        return jnp.square(first) * (3 - 2 * first) if self.ramp else jnp.ones_like(t)

    def __call__(self, clip: Clip, s: tuple) -> Array:
        (t,) = s
        return self.sigma(t) * clip.noise + self.mean(clip.frames, t)  # (5)


def latent(frames: int, order: int, sigma: SigmaSchedule, rule: str = "first_order_hold", *, ramp: bool = True, allow_divergence: bool = False) -> Path:
    """The latent path (5) through clips of `frames` frames. Its `position` has `mean`, `sigma` and `seconds`."""
    return Path(LatentPosition(frames, order, sigma, rule, ramp, allow_divergence), coordinates=1)


# --- the regression -------------------------------------------------------------------------------


def matching_loss(path, field, ends: Ends, s: Coordinates, condition=None, weights=None) -> Float[Array, "b"]:
    """The flow-matching regression (3): one number per example.

    The squared error of each velocity is averaged over all but the batch axis, and summed over
    the coordinates of the path with `weights` (1 each when None, as the papers do).
    """
    x, targets = path(ends, s)
    outputs = field(x, s, condition)
    if len(outputs) != len(targets):
        raise ValueError(
            f"the path has {len(targets)} velocities, the field returned {len(outputs)}: "
            "build the network with as many velocities as the objective has coordinates"
        )
    weights = (1.0,) * len(targets) if weights is None else weights
    return sum(w * squared_error(a, b) for w, a, b in zip(weights, outputs, targets, strict=True))


def squared_error(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, "b"]:
    """The mean over all but the batch axis."""
    return jnp.mean(jnp.square(a - b).reshape(len(a), -1), axis=1)
