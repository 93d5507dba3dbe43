"""The text encoder of CLIP with a public checkpoint, as Stable Diffusion uses it.

    tokens = start, pieces of words, end, padding ...  byte pairs of the lower-cased caption, cut to the model's length
    embedded by `jvflow.networks.clip_text`            all tokens after its last norm

The tokenizer's files name the token that pads: the end token in Stable Diffusion 1.x, "!" in 2.x.

The encoder is never trained, so each caption is embedded only once: `jvflow.data.latents` stores the embeddings.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jvflow import networks, pretrained
from jvflow.files import read_json
from jvflow.networks import precision
from jvflow.networks.clip_text import ClipText, ClipTextConfig
from jvflow.pretrained import LazyParams
from jvflow.pretrained.clip_text import LAST
from jvflow.text import TextEncoder, Tokens, warn_truncated
from jvflow.text.special_tokens import (
    check_end_token,
    check_vocabulary,
    read_added_tokens,
    read_special_tokens,
    read_whole_tokens,
)
from jvflow.text.tokenizer_files import TOKENIZER, find_file, read_tokenizer

KIND = "clip_text"
START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""Matches a word, a single digit or a run of signs; byte pairs are merged only inside one match.

Radford et al., arXiv 2103.00020, and the authors' released tokenizer.
"""


def build(*folders: str | Path, dtype: str = "float32") -> TextEncoder:
    """Returns the encoder from a model and its tokenizer.

    Args:
      folders: the model, a folder or a file (`jvflow.pretrained.load`), and the folder of its tokenizer, with
        vocab.json and merges.txt, or with tokenizer.json.
      dtype: dtype of kernels and their products, float32 or bfloat16; norms are float32.
    """
    precision.check_dtype("config.text.dtype", dtype)
    if len(folders) != 2:
        raise ValueError(
            "the text encoder clip_text takes two folders as config.text.checkpoint, "
            f"such as ('SD15/text_encoder', 'SD15/tokenizer'), got {folders}"
        )
    model, tokenizer = folders
    public = pretrained.inspect(model, kind=KIND)
    sizes = public.network.config
    if not isinstance(sizes, ClipTextConfig):
        raise ValueError(f"{model} holds no text model of CLIP: give the folder text_encoder")
    tokenize = make_tokenize(tokenizer, sizes.length, sizes.vocabulary, public.settings["eos_token_id"])
    lazy = LazyParams(lambda: pretrained.load(model, kind=KIND, dtype=jnp.dtype(dtype)).params)
    apply = networks.functional(precision.computed_in(ClipText, dtype), sizes).apply
    embed = jax.jit(lambda params, tokens: apply(params, tokens).astype(jnp.float32))
    return TextEncoder(tokenize, embed, sizes.width, lazy=lazy)


def make_tokenize(
    folder: str | Path, length: int, vocabulary: int | None = None, end_token=None
) -> Callable[[Sequence[str]], Tokens]:
    """Returns the `tokenize` of a `TextEncoder`; its mask is True for start, pieces and the first end token.

    Args:
      folder: has vocab.json and merges.txt, or tokenizer.json.
      length: length of all rows; longer captions are cut before their end token, with one warning.
      vocabulary: number of tokens in the model's vocabulary.
      end_token: the model's `eos_token_id`.

    Raises:
      ValueError: if the tokenizer does not belong to the model.
    """
    encode, known, local = _load_tokenizer(folder)
    start, end, largest = known[START], known[END], max(known.values())
    check_vocabulary(folder, largest, vocabulary)
    if end_token != LAST:
        check_end_token(folder, end, end_token)
    padding = read_special_tokens(local).get("pad_token", END)
    if padding not in known:
        raise ValueError(
            f"the tokenizer in {folder} pads with {padding!r}, which its vocabulary lacks: download it again"
        )

    def tokenize(captions: Sequence[str]) -> Tokens:
        tokens = np.full((len(captions), length), known[padding], np.int32)
        mask = np.zeros((len(captions), length), bool)
        for row, row_mask, caption in zip(tokens, mask, captions):
            pieces = encode(caption)
            if len(pieces) > length - 2:
                warn_truncated(length, "tokens")
                pieces = pieces[: length - 2]
            row[0], row[1 : len(pieces) + 2] = start, [*pieces, end]
            row_mask[: len(pieces) + 2] = True
        return tokens, mask

    return tokenize


def _load_tokenizer(folder: str | Path):
    """Returns `caption -> tokens of its pieces`, the number of each token, and the folder on this machine."""
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError as error:
        raise ValueError("CLIP's tokenizer needs the package tokenizers: pip install 'jvflow[text]'") from error
    files = find_file(folder, ("vocab.json", "merges.txt"), (TOKENIZER,))
    if files[0].name == TOKENIZER:
        tokenizer = read_tokenizer(files[0])
    else:
        read_json(files[0], pretrained.CURE)  # names the file if it is damaged
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
    local = files[0].parent
    whole = {START: {}, END: {}} | read_whole_tokens(local)  # a caption that contains them gets one token each
    tokenizer.add_special_tokens(
        [AddedToken(token, **options) for token, options in whole.items() if token in vocabulary]
    )
    for token, number in read_added_tokens(local).items():
        if token not in vocabulary:
            tokenizer.add_tokens([token])
            if tokenizer.token_to_id(token) != number:
                raise ValueError(
                    f"{folder} adds {token!r} as token {number}, the next one is {tokenizer.token_to_id(token)}: "
                    "its files come from different tokenizers"
                )
    encode = lambda caption: tokenizer.encode(caption, add_special_tokens=False).ids
    return encode, tokenizer.get_vocab(), local
