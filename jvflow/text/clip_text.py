"""The text half of CLIP with public weights as an encoder of captions: what Stable Diffusion is conditioned on.

    tokens = start, pieces of words, end, end ...        byte pairs of the lower-cased caption, cut to the length of the model
    embedded by `jvflow.networks.clip_text`                    all tokens after its last norm

The weights stay as they are, so a caption has to be embedded once: `jvflow.data.latents` keeps embeddings beside the latents.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jvflow import networks
from jvflow import pretrained
from jvflow.pretrained.lazy import Held
from jvflow.networks.clip_text import ClipText, ClipTextConfig
from jvflow.text.base import TextEncoder, Tokens, say_cut

START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""What byte pairs never cross (Radford et al., arXiv 2103.00020, and the authors' released tokenizer): words, single digits, runs of signs."""


def encoder(*folders: str | Path) -> TextEncoder:
    """The encoder of two folders as the public hubs lay them out.

    Args:
      folders: of the model, with config.json and safetensors, and of its tokenizer, with vocab.json and merges.txt.
    """
    if len(folders) != 2:
        raise ValueError(f"the text encoder clip takes two folders as config.text.weights, such as ('SD15/text_encoder', 'SD15/tokenizer'), got {folders}")
    model, tokenizer = folders
    sizes = pretrained.look(model).network.config
    if not isinstance(sizes, ClipTextConfig):
        raise ValueError(f"{model} holds no text model of CLIP: give the folder text_encoder")
    held = Held(lambda: pretrained.load(model, dtype=jnp.float32).params)
    return TextEncoder(tokenize_with(tokenizer, sizes.length, sizes.vocabulary), jax.jit(networks.functional(ClipText, sizes).apply), sizes.width, held=held)


def tokenize_with(folder: str | Path, length: int, vocabulary: int | None = None) -> Callable[[Sequence[str]], Tokens]:
    """The `tokenize` of a `TextEncoder`: captions -> (tokens (b, length), mask (b, length)). The mask has start, pieces and the first end of a caption.

    Args:
      folder: with vocab.json and merges.txt.
      length: of all rows; what is longer is cut before its end, which is logged once.
      vocabulary: tokens that the model knows.
    """
    encode, start, end, largest = _byte_pairs(folder)
    if vocabulary is not None and largest >= vocabulary:
        raise ValueError(f"the tokenizer in {folder} has tokens up to {largest}, the model knows {vocabulary}: they are of two models")

    def tokenize(captions: Sequence[str]) -> Tokens:
        tokens, mask = np.full((len(captions), length), end, np.int32), np.zeros((len(captions), length), bool)
        for row, real, caption in zip(tokens, mask, captions):
            pieces = encode(caption)
            if len(pieces) > length - 2:
                say_cut(length)
                pieces = pieces[: length - 2]
            row[0], row[1 : len(pieces) + 1] = start, pieces
            real[: len(pieces) + 2] = bool(caption.strip())
        return tokens, mask

    return tokenize


def _byte_pairs(folder: str | Path):
    """(caption -> tokens of its pieces, start, end, the largest token)."""
    try:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError as error:
        raise ValueError("the tokens of CLIP are made by the package tokenizers: pip install 'jvflow[text]'") from error
    files = [Path(folder) / name for name in ("vocab.json", "merges.txt")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {' and no '.join(missing)}: give the folder tokenizer of the model")
    try:
        model = models.BPE.from_file(*map(str, files), end_of_word_suffix="</w>", unk_token=END)
    except Exception as error:  # of the package: it has no type of its own
        raise ValueError(f"{folder} holds no byte pairs: {error}") from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    pieces, letters = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, letters])
    vocabulary = tokenizer.get_vocab()
    if START not in vocabulary or END not in vocabulary:
        raise ValueError(f"the vocabulary in {folder} lacks {START} or {END}: it is none of CLIP")
    tokenizer.add_special_tokens([START, END])  # one token each in a caption too
    return lambda caption: tokenizer.encode(caption, add_special_tokens=False).ids, vocabulary[START], vocabulary[END], max(vocabulary.values())
