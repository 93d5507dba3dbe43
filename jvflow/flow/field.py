"""Fields: what a network is to the rest of the library, and functions from a field to a field.

    Field           (x, s, condition) -> velocities, one per coordinate of s; always batched
    along           dx/dk = sum_i f_i(x, s(k), condition) ds_i/dk           (1)   Bi-flow, eq. 8
    guide           v = u + w (c - u), and v = c at w = 1                    (2)   classifier-free guidance

A field is a callable. When it carries parameters it is a `jax.tree_util.Partial`, whose leaves
are arguments of a compiled function and not constants inside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a field is conditioned on beside x and s; every entry may be absent.

    Attributes:
      text: embedded caption tokens (b, n, d).
      text_mask: which of them are real (b, n).
      context: frames that are known, beside x on the channel axis: (b, f, h, w, c).
      fps: frames per second of the clip (b,).
      label: class index (b,), with -1 for "none".
    """

    text: Float[Array, "b n d"] | None = None
    text_mask: Bool[Array, "b n"] | None = None
    context: Float[Array, "b f h w c"] | None = None
    fps: Float[Array, "b"] | None = None
    label: Int[Array, "b"] | None = None


Field = Callable[[Array, tuple, Condition | None], tuple]


def null(condition: Condition | None) -> Condition | None:
    """The condition without its text and its label: what guidance and caption dropout compare with.

    Masked-out text keeps its shape, so that both versions compile to one program. Context and fps
    are part of the input and stay.
    """
    if condition is None:
        return None
    text, mask, label = condition.text, condition.text_mask, condition.label
    return replace(
        condition,
        text=None if text is None else jnp.zeros_like(text),
        text_mask=None if text is None else jnp.zeros(text.shape[:2] if mask is None else mask.shape, bool),
        label=None if label is None else jnp.full_like(label, -1),
    )


def drop(condition: Condition | None, keys: Key[Array, "b"], rate: float) -> Condition | None:
    """Caption dropout: the condition with text and label left out for a part `rate` of the examples, as `null` leaves them out.

    A field that was trained so knows both fields that guidance (2) compares. One key for each example.
    """
    if condition is None or not rate:
        return condition
    out = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jax.tree.map(lambda there, gone: jnp.where(column(out, there), gone, there), condition, null(condition))


def as_partial(field: Field) -> jax.tree_util.Partial:
    """The field as a pytree, so that it can be an argument of a compiled function."""
    return field if isinstance(field, jax.tree_util.Partial) else jax.tree_util.Partial(field)


def _guided(field, weight, x, s, condition):
    unconditional = field(x, s, null(condition))
    conditional = field(x, s, condition)
    return tuple(u + weight * (c - u) for u, c in zip(unconditional, conditional))  # (2)


def guide(field: Field, weight: float) -> Field:
    """Classifier-free guidance (2). `weight` 1 means none and returns the field itself.

    Each call of the guided field calls the given one twice. A solver counts calls of the field it
    was given, so the cost of guidance is reported as a number of its own and never inside NFE.
    """
    if weight == 1:
        return field
    return jax.tree_util.Partial(_guided, as_partial(field), weight)


def _together(fields, x, s, condition=None):
    return tuple(velocity for field in fields for velocity in field(x, s, condition))


def together(*fields: Field) -> Field:
    """The velocities of several fields, one after the other: networks that were trained apart as one field."""
    return jax.tree_util.Partial(_together, tuple(as_partial(field) for field in fields))


def along(field: Field, curve: Callable, condition: Condition | None, *, each: tuple = (), moving: int | None = None) -> Callable:
    """The ordinary differential equation (1) of a field along a curve.

    Args:
      field: velocities, one per coordinate.
      curve: `(k, *each) -> s`, a tuple of scalars.
      each: what tells the curve of one sample from another's, arrays (b,).
      condition: passed on to the field.
      moving: how many coordinates change along the curve; a field may leave out the velocities of
        the others. All of them when None.

    Returns:
      `(k (b,), x (b, ...)) -> dx/dk (b, ...)`, as `solver.solve` wants it.
    """

    def derivative(k, x):
        s, ds = jax.vmap(lambda k, *of: jax.jvp(lambda k: curve(k, *of), (k,), (jnp.ones_like(k),)))(k, *each)
        need = len(s) if moving is None else moving
        velocities = field(x, s, condition)
        if len(velocities) < need:
            raise ValueError(
                f"the curve moves along {need} coordinates, the field has {len(velocities)} velocities: "
                "FLOW and CONDIFF fields take the curve `plain`"
            )
        return sum(column(d, x) * v for d, v in zip(ds, velocities))

    return derivative


def column(values: Float[Array, "b"], like: Array) -> Array:
    """Values, one for each example, against the axes of `like` (b, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
