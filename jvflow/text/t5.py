"""The encoders of T5 v1.1 and UMT5 with public weights as encoders of captions: what LTX-Video and Wan are conditioned on.

    tokens = pieces of the caption, end, padding ...      by sentencepiece, cut to `length`
    embedded by `jvflow.networks.t5`                       padding is seen by none

An XXL encoder has 9 GiB in bfloat16. Layer by layer it takes the memory of one layer: each is read, used on all rows and forgotten, so that a machine that
cannot hold the model makes the embeddings that `jvflow.data.latents` keeps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jvflow import networks
from jvflow import pretrained
from jvflow.pretrained.lazy import Held
from jvflow.networks.t5 import T5, Block, T5Config
from jvflow.text.base import TextEncoder, Tokens, say_cut

PADDING, END = 0, 1
EMBEDDING = "shared.weight"


def encoder(*folders: str | Path, length: int = 128, dtype: str = "bfloat16", by_layer: bool = False) -> TextEncoder:
    """The encoder of two folders as the public hubs lay them out.

    Args:
      folders: of the model, with config.json and safetensors, and of its tokenizer, with spiece.model.
      length: tokens of a caption, its end included; 128 as LTX-Video has it, 512 as Wan.
      dtype: of weights and products.
      by_layer: read each layer when it is used. `apply` is no function that can be compiled then: captions are embedded before training.
    """
    if len(folders) != 2:
        raise ValueError(f"the text encoder t5 takes two folders as config.text.weights, such as ('LTX-Video/text_encoder', 'LTX-Video/tokenizer'), got {folders}")
    model, tokenizer = folders
    tokenize = tokenize_with(tokenizer, length)
    if by_layer:
        layers = ByLayer(model, dtype)
        return TextEncoder(tokenize, layers, layers.config.width, pure=False)
    sizes = pretrained.look(model).network.config
    if not isinstance(sizes, T5Config):
        raise ValueError(f"{model} holds no encoder of T5: give the folder text_encoder")
    apply = networks.functional(T5, _in(sizes, dtype)).apply
    held = Held(lambda: pretrained.load(model, dtype=jnp.dtype(dtype)).params)
    return TextEncoder(tokenize, jax.jit(lambda params, tokens: apply(params, tokens, tokens != PADDING)), sizes.width, held=held)


def abstract(*, length: int = 128, **options) -> TextEncoder:
    """The shapes of the XXL encoder, without weights."""
    del options
    empty = lambda captions: (np.zeros((len(captions), length), np.int32), np.zeros((len(captions), length), bool))
    return TextEncoder(empty, lambda params, tokens: jnp.zeros((*tokens.shape, T5Config().width)), T5Config().width)


def _in(config: T5Config, dtype: str) -> T5Config:
    return T5Config(**dict(vars(config), dtype=dtype))


class ByLayer:
    """`apply` of an encoder whose layers are read one after the other, `(None, tokens (b, n)) -> (b, n, width)`."""

    def __init__(self, folder: str | Path, dtype: str):
        kind, config, self._files = pretrained.opened(folder)
        if kind != "t5_encoder":
            raise ValueError(f"{folder} holds no encoder of T5: give the folder text_encoder")
        self._model = pretrained.checked(kind, config, self._files)
        self.config, self._dtype = _in(self._model.network.config, dtype), jnp.dtype(dtype)
        self._blocks = {biased: jax.jit(networks.functional(partial(Block, biased=biased), self.config).apply) for biased in (True, False)}

    def __call__(self, params: None, tokens):
        del params
        tokens = np.asarray(tokens)
        x, bias, mask = jnp.asarray(self._files.rows(EMBEDDING, tokens), self._dtype).astype(jnp.float32), None, tokens != PADDING
        for i in range(self.config.depth):
            layer = self._read(f"encoder/block/{i}/")
            x, bias = jax.block_until_ready(self._blocks[self.config.own_bias or not i](pretrained.tree(layer), x, bias, mask))
        scale = self._read("encoder/final_layer_norm/")["scale"].astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.config.epsilon) * scale[None, None]

    def _read(self, prefix: str) -> dict:
        """The arrays below a path."""
        entries = [entry for entry in self._model.layout if entry.ours.startswith(prefix)]
        read = lambda entry: entry.read(*(self._files[name] for name in entry.theirs))
        return {entry.ours.removeprefix(prefix): jnp.asarray(read(entry), self._dtype) for entry in entries}


def tokenize_with(folder: str | Path, length: int) -> Callable[[Sequence[str]], Tokens]:
    """The `tokenize` of a `TextEncoder`: captions -> (tokens (b, length), mask (b, length)). The mask has the pieces and the end of a caption.

    Args:
      folder: with spiece.model.
      length: of all rows; what is longer is cut before its end, which is logged once.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ValueError("the tokens of T5 are made by the package sentencepiece: pip install 'jvflow[text]'") from error
    file = Path(folder) / "spiece.model"
    if not file.is_file():
        raise ValueError(f"{folder} holds no {file.name}: give the folder tokenizer of the model")
    try:
        pieces = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{file} is no model of sentencepiece: {error}") from error
    if (pieces.pad_id(), pieces.eos_id()) != (PADDING, END):
        raise ValueError(f"{file} has padding {pieces.pad_id()} and end {pieces.eos_id()}, T5 has {PADDING} and {END}: it is of another model")

    def tokenize(captions: Sequence[str]) -> Tokens:
        tokens = np.full((len(captions), length), PADDING, np.int32)
        for row, caption in zip(tokens, captions):
            found = pieces.encode(caption)
            if len(found) > length - 1:
                say_cut(length)
                found = found[: length - 1]
            row[: len(found) + 1] = [*found, END]
        return tokens, (tokens != PADDING) & np.array([bool(caption.strip()) for caption in captions])[:, None]

    return tokenize
