"""A text encoder that needs no download: the bytes of a caption, through a small transformer that is trained with the network.

    tokens = [embed(b_1) ... embed(b_g)] W + positions     g bytes of UTF-8 to a token
    tokens = tokens + attention(norm(tokens)),  tokens + mlp(norm(tokens))      depth times
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from jvflow.parallel.constrain import ROWS, constrain
from jvflow.text.base import TextEncoder, Tokens

NOTHING = 256
"""The token after the last byte."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BytesConfig:
    """The sizes of a `Bytes` encoder.

    Attributes:
      length: bytes that are read; longer captions are cut there, which is logged once.
      group: bytes to a token; divides `length`.
      width, depth, heads: of the transformer.
    """

    length: int = 256
    group: int = 4
    width: int = 128
    depth: int = 2
    heads: int = 4

    def __post_init__(self):
        if self.length < 1 or self.group < 1 or self.length % self.group:
            raise ValueError(f"a text encoder reads length {self.length} bytes in groups of {self.group}: the group has to divide the length")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide the width {self.width} of the text encoder")


class Bytes(nnx.Module):
    """See the top of the file. `tokens (b, length) -> (b, length / group, width)`."""

    def __init__(self, config: BytesConfig, *, rngs: nnx.Rngs):
        d = config.width
        self.group = config.group
        self.embed = nnx.Embed(NOTHING + 1, d, rngs=rngs, embedding_init=nnx.initializers.normal(1.0))
        self.merge = nnx.Linear(config.group * d, d, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.length // config.group, d)))
        self.blocks = nnx.List([_Block(config, rngs) for _ in range(config.depth)])
        self.norm = nnx.LayerNorm(d, rngs=rngs)

    def __call__(self, tokens):
        table = constrain(self.embed.embedding[...], None, None)  # all of it everywhere, its gradient is of each device's rows then
        grouped = rearrange(_rows(table[tokens]), "b (n g) d -> b n (g d)", g=self.group)
        x = _rows(self.merge(grouped) + self.positions[...][None])
        mask = (tokens[:, :: self.group] != NOTHING)[:, None, None]
        mask = mask | ~mask.any(-1, keepdims=True)  # an empty caption attends to nothing real, and is masked out later
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


def _rows(x):
    """Rows stay on their devices and weights travel to them: left to itself, the compiler splits widths and sums all rows over all devices."""
    return constrain(x, ROWS, None, None)


class _Block(nnx.Module):
    def __init__(self, config, rngs):
        d = config.width
        self.before_attention, self.before_mlp = nnx.LayerNorm(d, rngs=rngs), nnx.LayerNorm(d, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(config.heads, d, decode=False, rngs=rngs)
        self.mlp_in, self.mlp_out = nnx.Linear(d, 4 * d, rngs=rngs), nnx.Linear(4 * d, d, rngs=rngs)

    def __call__(self, x, mask):
        x = _rows(x + self.attention(self.before_attention(x), mask=mask))
        return _rows(x + self.mlp_out(nnx.gelu(self.mlp_in(self.before_mlp(x)))))


def tokenize(captions: Sequence[str], config: BytesConfig) -> Tokens:
    """The bytes of captions, (b, length), and which groups of them hold any, (b, length / group)."""
    tokens = np.full((len(captions), config.length), NOTHING, np.int32)
    for row, caption in zip(tokens, captions):
        encoded = caption.encode()
        if len(encoded) > config.length:
            _say_cut(config.length)
            encoded = encoded[: config.length]
        row[: len(encoded)] = list(encoded)
    return tokens, tokens[:, :: config.group] != NOTHING


@cache
def _say_cut(length: int):
    LOG.warning("captions are cut to %d bytes: a larger config.text.length reads them whole", length)


def encoder(config: BytesConfig) -> TextEncoder:
    """The encoder as functions."""

    def init(key):
        return nnx.to_pure_dict(nnx.state(Bytes(config, rngs=nnx.Rngs(params=key)), nnx.Param))

    def apply(params, tokens: Int[Array, "b n"]) -> Float[Array, "b m d"]:
        model = nnx.eval_shape(lambda: Bytes(config, rngs=nnx.Rngs(0)))
        nnx.update(model, params)
        return model(tokens)

    return TextEncoder(lambda captions: tokenize(captions, config), apply, config.width, init)
