"""The text encoders T5 v1.1 and UMT5 with public checkpoints, as LTX-Video and Wan use them.

    tokens = pieces of the caption, end, padding ...      by sentencepiece, cut to `length`
    embedded by `jvflow.networks.t5`                      no token attends to padding, by default

An XXL encoder has 9 GiB in bfloat16. `ByLayer` needs the memory of one layer: it reads a layer, applies it to all rows
and frees it. So a machine that cannot hold the model can compute the embeddings that `jvflow.data.latents` stores.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jvflow import networks, pretrained
from jvflow.networks import precision
from jvflow.networks.t5 import T5, Block, T5Config
from jvflow.pretrained import LazyParams
from jvflow.pretrained.checks import check_copies, check_values
from jvflow.text import TextEncoder, Tokens, warn_truncated
from jvflow.text.special_tokens import (
    check_end_token,
    check_vocabulary,
    encode_between,
    read_added_tokens,
    read_special_tokens,
    read_whole_tokens,
)
from jvflow.text.tokenizer_files import TOKENIZER, find_file, read_tokenizer

KIND = "t5_encoder"
PADDING, END = 0, 1
EMBEDDING = "shared/embedding"


def build(
    *folders: str | Path,
    length: int = 128,
    dtype: str = "bfloat16",
    by_layer: bool = False,
    attend_padding: bool = False,
    abstract: bool = False,
) -> TextEncoder:
    """Returns the encoder from a model and its tokenizer.

    Args:
      folders: the model, a folder or a file (`jvflow.pretrained.load`), and the folder of its tokenizer, with
        spiece.model or tokenizer.json, or one of these files.
      length: tokens in a caption, including its end token; 128 in LTX-Video, 512 in Wan.
      dtype: dtype of kernels, embeddings and matrix products, float32 or bfloat16; norms are float32.
      by_layer: read each layer when it is used. `apply` cannot be compiled then: captions are embedded before
        training.
      attend_padding: whether tokens also attend to padding. diffusers' pipeline of LTX-Video lets them; its authors'
        pipeline and those of Wan do not.
      abstract: without folders, return an encoder that has the shapes of XXL but embeds no text.
    """
    if abstract:
        return _abstract(length)
    if len(folders) != 2:
        raise ValueError(
            "the text encoder t5 takes two folders as config.text.checkpoint, "
            f"such as ('LTX-Video/text_encoder', 'LTX-Video/tokenizer'), got {folders}"
        )
    precision.check_dtype("config.text.dtype", dtype)
    model, tokenizer = folders
    public = pretrained.inspect(model, kind=KIND)
    sizes = public.network.config
    if not isinstance(sizes, T5Config):
        raise ValueError(f"{model} holds no encoder of T5: give the folder text_encoder")
    tokenize = make_tokenize(tokenizer, length, sizes.vocabulary, public.settings["eos_token_id"])
    if by_layer:
        return TextEncoder(tokenize, ByLayer(model, dtype, attend_padding), sizes.width, compilable=False)
    apply = networks.functional(T5, replace(sizes, dtype=dtype)).apply
    embed = jax.jit(lambda params, tokens: apply(params, tokens, None if attend_padding else tokens != PADDING))
    lazy = LazyParams(lambda: pretrained.load(model, kind=KIND, dtype=jnp.dtype(dtype)).params)
    return TextEncoder(tokenize, embed, sizes.width, lazy=lazy)


def _abstract(length: int) -> TextEncoder:
    width = T5Config().width
    empty = lambda captions: (np.zeros((len(captions), length), np.int32), np.zeros((len(captions), length), bool))
    return TextEncoder(empty, lambda params, tokens: jnp.zeros((*tokens.shape, width)), width)


class ByLayer:
    """The `apply` of an encoder that reads one layer at a time: `(None, tokens (b, n)) -> (b, n, width)`."""

    def __init__(self, folder: str | Path, dtype: str, attend_padding: bool = False):
        kind, config, self._files = pretrained.open_folder(folder, KIND)
        self._model = pretrained.find_model(kind, config, self._files)
        self._embedding = next(e.names[0] for e in self._model.layout if e.path == EMBEDDING)
        self.config, self._dtype = replace(self._model.network.config, dtype=dtype), jnp.dtype(dtype)
        self._attend_padding = attend_padding
        self._blocks = {
            biased: jax.jit(networks.functional(partial(Block, biased=biased), self.config).apply)
            for biased in (True, False)
        }

    def __call__(self, params: None, tokens):
        del params
        tokens = np.asarray(tokens)
        x = jnp.asarray(self._read_rows(tokens), self._dtype).astype(jnp.float32)
        bias, mask = None, None if self._attend_padding else tokens != PADDING
        for i in range(self.config.depth):
            layer = pretrained.unflatten_paths(self._read(f"encoder/block/{i}/"))
            apply = self._blocks[self.config.own_bias or not i]
            x, bias = jax.block_until_ready(apply(layer, x, bias, mask))
        scale = self._read("encoder/final_layer_norm/")["scale"].astype(jnp.float32)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(variance + self.config.epsilon) * scale[None, None]

    def _read_rows(self, tokens: np.ndarray) -> np.ndarray:
        """Reads the embeddings of tokens, and checks them and their copy."""
        rows = check_values(self._embedding, self._files.rows(self._embedding, tokens))
        for copy in self._model.copies:
            if copy in self._files:
                check_copies(self._model, {self._embedding: rows, copy: self._files.rows(copy, tokens)})
        return rows

    def _read(self, prefix: str) -> dict:
        """Reads the arrays below a path."""
        entries = [entry for entry in self._model.layout if entry.path.startswith(prefix)]
        stored = precision.stored_dtype(self._model.shapes, self._dtype)
        read = lambda entry: entry.read(*(check_values(name, self._files[name]) for name in entry.names))
        return {entry.path.removeprefix(prefix): jnp.asarray(read(entry), stored(entry.path)) for entry in entries}


def make_tokenize(
    folder: str | Path, length: int, vocabulary: int | None = None, end_token=None
) -> Callable[[Sequence[str]], Tokens]:
    """Returns the `tokenize` of a `TextEncoder`; its mask is True for the pieces and the end token.

    Args:
      folder: has spiece.model or tokenizer.json, or is one of these files.
      length: length of all rows; longer captions are cut before their end token, with one warning.
      vocabulary: number of tokens in the model's vocabulary.
      end_token: the model's `eos_token_id`.

    Raises:
      ValueError: if the tokenizer does not belong to the model.
    """
    encode, largest, pad, local = _load_tokenizer(folder)
    check_vocabulary(folder, largest, vocabulary)
    check_end_token(folder, END, end_token)
    padding = read_special_tokens(local).get("pad_token", pad)
    if padding != pad:
        raise ValueError(
            f"the tokenizer in {folder} pads with {padding!r}, T5 with token {PADDING}, {pad!r}: "
            "it belongs to another model"
        )

    def tokenize(captions: Sequence[str]) -> Tokens:
        tokens = np.full((len(captions), length), PADDING, np.int32)
        mask = np.zeros((len(captions), length), bool)
        for row, row_mask, caption in zip(tokens, mask, captions):
            found = encode(caption)
            if len(found) > length - 1:
                warn_truncated(length, "tokens")
                found = found[: length - 1]
            row[: len(found) + 1] = [*found, END]
            row_mask[: len(found) + 1] = True
        return tokens, mask

    return tokenize


def _load_tokenizer(folder: str | Path) -> tuple[Callable[[str], list[int]], int, str, Path]:
    """Returns `caption -> tokens of its pieces`, the largest token, the text of padding, and the local folder.

    They come from spiece.model, or else from tokenizer.json.
    """
    file = find_file(folder, ("spiece.model",), (TOKENIZER,))[0]
    if file.name == TOKENIZER:
        tokenizer = read_tokenizer(file)
        ends = tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")
        whole = [token for token in read_whole_tokens(file.parent) if tokenizer.token_to_id(token) is not None]
        tokenizer.add_special_tokens(whole)
        encode = lambda caption: tokenizer.encode(caption, add_special_tokens=False).ids
        largest, pad = max(tokenizer.get_vocab().values()), "<pad>"
    else:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ValueError("T5's tokenizer needs the package sentencepiece: pip install 'jvflow[text]'") from error
        try:
            pieces = SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{file} is no model of sentencepiece: {error}") from error
        ends, added = (pieces.pad_id(), pieces.eos_id()), read_added_tokens(file.parent)
        whole = ["<pad>", "</s>", "<unk>", *read_whole_tokens(file.parent)]
        numbers = added | {token: pieces.piece_to_id(token) for token in whole if token not in added}
        known = {token: n for token, n in numbers.items() if token in added or pieces.id_to_piece(n) == token}
        encode = encode_between(known, pieces.encode)
        largest, pad = pieces.get_piece_size() - 1, pieces.id_to_piece(PADDING) if ends[0] == PADDING else ""
    if ends != (PADDING, END):
        raise ValueError(
            f"{file} has padding {ends[0]} and end {ends[1]}, T5 has {PADDING} and {END}: it belongs to another model"
        )
    return encode, largest, pad, file.parent
