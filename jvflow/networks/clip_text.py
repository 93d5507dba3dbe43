"""The text encoder of CLIP (Radford et al., arXiv 2103.00020): a transformer with causal attention.

    x = token embedding + position embedding
    x = x + attention(norm(x)),  x + mlp(norm(x))      depth times; norm at the end

Stable Diffusion is conditioned on all tokens after the last norm.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jvflow.networks.public_layers import ACTIVATIONS, attend


@dataclass(frozen=True)
class ClipTextConfig:
    """The sizes of a `ClipText`; the defaults are the sizes of ViT-L/14.

    Attributes:
      vocabulary: number of different tokens.
      length: largest number of tokens in a text.
      width, depth, heads, hidden: sizes of the transformer; `hidden` is the width inside its MLPs.
      activation: a key of `public_layers.ACTIVATIONS`.
      epsilon: epsilon of each layer norm.
      dtype: dtype of the computation; parameters are float32.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dtype: str = "float32"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r} of a text encoder of CLIP: use {', '.join(ACTIVATIONS)}"
            )
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide the width {self.width} of the text encoder")


class ClipText(nnx.Module):
    """The encoder; see the top of the file. No token attends to tokens where the mask (b, n) is False."""

    def __init__(self, config: ClipTextConfig, *, rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs)
        self.encoder = Layers(config, rngs)
        self.final_layer_norm = _norm(config, rngs)

    def __call__(self, tokens: Int[Array | np.ndarray, "b n"], mask=None) -> Float[Array, "b n d"]:
        n = tokens.shape[1]
        if n > self.config.length:
            raise ValueError(f"the text encoder reads {self.config.length} tokens, got {n}: cut captions to fit")
        visible = jnp.asarray(np.tril(np.ones((n, n), bool)))[None, None]
        visible = visible if mask is None else visible & jnp.asarray(mask, bool)[:, None, None]
        x = self.embeddings(tokens)
        for layer in self.encoder.layers:
            x = layer(x, visible)
        return self.final_layer_norm(x)


class Embeddings(nnx.Module):
    """Embeddings of tokens and of their positions, under the names of the public checkpoints."""

    def __init__(self, config: ClipTextConfig, rngs):
        options = dict(dtype=jnp.dtype(config.dtype), rngs=rngs, embedding_init=nnx.initializers.normal(0.02))
        self.token_embedding = nnx.Embed(config.vocabulary, config.width, **options)
        self.position_embedding = nnx.Embed(config.length, config.width, **options)

    def __call__(self, tokens):
        return self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class Layers(nnx.Module):
    """The layers, under the name that the public checkpoints use."""

    def __init__(self, config: ClipTextConfig, rngs):
        self.layers = nnx.List([Layer(config, rngs) for _ in range(config.depth)])


class Layer(nnx.Module):
    """Attention and an MLP, each after a norm."""

    def __init__(self, config: ClipTextConfig, rngs):
        self.layer_norm1, self.layer_norm2 = _norm(config, rngs), _norm(config, rngs)
        self.self_attn, self.mlp = Attention(config, rngs), MLP(config, rngs)

    def __call__(self, x, mask):
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Attention(nnx.Module):
    """Attention of each token to the tokens where the mask is True."""

    def __init__(self, config: ClipTextConfig, rngs):
        linear = lambda: nnx.Linear(config.width, config.width, rngs=rngs, dtype=jnp.dtype(config.dtype))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
        self.heads = config.heads

    def __call__(self, x, mask):
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask))


class MLP(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: ClipTextConfig, rngs):
        dtype = jnp.dtype(config.dtype)
        self.fc1 = nnx.Linear(config.width, config.hidden, rngs=rngs, dtype=dtype)
        self.fc2 = nnx.Linear(config.hidden, config.width, rngs=rngs, dtype=dtype)
        self.activation = config.activation

    def __call__(self, x):
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


def _norm(config: ClipTextConfig, rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.width, epsilon=config.epsilon, use_fast_variance=False, rngs=rngs)
