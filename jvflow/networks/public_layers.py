"""Layers that networks with public checkpoints share, under the names of those checkpoints."""

from functools import partial

import jax
from einops import rearrange
from flax import nnx

from jvflow.networks.layers import attention

_EXACT_GELU, _TANH_GELU = partial(nnx.gelu, approximate=False), partial(nnx.gelu, approximate=True)
ACTIVATIONS = {
    "quick_gelu": lambda x: x * nnx.sigmoid(1.702 * x),
    "gelu": _EXACT_GELU,
    "gelu_python": _EXACT_GELU,
    "gelu_new": _TANH_GELU,
    "gelu_fast": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": nnx.relu,
    "silu": nnx.silu,
    "swish": nnx.silu,
}
"""Activations by their names in the transformers package; several names are one function."""


class TimeMLP(nnx.Module):
    """An MLP over the sinusoidal features of a time, under the names of the public checkpoints."""

    def __init__(self, inputs: int, width: int, rngs, dtype=None):
        self.linear_1 = nnx.Linear(inputs, width, rngs=rngs, dtype=dtype)
        self.linear_2 = nnx.Linear(width, width, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        return self.linear_2(nnx.silu(self.linear_1(x)))


def attend(q, k, v, heads: int, mask=None):
    """Returns the attention (b, n, d) of q (b, n, d) to k and v (b, m, d); a head's channels follow one another.

    The mask (b or 1, 1, n or 1, m) is True where a query attends to a key; None for all keys.
    """
    q, k, v = (rearrange(a, "b n (h d) -> b n h d", h=heads) for a in (q, k, v))
    if mask is None or mask.shape[2] == 1:
        return rearrange(attention(q, k, v, mask=mask), "b n h d -> b n (h d)")
    return rearrange(jax.nn.dot_product_attention(q, k, v, mask=mask), "b n h d -> b n (h d)")
