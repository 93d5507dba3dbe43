"""Paths between two ends, their velocities, and the regression that learns them.

Flow time t runs from 0 (the source: a past frame, or noise) to 1 (the data).

    linear      x(t)        = x0 + t (x1 - x0)                  v = x1 - x0                 (1)
    bilinear    x(t, alpha) = x0 + t (x1 - x0) + alpha n        (v, d) = (x1 - x0, n)       (2)   Bi-flow, eq. 4
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
    """States between x0 and x1 at equally spaced t, for `jvflow.flow.curved`."""


Position = TypeVar("Position", bound=Callable[[Any, tuple], Array])


@dataclass(frozen=True)
class Path(Generic[Position]):
    """A path: a position as a function of one or more coordinates.

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


LINEAR = Path(_linear, coordinates=1)
BILINEAR = Path(_bilinear, coordinates=2)


def matching_loss(path, field, ends, s: Coordinates, condition=None, loss_weights=None) -> Float[Array, "b"]:
    """Computes the flow-matching regression (3): one number per example.

    The squared error of each velocity is averaged over all but the batch axis, and summed over the coordinates of
    the path with `loss_weights` (1 each when None, as in the papers): numbers, or functions `s -> (b,)`.
    """
    x, targets = path(ends, s)
    outputs = field(x, s, condition)
    if len(outputs) != len(targets):
        raise ValueError(
            f"the path has {len(targets)} velocities, the field returned {len(outputs)}: "
            "build the network with as many velocities as the objective has coordinates"
        )
    loss_weights = (1.0,) * len(targets) if loss_weights is None else loss_weights
    loss_weights = [w(s) if callable(w) else w for w in loss_weights]
    errors = [w * squared_error(a, b) for w, a, b in zip(loss_weights, outputs, targets, strict=True)]
    return sum(errors)  # pyright: ignore[reportReturnType]


def squared_error(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, "b"]:
    """Returns the mean squared difference over all but the batch axis."""
    return jnp.mean(jnp.square(a - b).reshape(len(a), -1), axis=1)
