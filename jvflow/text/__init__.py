"""Text encoders: they map captions to the embeddings that a field is conditioned on.

Strings stay on the host: `tokenize` turns them into arrays while batches are read. `apply` embeds the arrays inside a
compiled step. The encoder "bytes" is defined here and needs no download: a small transformer, trained with the network.

    tokens = [embed(b_1) ... embed(b_g)] W + positions                  g bytes of UTF-8 make a token
    tokens = tokens + attention(norm(tokens)),  tokens + mlp(norm(tokens))      depth times

The pretrained encoders are in files of this package, imported when they are built.
"""

import importlib
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jvflow.networks.layers import constrain
from jvflow.parallel.sharding import ROWS
from jvflow.pretrained import LazyParams

LOG = logging.getLogger(__name__)

ENCODERS = {"clip_text": "clip_text", "t5": "t5"}
"""The module below this package that builds each pretrained encoder."""

Tokens = tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b m"]]


@dataclass(frozen=True)
class TextEncoder:
    """An encoder of captions as functions.

    Attributes:
      tokenize: `captions -> (tokens (b, n), mask (b, m))`, on the host. The mask is True for the embeddings that stand
        for text; if the encoder is trained with the network, it is all False for an empty caption.
      apply: `(params, tokens) -> (b, m, width)`.
      width: width of an embedding.
      init: `key -> params` of an encoder that is trained with the network; None for a pretrained one.
      lazy: the parameters of a pretrained encoder, read when `params` is first used, or None.
      compilable: whether `apply` can be compiled; if not, captions are embedded before training.
    """

    tokenize: Callable[[Sequence[str]], Tokens]
    apply: Callable[[Any, Int[Array, "b n"]], Float[Array, "b m d"]]
    width: int
    init: Callable | None = None
    lazy: LazyParams | None = None
    compilable: bool = True

    @property
    def params(self) -> Any:
        """The parameters of a pretrained encoder, else None."""
        return self.lazy and self.lazy.get()

    @property
    def empty(self) -> tuple | None:
        """Embedding (1, m, width) and mask (1, m) of "" for guidance and caption dropout; None if not pretrained."""
        return None if self.init else self.embed([])[2]

    def embed(self, captions: Sequence[str]) -> tuple:
        """Returns the embeddings (b, m, width) and masks (b, m) of captions, and `empty`, from a pretrained encoder."""
        tokens, mask = self.tokenize([*captions, ""])
        embedded = self.apply(self.params, tokens)
        return embedded[:-1], mask[:-1], (embedded[-1:], mask[-1:])


def build(name: str, *, checkpoint: Sequence = (), abstract: bool = False, **options) -> TextEncoder | None:
    """Returns the text encoder `name`: "bytes", a key of `ENCODERS`, or None for "none".

    Args:
      checkpoint: for a pretrained encoder, the folders of its model and of its tokenizer.
      abstract: without a checkpoint, "t5" has the shapes of the XXL encoder but embeds no text.
      options: fields of `ByteConfig`, or options of a pretrained encoder.
    """
    if name == "none":
        return None
    if name != "bytes" and name not in ENCODERS:
        raise ValueError(f"unknown text encoder {name!r}: use 'bytes', {', '.join(map(repr, ENCODERS))} or 'none'")
    module = None if name == "bytes" else importlib.import_module(f"jvflow.text.{ENCODERS[name]}")
    known = inspect.signature(module.build if module else ByteConfig).parameters
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ValueError(f"the text encoder {name} has no {', '.join(unknown)}: remove config.text.{unknown[0]}")
    if module is None:
        return byte_encoder(ByteConfig(**options))
    if abstract and not checkpoint and "abstract" in known:
        options["abstract"] = True
    return module.build(*checkpoint, **options)


@cache
def warn_truncated(length: int, unit: str, advice: str = "") -> None:
    """Logs once that captions are longer than the encoder reads."""
    LOG.warning("captions are cut to %d %s%s", length, unit, advice)


NO_BYTE = 256
"""The token that fills a row after the last byte."""


@dataclass(frozen=True)
class ByteConfig:
    """The sizes of a `ByteTransformer`.

    Attributes:
      length: how many bytes are read; longer captions are cut, with one warning.
      group: bytes in a token; divides `length`.
      width, depth, heads: sizes of the transformer.
    """

    length: int = 256
    group: int = 4
    width: int = 128
    depth: int = 2
    heads: int = 4

    def __post_init__(self):
        if self.length < 1 or self.group < 1 or self.length % self.group:
            given = f"a text encoder reads length {self.length} bytes in groups of {self.group}"
            raise ValueError(f"{given}: the group must divide the length")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide the width {self.width} of the text encoder")


class ByteTransformer(nnx.Module):
    """The encoder (see the top of the file), `tokens (b, length) -> (b, length / group, width)`."""

    def __init__(self, config: ByteConfig, *, rngs):
        d = config.width
        self.group = config.group
        self.embed = nnx.Embed(NO_BYTE + 1, d, rngs=rngs, embedding_init=nnx.initializers.normal(1.0))
        self.merge = nnx.Linear(config.group * d, d, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.length // config.group, d)))
        self.blocks = nnx.List([_Block(config, rngs) for _ in range(config.depth)])
        self.norm = nnx.LayerNorm(d, rngs=rngs)

    def __call__(self, tokens):
        table = constrain(self.embed.embedding[...], None, None)  # replicated: each device adds its own rows' gradient
        grouped = rearrange(_constrain_rows(table[tokens]), "b (n g) d -> b n (g d)", g=self.group)
        x = _constrain_rows(self.merge(grouped) + self.positions[...][None])
        mask = (tokens[:, :: self.group] != NO_BYTE)[:, None, None]
        mask = mask | ~mask.any(-1, keepdims=True)  # an empty caption attends to all here, and is masked out later
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


_constrain_rows = lambda x: constrain(x, ROWS, None, None)
"""Keeps rows on their devices. Without it the compiler splits widths, and sums all rows over all devices."""


class _Block(nnx.Module):
    def __init__(self, config: ByteConfig, rngs):
        d = config.width
        self.before_attention, self.before_mlp = nnx.LayerNorm(d, rngs=rngs), nnx.LayerNorm(d, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(config.heads, d, decode=False, rngs=rngs)
        self.mlp_in, self.mlp_out = nnx.Linear(d, 4 * d, rngs=rngs), nnx.Linear(4 * d, d, rngs=rngs)

    def __call__(self, x, mask):
        x = _constrain_rows(x + self.attention(self.before_attention(x), mask=mask))
        return _constrain_rows(x + self.mlp_out(nnx.gelu(self.mlp_in(self.before_mlp(x)))))


def byte_encoder(config: ByteConfig) -> TextEncoder:
    """Returns the transformer over bytes as functions."""

    def tokenize(captions: Sequence[str]) -> Tokens:
        tokens = np.full((len(captions), config.length), NO_BYTE, np.int32)
        for row, caption in zip(tokens, captions):
            encoded = caption.encode()
            if len(encoded) > config.length:
                warn_truncated(config.length, "bytes", ": increase config.text.length to read them whole")
            row[: len(encoded)] = list(encoded[: config.length])
        return tokens, tokens[:, :: config.group] != NO_BYTE

    def init(key):
        return nnx.to_pure_dict(nnx.state(ByteTransformer(config, rngs=nnx.Rngs(params=key)), nnx.Param))

    def apply(params, tokens: Int[Array | np.ndarray, "b n"]) -> Float[Array, "b m d"]:
        model = nnx.eval_shape(lambda: ByteTransformer(config, rngs=nnx.Rngs(0)))
        nnx.update(model, params)
        return model(tokens)

    return TextEncoder(tokenize, apply, config.width, init)
