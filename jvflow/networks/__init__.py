"""Networks: Flax modules, built once and used as pure functions.

A network enters the library through `build` and leaves it as a field, `(x, s, condition) ->
velocities`; no loss and no sampler sees a module.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from jvflow.field import Field
from jvflow.mesh import Rules
from jvflow.networks import dit
from jvflow.networks.dit import DiT, DiTConfig

__all__ = ["Network", "as_field", "build", "check", "check_mesh", "functional", "tokens"]


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      apply: `(params, x, s, condition) -> velocities`.
      params: its parameters, where it came with some; else None.
      config: its sizes.
      init: `key -> params`, where it can start from nothing.
      rules: how its parameters are split over a mesh, see `jvflow.mesh`.
    """

    apply: Callable
    params: Any = None
    config: Any = None
    init: Callable | None = None
    rules: Rules = ()


def build(name: str, **sizes) -> Network:
    """A network by its name ("dit") and the fields of its config, without parameters."""
    if name != "dit":
        raise ValueError(f"unknown network {name!r}: use 'dit'")
    sizes["patch"] = tuple(sizes["patch"])
    return functional(DiT, DiTConfig(**sizes), dit.RULES)


def functional(module: type[nnx.Module], config, rules: Rules = ()) -> Network:
    """A module, `module(config, rngs=...)`, as pure functions; `apply(params, ..., method=NAME)` calls another of its methods."""

    def init(key):
        return nnx.to_pure_dict(nnx.state(module(config, rngs=nnx.Rngs(params=key)), nnx.Param))

    def apply(params, *inputs, method="__call__", **named):
        abstract = nnx.eval_shape(lambda: module(config, rngs=nnx.Rngs(0)))
        nnx.update(abstract, params)
        return getattr(abstract, method)(*inputs, **named)

    return Network(apply=apply, config=config, init=init, rules=rules)


def check(network: Network, shape: tuple) -> None:
    """Raises a ValueError when the network does not take latents of shape (f, h, w, c)."""
    dit.grid(network.config, shape)


def check_mesh(network: Network, shape: tuple, mesh) -> None:
    """Raises a ValueError when a mesh cannot split the tokens of latents of shape (f, h, w, c), or the network's heads."""
    dit.check_mesh(network.config, shape, mesh)


def tokens(network: Network, shape: tuple) -> int:
    """How many tokens the network makes of latents of shape (f, h, w, c)."""
    return math.prod(dit.grid(network.config, shape))


def as_field(network: Network, params: Any = None) -> Field:
    """The network as a field: a pytree whose leaves are its parameters."""
    params = network.params if params is None else params
    if params is None:
        raise ValueError("this network has no parameters: give params=, for example network.init(key)")
    return jax.tree_util.Partial(network.apply, params)
