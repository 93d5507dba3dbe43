"""The text encoder of CLIP with a public checkpoint, as Stable Diffusion uses it.

    tokens = start, pieces of words, end, end ...      byte pairs of the lower-cased caption, cut to the model's length
    embedded by `jvflow.networks.clip_text`            all tokens after its last norm

The encoder is never trained, so each caption is embedded only once: `jvflow.data.latents` stores the embeddings.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jvflow import networks, pretrained
from jvflow.networks import precision
from jvflow.networks.clip_text import ClipText, ClipTextConfig
from jvflow.pretrained import LazyParams
from jvflow.text import TextEncoder, Tokens, warn_truncated

START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""Matches a word, a single digit or a run of signs; byte pairs are merged only inside one match.

Radford et al., arXiv 2103.00020, and the authors' released tokenizer.
"""


def build(*folders: str | Path, dtype: str = "float32") -> TextEncoder:
    """Returns the encoder from two folders in the layout of the public hubs.

    Args:
      folders: the model, with config.json and safetensors, and its tokenizer, with vocab.json and merges.txt.
      dtype: dtype of kernels and their products, float32 or bfloat16; norms are float32.
    """
    precision.check_dtype("config.text.dtype", dtype)
    if len(folders) != 2:
        raise ValueError(
            "the text encoder clip_text takes two folders as config.text.checkpoint, "
            f"such as ('SD15/text_encoder', 'SD15/tokenizer'), got {folders}"
        )
    model, tokenizer = folders
    sizes = pretrained.inspect(model).network.config
    if not isinstance(sizes, ClipTextConfig):
        raise ValueError(f"{model} holds no text model of CLIP: give the folder text_encoder")
    tokenize = make_tokenize(tokenizer, sizes.length, sizes.vocabulary)
    lazy = LazyParams(lambda: pretrained.load(model, dtype=jnp.dtype(dtype)).params)
    apply = networks.functional(precision.computed_in(ClipText, dtype), sizes).apply
    embed = jax.jit(lambda params, tokens: apply(params, tokens).astype(jnp.float32))
    return TextEncoder(tokenize, embed, sizes.width, lazy=lazy)


def make_tokenize(folder: str | Path, length: int, vocabulary: int | None = None) -> Callable[[Sequence[str]], Tokens]:
    """Returns the `tokenize` of a `TextEncoder`; its mask is True for start, pieces and the first end token.

    Args:
      folder: has vocab.json and merges.txt.
      length: length of all rows; longer captions are cut before their end token, with one warning.
      vocabulary: number of tokens in the model's vocabulary.
    """
    encode, start, end, largest = _load_tokenizer(folder)
    if vocabulary is not None and largest >= vocabulary:
        raise ValueError(
            f"the tokenizer in {folder} has tokens up to {largest}, the model knows {vocabulary}: "
            "they come from different models"
        )

    def tokenize(captions: Sequence[str]) -> Tokens:
        tokens, mask = np.full((len(captions), length), end, np.int32), np.zeros((len(captions), length), bool)
        for row, row_mask, caption in zip(tokens, mask, captions):
            pieces = encode(caption)
            if len(pieces) > length - 2:
                warn_truncated(length, "tokens")
                pieces = pieces[: length - 2]
            row[0], row[1 : len(pieces) + 1] = start, pieces
            row_mask[: len(pieces) + 2] = True
        return tokens, mask

    return tokenize


def _load_tokenizer(folder: str | Path):
    """Returns `caption -> tokens of its pieces`, the tokens start and end, and the largest token."""
    try:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError as error:
        raise ValueError("CLIP's tokenizer needs the package tokenizers: pip install 'jvflow[text]'") from error
    files = [Path(folder) / name for name in ("vocab.json", "merges.txt")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {' and no '.join(missing)}: give the folder tokenizer of the model")
    try:
        model = models.BPE.from_file(*map(str, files), end_of_word_suffix="</w>", unk_token=END)
    except Exception as error:  # the package raises a plain Exception
        raise ValueError(f"{folder} holds no byte pairs: {error}") from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pieces = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, letters])
    vocabulary = tokenizer.get_vocab()
    if START not in vocabulary or END not in vocabulary:
        raise ValueError(f"the vocabulary in {folder} lacks {START} or {END}: it is not CLIP's")
    tokenizer.add_special_tokens([START, END])  # so that a caption that contains them gets one token each
    encode = lambda caption: tokenizer.encode(caption, add_special_tokens=False).ids
    return encode, vocabulary[START], vocabulary[END], max(vocabulary.values())
