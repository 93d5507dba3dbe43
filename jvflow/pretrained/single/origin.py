"""How a single file holds a model: the names of its tensors there, and its sizes without a config.json."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from jvflow.pretrained.files import Files

Shapes = Mapping[str, tuple[int, ...]]


class Origin(NamedTuple):
    """One way in which single files hold a kind of model.

    Attributes:
      kind: a key of `jvflow.pretrained.KINDS`.
      signs: names of tensors that every such model has, without a prefix, and no other kind.
      config: `(shapes, metadata) -> config` in the words of the public library, for tensors under public names.
      rename: `tensors -> (name -> public name, or None for a tensor that is not read)`; None if they have public names.
      reshape: `(public name, shape) -> public shape`, if some shapes differ.
    """

    kind: str
    signs: tuple[str, ...]
    config: Callable[[Shapes, Mapping[str, str]], dict]
    rename: Callable[[Files], Callable[[str], str | None]] | None = None
    reshape: Callable[[str, tuple], tuple] | None = None


def count(names: Iterable[str], pattern: str) -> int:
    """Returns how many different numbers the first group of a pattern finds at the begin of the names."""
    found = (re.match(pattern, name) for name in names)
    return len({match[1] for match in found if match})


def substitute(name: str, table: Mapping[str, str]) -> str:
    """Returns a name after replacing each key of a table, a regular expression, by its value."""
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name


def split_width(width: int, by: int, what: str) -> int:
    """Returns the width of a model by the size of its attention heads, or by their number: tensors tell neither."""
    if width % by:
        raise ValueError(
            f"{what} has width {width}, and its attention heads are only known for multiples of {by}: "
            "put the config.json of the model next to the file"
        )
    return width // by
