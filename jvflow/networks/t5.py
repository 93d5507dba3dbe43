"""The encoders of T5 (Raffel et al., arXiv 1910.10683) and UMT5 (Chung et al., arXiv 2304.09151).

    x = token embedding
    x = x + attention(norm(x)),  x = x + wo(gelu(wi_0(norm(x))) wi_1(norm(x)))      depth times; norm at the end

The first version of T5 has wo(relu(wi(norm(x)))) instead; version 1.1 and UMT5 have the gated MLP.

norm divides by the root mean square. Attention is softmax(q k^T + bias) v, without a scale. bias is one number for each
head and each bucket of distances between tokens; buckets grow logarithmically. In T5 all layers use the first layer's
bias, in UMT5 each layer has its own.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jvflow.networks.public_layers import ACTIVATIONS

Tokens = Int[Array | np.ndarray, "b n"]


@dataclass(frozen=True)
class T5Config:
    """The sizes of a `T5`; the defaults are the sizes of T5 v1.1 XXL.

    Attributes:
      vocabulary: number of different tokens.
      width, depth, heads, head, hidden: sizes of the transformer; `head` is the width of an attention head.
      buckets: number of buckets of distances between tokens.
      distance: all distances from this one on share the last bucket.
      own_bias: whether each layer has its own bias (UMT5).
      gated: whether the MLPs are gated.
      activation: activation of the MLPs, a key of `public_layers.ACTIVATIONS`.
      epsilon: epsilon of each norm.
      dtype: dtype of matrix products; parameters, norms and residuals are float32.
    """

    vocabulary: int = 32128
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head: int = 64
    hidden: int = 10240
    buckets: int = 32
    distance: int = 128
    own_bias: bool = False
    gated: bool = True
    activation: str = "gelu_new"
    epsilon: float = 1e-6
    dtype: str = "float32"


class T5(nnx.Module):
    """The encoder; see the top of the file. No token attends to tokens where the mask is False."""

    def __init__(self, config: T5Config, *, rngs):
        self.shared = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.encoder = Encoder(config, rngs)

    def __call__(self, tokens: Tokens, mask: Bool[Array | np.ndarray, "b n"] | None = None) -> Float[Array, "b n d"]:
        x, bias = self.shared(tokens), None
        for block in self.encoder.block:
            x, bias = block(x, bias, mask)
        return self.encoder.final_layer_norm(x)


class Encoder(nnx.Module):
    """The layers, under the names of the public checkpoints."""

    def __init__(self, config: T5Config, rngs):
        self.block = nnx.List([Block(config, rngs, biased=config.own_bias or not i) for i in range(config.depth)])
        self.final_layer_norm = _norm(config, rngs)


class Block(nnx.Module):
    """A layer: `(x, bias of the previous layer, mask) -> (x, bias)`."""

    def __init__(self, config: T5Config, rngs, *, biased: bool):
        self.layer = nnx.List([AttentionLayer(config, rngs, biased), MLPLayer(config, rngs)])

    def __call__(self, x, bias, mask):
        x, bias = self.layer[0](x, bias, mask)
        return self.layer[1](x), bias


class AttentionLayer(nnx.Module):
    """Attention after a norm."""

    def __init__(self, config: T5Config, rngs, biased: bool):
        self.SelfAttention = Attention(config, rngs, biased)
        self.layer_norm = _norm(config, rngs)

    def __call__(self, x, bias, mask):
        y, bias = self.SelfAttention(self.layer_norm(x), bias, mask)
        return x + y, bias


class Attention(nnx.Module):
    """Self-attention over all tokens."""

    def __init__(self, config: T5Config, rngs, biased: bool):
        inner, dtype = config.heads * config.head, jnp.dtype(config.dtype)
        linear = lambda inputs, outputs: nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs, dtype=dtype)
        self.q, self.k, self.v, self.o = (
            linear(*sizes) for sizes in [(config.width, inner)] * 3 + [(inner, config.width)]
        )
        if biased:
            self.relative_attention_bias = nnx.Embed(config.buckets, config.heads, rngs=rngs)
        self.config, self.biased = config, biased

    def __call__(self, x, bias, mask):
        if self.biased:
            bucket = jnp.asarray(distance_buckets(x.shape[1], self.config.buckets, self.config.distance))
            bias = rearrange(self.relative_attention_bias(bucket), "q k h -> 1 h q k")
        q, k, v = (rearrange(part(x), "b n (h d) -> b n h d", h=self.config.heads) for part in (self.q, self.k, self.v))
        mask = None if mask is None else jnp.asarray(mask, bool)[:, None, None]
        y = jax.nn.dot_product_attention(q, k, v, bias=bias.astype(q.dtype), mask=mask, scale=1.0)
        return self.o(rearrange(y, "b n h d -> b n (h d)")).astype(jnp.float32), bias


class MLPLayer(nnx.Module):
    """An MLP after a norm."""

    def __init__(self, config: T5Config, rngs):
        self.DenseReluDense = MLP(config, rngs)
        self.layer_norm = _norm(config, rngs)

    def __call__(self, x):
        return x + self.DenseReluDense(self.layer_norm(x))


class MLP(nnx.Module):
    """Two linear layers with an activation between them; the first one is gated, or not."""

    def __init__(self, config: T5Config, rngs):
        linear = lambda inputs, outputs: nnx.Linear(
            inputs, outputs, use_bias=False, rngs=rngs, dtype=jnp.dtype(config.dtype)
        )
        if config.gated:
            self.wi_0, self.wi_1 = (linear(config.width, config.hidden) for _ in range(2))
        else:
            self.wi = linear(config.width, config.hidden)
        self.wo = linear(config.hidden, config.width)
        self.gated, self.activation = config.gated, config.activation

    def __call__(self, x):
        activation = ACTIVATIONS[self.activation]
        hidden = activation(self.wi_0(x)) * self.wi_1(x) if self.gated else activation(self.wi(x))
        return self.wo(hidden).astype(jnp.float32)


def _norm(config: T5Config, rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(config.width, epsilon=config.epsilon, rngs=rngs)


def distance_buckets(tokens: int, count: int, distance: int) -> Int[np.ndarray, "q k"]:
    """Returns the bucket of each key's distance from each query.

    Half of the `count` buckets are for keys before the query, half for keys after it. In each half, the first half of
    the buckets holds one distance each; the others grow logarithmically up to `distance`.
    """
    offset = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    half = count // 2
    single = half // 2
    far = np.log(np.maximum(np.abs(offset), 1) / single) / np.log(distance / single) * (half - single)
    far = np.minimum(single + far.astype(int), half - 1)
    return np.where(np.abs(offset) < single, np.abs(offset), far) + half * (offset > 0)
