"""Networks: Flax modules, built once and used as pure functions.

`build` makes a network from its name and sizes. `as_field` turns it into a field, `(x, s, condition) -> velocities`:
losses and samplers never see a module. Each network is a file of this package, imported when it is first built.
"""

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
from flax import nnx, traverse_util
from jaxtyping import Array, Key

from jvflow.flow.field import Field
from jvflow.networks import precision
from jvflow.networks.lora import add_lora
from jvflow.parallel.sharding import LORA, Rules

NETWORKS = {"dit": "dit", "unet": "unet_field", "ltx": "ltx", "wan": "wan"}
"""The module below this package that builds each network."""


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      apply: `(params, x, s, condition) -> velocities`; in a public model's own layout if `jvflow.pretrained` made it.
      params: its parameters, or None if it has none yet.
      config: its sizes. The configs of `NETWORKS` also have `grid`, the grid of tokens, and `check_mesh`.
      init: `key -> params` if it can start from random parameters, else None.
      rules: how its parameters are split over a mesh, see `jvflow.parallel.sharding`.
      field: the network in our layout, `(params, x, s, condition)`, if `apply` has a public model's layout.
      takes_fps: whether it needs `condition.fps`.
    """

    apply: Callable
    params: Any = None
    config: Any = None
    init: Callable | None = None
    rules: Rules = ()
    field: Callable | None = None
    takes_fps: bool = False


def build(name: str, **sizes) -> Network:
    """Returns the network `name`, a key of `NETWORKS`, without parameters; `sizes` are the fields of its config."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: use one of {', '.join(NETWORKS)}")
    module = importlib.import_module(f"jvflow.networks.{NETWORKS[name]}")
    return module.build(**{key: tuple(size) if isinstance(size, list) else size for key, size in sizes.items()})


def as_field(network: Network, params: Any = None, *, cast: bool = False) -> Field:
    """Returns the network as a field: a pytree whose leaves are its parameters.

    `cast` them once, for a solve, to the dtypes in which the layers compute; the velocities are the same bit for bit.
    The field of a public model takes and returns our latents (b, f, h, w, c). Its s and its output are the model's own:
    each U-Net of Bi-flow's authors returns one velocity at (t, alpha), see `unet_field.concat_fields`;
    LTX-Video and Wan return data - noise at our t; a diffusion model returns its prediction at timesteps (t,), see
    `jvflow.flow.ddim.flow`.
    """
    if (params := network.params if params is None else params) is None:
        raise ValueError("this network has no parameters: give params=, for example network.init(key)")
    if cast and network.config.dtype != "float32":
        params = precision.as_computed(params, network.config.dtype)
    return jax.tree_util.Partial(network.field or network.apply, params)


def check(network: Network, shape: tuple) -> None:
    """Raises ValueError if the network does not take latents of shape (f, h, w, c)."""
    network.config.grid(shape)


def check_mesh(network: Network, shape: tuple, mesh) -> None:
    """Raises ValueError if a mesh cannot split the network's heads, or its tokens for latents of shape (f, h, w, c)."""
    network.config.check_mesh(shape, mesh)


def tokens(network: Network, shape: tuple) -> int:
    """Returns the number of tokens that the network makes from latents of shape (f, h, w, c)."""
    return math.prod(network.config.grid(shape))


def functional(module: type[nnx.Module] | Callable, config, rules: Rules = ()) -> Network:
    """Returns `module(config, rngs=...)` as pure functions; `apply(params, ..., method=NAME)` calls another method.

    If the parameters hold low-rank matrices for a linear layer, the layer adds them, see `jvflow.training.lora`.
    """

    def init(key):
        return nnx.to_pure_dict(nnx.state(module(config, rngs=Keys(key)), nnx.Param))

    @cache
    def structure(tuned: frozenset):
        def make():
            made = module(config, rngs=Keys(jax.random.key(0)))
            return add_lora(made, tuned) if tuned else made

        return nnx.graphdef(nnx.eval_shape(make))

    def apply(params, *inputs, method="__call__", **named):
        tuned = frozenset(path[:-1] for path in traverse_util.flatten_dict(params) if path[-1] == LORA[0])
        return getattr(nnx.merge(structure(tuned), params), method)(*inputs, **named)

    return Network(apply=apply, config=config, init=init, rules=rules)


class Keys:
    """The keys that `nnx.Rngs(params=key)` gives to a module's layers, counted in Python.

    `nnx.Rngs` keeps its count in an array and reads it back for each key. Inside a trace this takes time quadratic in
    the number of layers: half a minute for the two U-Nets of Bi-flow.
    """

    def __init__(self, key: Key[Array, ""]):
        self._key, self._count = key, 0

    def params(self) -> Key[Array, ""]:
        """Returns the next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)

    def split(self, count: int) -> nnx.Rngs:
        """Returns the keys for `count` layers that `nnx.vmap` makes."""
        return nnx.Rngs(params=jax.random.split(self.params(), count))
