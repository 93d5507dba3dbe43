"""The state of a run: everything that a step changes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, Int

from jvflow.networks import Network
from jvflow.training.lora import ALL, Tuning


@struct.dataclass
class State:
    """Everything a training step changes.

    Attributes:
      step: steps done.
      params: what is trained.
      frozen: parameters that are only read, beside `params` in the network; may be empty.
      ema: exponential moving average of `params`, or None.
      opt_state: of the optimizer.
    """

    step: Int[Array, ""]
    params: Any
    frozen: Any
    ema: Any
    opt_state: Any


def merge(frozen: Any, params: Any) -> Any:
    """The network's whole parameters: frozen ones and trained ones, joined at their paths."""
    if not frozen:
        return params
    flat = traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(flat)


def create(key, network: Network, optimizer: optax.GradientTransformation, *, ema: bool, params: Any = None, tuning: Tuning = ALL) -> State:
    """The state before the first step: of given parameters, or of new ones. The optimizer's is of what trains."""
    params, frozen = tuning.parts(key, network.init(key) if params is None else params)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        ema=jax.tree.map(jnp.array, params) if ema else None,
        opt_state=optimizer.init(params),
    )
