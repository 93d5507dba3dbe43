"""The recurrence (3) of `legs` for frames that arrive one by one."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jvflow.vlfm.hippo.legs import RECURRENCES, check_finite, check_order, check_rule, step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Coefficients (s, ...) of the frames so far, the last frame, and the number of frames."""

    coefficients: Float[Array, "s ..."]
    last: Float[Array, "..."]
    count: Int[Array, ""]
    rule: str = field(default="first_order_hold", metadata=dict(static=True))


def init(order: int, shape: tuple[int, ...], rule: str = "first_order_hold") -> State:
    """Returns the state before the first frame, in float32, for frames of `shape`."""
    check_order(order)
    check_rule(rule, RECURRENCES)
    return State(jnp.zeros((order, *shape)), jnp.zeros(shape), jnp.int32(0), rule)


def update(state: State, frame: Float[Array | np.ndarray, "..."]) -> State:
    """Returns the state after one more frame, by (3).

    The step is exact to float32. Under jit, where the count is not known, it is computed on the device in
    float32: 64 frames at order 64 end within 2e-6 of the exact coefficients, 256 within 1e-5.

    Raises:
      ValueError: for a frame of another shape, or with values that are not finite (not checked under jit).
    """
    frame = jnp.asarray(frame, state.last.dtype)
    if frame.shape != state.last.shape:
        raise ValueError(f"frames of this state have the shape {state.last.shape}, got {frame.shape}")
    order = len(state.coefficients)
    if isinstance(state.count, Tracer):
        matrices = step(state.rule, (state.count + 1).astype(jnp.float32), order, jnp)
    else:
        check_finite(frame[None])
        matrices = step(state.rule, int(state.count) + 1, order, np)
    return _advance(state, frame, *(jnp.asarray(matrix, frame.dtype) for matrix in matrices))


@jax.jit
def _advance(state, frame, E, p, q):
    before = jnp.where(state.count == 0, frame, state.last)
    outer = lambda weights, values: jnp.tensordot(weights, values, 0)
    H = jnp.tensordot(E, state.coefficients, 1) + outer(p, before) + outer(q, frame)
    return State(H, frame, state.count + 1, state.rule)
