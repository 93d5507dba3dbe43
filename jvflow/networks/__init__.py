"""Networks: Flax modules, built once and used as pure functions.

A network enters the library through `build` and leaves it as a field, `(x, s, condition) ->
velocities`; no loss and no sampler sees a module.
"""

import math
from typing import Any

import jax

from jvflow.flow.field import Field
from jvflow.networks import dit, ltx, unet_field, wan
from jvflow.networks.base import Network, functional
from jvflow.networks.dit import DiTConfig
from jvflow.networks.ltx import LTXConfig
from jvflow.networks.unet_field import UNetFieldConfig
from jvflow.networks.wan import WanConfig

__all__ = ["Network", "as_field", "build", "check", "check_mesh", "functional", "takes_rate", "tokens"]


NETWORKS = {"dit": dit, "unet": unet_field, "ltx": ltx, "wan": wan}


def build(name: str, **sizes) -> Network:
    """A network by its name ("dit", "unet", "ltx", "wan") and the fields of its config, without parameters."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: use one of {', '.join(NETWORKS)}")
    return NETWORKS[name].build(**{key: tuple(size) if isinstance(size, list) else size for key, size in sizes.items()})


def _of(network: Network):
    """The file of a network of `NETWORKS`."""
    return {DiTConfig: dit, UNetFieldConfig: unet_field, LTXConfig: ltx, WanConfig: wan}[type(network.config)]


def takes_rate(network: Network) -> bool:
    """Whether the network asks for `condition.fps`."""
    return isinstance(network.config, LTXConfig)


def check(network: Network, shape: tuple) -> None:
    """Raises a ValueError when the network does not take latents of shape (f, h, w, c)."""
    _of(network).grid(network.config, shape)


def check_mesh(network: Network, shape: tuple, mesh) -> None:
    """Raises a ValueError when a mesh cannot split the network for latents of shape (f, h, w, c): its tokens, or its heads."""
    _of(network).check_mesh(network.config, shape, mesh)


def tokens(network: Network, shape: tuple) -> int:
    """How many tokens the network makes of latents of shape (f, h, w, c)."""
    return math.prod(_of(network).grid(network.config, shape))


def as_field(network: Network, params: Any = None) -> Field:
    """The network as a field: a pytree whose leaves are its parameters.

    Of a public model it is what the model says of our latents (b, f, h, w, c). The U-Nets of Bi-flow's authors give a velocity each at
    (t, alpha), see `jvflow.flow.field.together`. LTX-Video gives data - noise at our t. A diffusion model gives its prediction at timesteps
    (t,), which `jvflow.flow.ddim.flow` makes such a velocity.
    """
    params = network.params if params is None else params
    if params is None:
        raise ValueError("this network has no parameters: give params=, for example network.init(key)")
    return jax.tree_util.Partial(network.field or network.apply, params)
