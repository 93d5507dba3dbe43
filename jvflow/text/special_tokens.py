"""Special tokens in a tokenizer's folder, and checks that a tokenizer belongs to its model."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jvflow.pretrained.readers import read_json

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ROLES = [f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
"""Roles of special tokens, in the order of transformers."""


def read_special_tokens(folder: str | Path) -> dict[str, str]:
    """Returns the special tokens by their role, such as pad_token, as the json files of a tokenizer name them.

    As in transformers, special_tokens_map.json goes first, unless tokenizer_config.json lists all added tokens itself.
    """
    return {role: text for role, token in _read_roles(folder).items() if (text := _content(token))}


def read_whole_tokens(folder: str | Path) -> dict[str, dict[str, bool]]:
    """Returns the special and added tokens, which a tokenizer finds in a caption before it splits words.

    Returns:
      For each token the options of `tokenizers.AddedToken` that say how it is matched. A token with several roles has
      the options of the last one, as in transformers; a role without options takes those of the added tokens.
    """
    added = _read(Path(folder) / CONFIG).get("added_tokens_decoder")
    tokens = [*read_added_tokens(folder), *(added.values() if isinstance(added, Mapping) else [])]
    described = {_content(token): token for token in tokens}
    roles = _read_roles(folder)
    tokens += [described.get(_content(roles[role]), roles[role]) for role in ROLES if role in roles]
    return {text: _options(token) for token in tokens if (text := _content(token))}


def encode_between(whole: Mapping[str, int], encode: Callable[[str], Sequence[int]]) -> Callable[[str], list[int]]:
    """Returns `caption -> tokens`, with one token for each text in `whole`, and `encode` for the text between them."""
    texts = sorted(whole, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, texts))})")

    def encode_caption(caption: str) -> list[int]:
        tokens = []
        for i, part in enumerate(pattern.split(caption)):
            tokens += [whole[part]] if i % 2 else encode(part)
        return tokens

    return encode_caption


def _read_roles(folder: str | Path) -> dict:
    """Returns the special tokens by their role, as texts or as objects."""
    config, special = _read(Path(folder) / CONFIG), _read(Path(folder) / SPECIAL)
    if "added_tokens_decoder" not in config:
        config = config | special
    return {role: token for role, token in config.items() if role.endswith("_token")}


def read_added_tokens(folder: str | Path) -> dict[str, int]:
    """Returns tokens that were added to a tokenizer, and their numbers."""
    decoder = _read(Path(folder) / CONFIG).get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        found = {_content(token): number for number, token in decoder.items()}
    else:
        found = _read(Path(folder) / ADDED)
    numbers = {text: int(number) for text, number in found.items() if text and str(number).isdigit()}
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def check_vocabulary(folder: str | Path, largest: int, vocabulary: int | None) -> None:
    """Raises ValueError if a tokenizer's vocabulary does not fit the model's.

    Args:
      folder: the tokenizer's folder.
      largest: the tokenizer's largest token.
      vocabulary: number of tokens in the model's vocabulary; None for no check.
    """
    if vocabulary is None:
        return
    if largest >= vocabulary:
        fault = f"has tokens up to {largest}, the model knows {vocabulary}"
    elif largest < vocabulary // 2:
        fault = f"has {largest + 1} tokens, fewer than half of the {vocabulary} that the model knows"
    else:
        return
    raise ValueError(f"the tokenizer in {folder} {fault}: they come from different models")


def check_end_token(folder: str | Path, end: int, stated) -> None:
    """Raises ValueError if a model's config states another end token (a number, or some numbers) than the tokenizer."""
    known = stated if isinstance(stated, list | tuple) else [stated]
    if any(isinstance(token, int) for token in known) and end not in known:
        raise ValueError(
            f"the tokenizer in {folder} ends a text with token {end}, the model's config says eos_token_id {stated}: "
            "they come from different models"
        )


def _read(file: Path) -> dict:
    """Returns the content of a json file, or nothing if there is no file."""
    if not file.is_file():
        return {}
    return read_json(file)


def _options(token) -> dict[str, bool]:
    """Returns how a token is matched; a token that is only a text is matched as it stands."""
    given = token if isinstance(token, Mapping) else {}
    return {name: given.get(name) is True for name in ("lstrip", "rstrip", "normalized", "single_word")}


def _content(token) -> str:
    """Returns the text of a token, which is a string or an object with its content."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else ""
