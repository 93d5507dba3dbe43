"""Layers that networks with public checkpoints share, under the names of those checkpoints."""

import jax
from einops import rearrange
from flax import nnx


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
    return rearrange(jax.nn.dot_product_attention(q, k, v, mask=mask), "b n h d -> b n (h d)")
