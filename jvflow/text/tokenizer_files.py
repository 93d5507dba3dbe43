"""Finds and reads the files of tokenizers."""

from pathlib import Path
from typing import Any

from jvflow.pretrained import hub

TOKENIZER = "tokenizer.json"
"""The file that holds a whole tokenizer, in the format of the package tokenizers."""


def find_file(folder: str | Path, *choices: tuple[str, ...]) -> list[Path]:
    """Returns the files of a tokenizer.

    Args:
      folder: a folder, one of the files itself, or an address on the hub.
      choices: names of files; the first choice whose files are all there is returned.

    Raises:
      ValueError: if the files of no choice are there.
    """
    path = hub.fetch(folder)
    if path.is_file() and (path.name,) in choices:
        return [path]
    for names in choices:
        if all((path / name).is_file() for name in names):
            return [path / name for name in names]
    needed = " and no ".join(" and ".join(names) for names in choices)
    raise ValueError(f"{folder} holds no {needed}: give the folder tokenizer of the model")


def read_tokenizer(file: Path) -> Any:
    """Returns the tokenizer in a tokenizer.json, without its own rules for the length of rows."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(f"{file} needs the package tokenizers: pip install 'jvflow[text]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises a plain Exception
        raise ValueError(f"{file} holds no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
