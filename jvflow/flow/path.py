"""Paths between two ends, their velocities, and the regression that learns them.

Flow time t runs from 0 (the source: a past frame, or noise) to 1 (the data).

    linear      x(t)        = x0 + t (x1 - x0)                  v = x1 - x0                 (1)
    bilinear    x(t, alpha) = x0 + t (x1 - x0) + alpha n        (v, d) = (x1 - x0, n)       (2)   Bi-flow, eq. 4
    curved      x(t, alpha) = sum_j w_j(t) u_j + alpha n        u_0 = x0, u_m = x1, real frames between     (4)
    matching    |f_i(x(s), s) - dx/ds_i|^2, summed over the coordinates s_i of the path     (3)   Bi-flow, eq. 1, 3, 5

Velocities are `jax.jvp`s of the position, one for each coordinate, so value and derivative cannot disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Coordinates = tuple[Float[Array, "b"], ...]
"""The coordinates s of a batch on its path: (t,) or (t, alpha), each (b,)."""

Velocities = tuple[Float[Array, "b ..."], ...]
"""One velocity for each coordinate, each of the shape of x."""


class Ends(NamedTuple):
    """The ends of a path. The arrays share one shape, (b, f, h, w, c) in this project."""

    x0: Float[Array, "b ..."]
    x1: Float[Array, "b ..."]
    noise: Float[Array, "b ..."] | None = None
    between: Float[Array, "b m ..."] | None = None
    """States between x0 and x1 at equally spaced t, for the curved path."""


Position = TypeVar("Position", bound=Callable[[Any, tuple], Array])


@dataclass(frozen=True)
class Path(Generic[Position]):
    """A path with coordinates.

    Attributes:
      position: `(ends, s) -> x` for one example: `s` is a tuple of scalars, one per coordinate.
      coordinates: the number of coordinates.
    """

    position: Position
    coordinates: int

    def __call__(self, ends: Any, s: Coordinates) -> tuple[Array, Velocities]:
        """Returns x (b, ...) at the coordinates `s` and the velocities there."""
        if len(s) != self.coordinates:
            raise ValueError(f"this path has {self.coordinates} coordinates, {len(s)} were given")

        def one(ends, s):
            unit = lambda i: tuple(jnp.ones_like(c) if i == j else jnp.zeros_like(c) for j, c in enumerate(s))
            derivative = lambda i: jax.jvp(lambda s: self.position(ends, s), (s,), (unit(i),))
            values, velocities = zip(*map(derivative, range(len(s))))
            return values[0], velocities

        return jax.vmap(one)(ends, s)


def _linear(ends, s: tuple) -> Array:
    (t,) = s
    return ends.x0 + t * (ends.x1 - ends.x0)  # (1)


def _bilinear(ends, s: tuple) -> Array:
    t, alpha = s
    return ends.x0 + t * (ends.x1 - ends.x0) + alpha * ends.noise  # (2)


def _curved(ends, s: tuple) -> Array:
    t, alpha = s
    knots = jnp.concatenate([ends.x0[None], ends.between, ends.x1[None]])
    return jnp.tensordot(_basis_weights(t, len(knots)), knots, 1) + alpha * ends.noise  # (4)


def _basis_weights(t, knots: int) -> Float[Array, "m"]:
    """Returns the weights w(t), t in [0, 1], of the piecewise cubic with continuous slope through equally spaced knots.

    Keys' kernel with a = -1/2: exact for parabolas, and straight beyond the ends.
    """
    at = jnp.abs(t * (knots - 1) - jnp.arange(-1, knots + 1, dtype=t.dtype))
    near, far = 1 + at**2 * (1.5 * at - 2.5), 2 + at * (-4 + at * (2.5 - 0.5 * at))
    w = jnp.where(at <= 1, near, jnp.where(at < 2, far, 0.0))
    inner = w[1:-1].at[0].add(2 * w[0]).at[1].add(-w[0])
    return inner.at[-1].add(2 * w[-1]).at[-2].add(-w[-1])


LINEAR = Path(_linear, coordinates=1)
BILINEAR = Path(_bilinear, coordinates=2)
CURVED = Path(_curved, coordinates=2)


def matching_loss(path, field, ends, s: Coordinates, condition=None, loss_weights=None) -> Float[Array, "b"]:
    """Computes the flow-matching regression (3): one number per example.

    The squared error of each velocity is averaged over all but the batch axis, and summed over the coordinates of
    the path with `loss_weights` (1 each when None, as in the papers).
    """
    x, targets = path(ends, s)
    outputs = field(x, s, condition)
    if len(outputs) != len(targets):
        raise ValueError(
            f"the path has {len(targets)} velocities, the field returned {len(outputs)}: "
            "build the network with as many velocities as the objective has coordinates"
        )
    loss_weights = (1.0,) * len(targets) if loss_weights is None else loss_weights
    errors = [w * squared_error(a, b) for w, a, b in zip(loss_weights, outputs, targets, strict=True)]
    return sum(errors)  # pyright: ignore[reportReturnType]


def squared_error(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, "b"]:
    """Returns the mean squared difference over all but the batch axis."""
    return jnp.mean(jnp.square(a - b).reshape(len(a), -1), axis=1)
