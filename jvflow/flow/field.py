"""Fields: the interface between a network and the rest of the library, and functions that map a field to a field.

    Field           (x, s, condition) -> velocities, one per coordinate of s; always batched
    along           dx/dk = sum_i f_i(x, s(k), condition) ds_i/dk           (1)   Bi-flow, eq. 8
    guide           v = u + w (c - u), and v = c at w = 1                    (2)   classifier-free guidance

A field is a callable. When it carries parameters it is a `jax.tree_util.Partial`, whose leaves
are arguments of a compiled function and not constants inside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """The inputs of a field other than x and s; every entry may be None.

    Attributes:
      text: embedded caption tokens (b, n, d).
      text_mask: True for real tokens, False for padding (b, n).
      context: known frames, concatenated with x on the channel axis: (b, f, h, w, c).
      fps: frames per second of the clip (b,).
      label: class index (b,), with -1 for "none".
      empty: text (1, n, d) and text_mask (1, n) of the empty caption, for `null`.
      starts: where in time each separately encoded chunk of x begins, in latent frames; one video begins at 0.
    """

    text: Float[Array | np.ndarray, "b n d"] | None = None
    text_mask: Bool[Array | np.ndarray, "b n"] | None = None
    context: Float[Array | np.ndarray, "b f h w c"] | None = None
    fps: Float[Array | np.ndarray, "b"] | None = None
    label: Int[Array | np.ndarray, "b"] | None = None
    empty: tuple | None = None
    starts: tuple[float, ...] = field(default=(0.0,), metadata=dict(static=True))


Field = Callable[[Array, tuple, Condition | None], tuple]


def null(condition: Condition | None) -> Condition | None:
    """Returns the condition with the empty caption and without a label, for guidance and caption dropout.

    The text becomes `condition.empty`, or zeros that are masked out. Its shape stays, so that both conditions use one
    compiled program. Context and fps are part of the input and stay.
    """
    if condition is None:
        return None
    text, label = condition.text, None if condition.label is None else jnp.full_like(condition.label, -1)
    if text is None:
        return replace(condition, label=label)
    empty, mask = condition.empty or (jnp.zeros_like(text), jnp.zeros(text.shape[:2], bool))
    empty, mask = jnp.broadcast_to(empty, text.shape), jnp.broadcast_to(mask, text.shape[:2])
    return replace(condition, text=empty, text_mask=mask, label=label)


def drop(condition: Condition | None, keys: Key[Array, "b"], rate: float) -> Condition | None:
    """Drops text and label, as `null` does, from each example with probability `rate` (caption dropout).

    A field that is trained this way learns both c and u of guidance (2). Takes one key per example.
    """
    if condition is None or not rate:
        return condition
    if condition.text is not None and condition.text_mask is None:
        condition = replace(condition, text_mask=jnp.ones(condition.text.shape[:2], bool))
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    parts = lambda condition: dict(text=condition.text, text_mask=condition.text_mask, label=condition.label)
    choose = lambda kept, empty: jnp.where(expand_like(dropped, kept), empty, kept)
    return replace(condition, **jax.tree.map(choose, parts(condition), parts(null(condition))))


@dataclass(frozen=True)
class Bound:
    """A function whose first arguments are `fixed`, a tuple of hashable values.

    Two `Bound`s with equal parts are equal, unlike two `functools.partial`s, so jit reuses a compiled program.
    """

    function: Callable
    fixed: tuple

    def __call__(self, *args, **options):
        return self.function(*self.fixed, *args, **options)


def as_partial(field: Callable) -> jax.tree_util.Partial:
    """Returns the field as a pytree, which can be an argument of a compiled function."""
    return field if isinstance(field, jax.tree_util.Partial) else jax.tree_util.Partial(field)


def _guided(field, weight, x, s, condition):
    if condition is None or (condition.text is None and condition.label is None):
        return field(x, s, condition)  # c = u
    if condition.text is not None and condition.text_mask is None:
        condition = replace(condition, text_mask=jnp.ones(condition.text.shape[:2], bool))
    pair = lambda a, b: jnp.stack([a, b], 1).reshape(-1, *a.shape[1:])  # in turn, so that rows stay on their devices
    conditions = jax.tree.map(pair, replace(null(condition) or condition, empty=None), replace(condition, empty=None))
    outputs = field(pair(x, x), tuple(pair(a, a) for a in s), conditions)
    halves = (v.reshape(-1, 2, *v.shape[1:]) for v in outputs)
    return tuple(v[:, 0] + weight * (v[:, 1] - v[:, 0]) for v in halves)  # (2)


def guide(field: Field, weight: float) -> Field:
    """Applies classifier-free guidance (2). With `weight` 1 returns the field itself.

    A call of the guided field calls the given field once, on twice the rows, each computed by itself: guidance doubles
    the cost of an evaluation, not the NFE.
    """
    return field if weight == 1 else jax.tree_util.Partial(_guided, as_partial(field), weight)


def along(
    field: Field, curve: Callable, condition: Condition | None, *, curve_args: tuple = (), num_moving: int | None = None
) -> Callable:
    """Restricts a field to a curve: returns the right-hand side of the differential equation (1).

    Args:
      field: returns velocities, one per coordinate.
      curve: `(k, *curve_args) -> s`, a tuple of scalars.
      curve_args: arguments of the curve that differ between samples, arrays (b,).
      condition: passed on to the field.
      num_moving: number of leading coordinates that change; the field may omit the others' velocities. None for all.

    Returns:
      `(k (b,), x (b, ...)) -> dx/dk (b, ...)`, as `solver.solve` takes it.
    """

    def derivative(k, x):
        one = lambda k, *args: jax.jvp(lambda k: curve(k, *args), (k,), (jnp.ones_like(k),))
        s, ds = jax.vmap(one)(k, *curve_args)
        need = len(s) if num_moving is None else num_moving
        velocities = field(x, s, condition)
        if len(velocities) < need:
            raise ValueError(
                f"the curve moves along {need} coordinates, but the field returns {len(velocities)} velocities: "
                "use the curve `plain` with FLOW and CONDIFF fields"
            )
        return sum(expand_like(d, x) * v for d, v in zip(ds, velocities))

    return derivative


def expand_like(values: Float[Array, "b ..."] | Bool[Array, "b"], like: Array | np.ndarray) -> Array:
    """Appends axes of size 1 to `values` (b,) or (b, f), so that they broadcast against `like` (b, f, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
