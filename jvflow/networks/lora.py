"""Linear layers that add a low-rank product to their result (LoRA), equation (1) of `jvflow.training.lora`."""

import jax.numpy as jnp
from flax import nnx

from jvflow.networks.layers import Linear
from jvflow.parallel.sharding import LORA


def _with_lora(layer_type: type[nnx.Linear]) -> type[nnx.Linear]:
    class LoRALinear(layer_type):
        def __call__(self, x):
            dtype = self.dtype or jnp.result_type(x, self.lora_a[...])
            a, b, scale = (array[...].astype(dtype) for array in (self.lora_a, self.lora_b, self.lora_scale))
            return super().__call__(x) + scale * ((x.astype(dtype) @ a) @ b)

    return LoRALinear


LORA_TYPES = {layer_type: _with_lora(layer_type) for layer_type in (nnx.Linear, Linear)}
"""For each type of linear layer, the same type with low-rank matrices."""


def add_lora(module: nnx.Module, paths: frozenset) -> nnx.Module:
    """Adds placeholders for low-rank matrices to the linear layers at these paths; returns the module."""
    for path, layer in nnx.iter_graph(module) if paths else ():
        if path in paths:
            layer.__class__ = LORA_TYPES[type(layer)]
            for name in LORA:
                setattr(layer, name, nnx.Param(jnp.zeros(())))
    return module
