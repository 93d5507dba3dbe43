"""Reads a pickle of nested dicts of NumPy arrays, without running code (`pickles`).

Some packages carry their parameters as such a file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jvflow.pretrained.pickles import Global, Pairs, Refused, Vocabulary, describe, flatten

RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
NDARRAY, DTYPE = "numpy.ndarray", "numpy.dtype"
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
"""The dtypes that an array may have."""


class _Array:
    """An array that the pickle builds; `value` is None until its content is read."""

    value: np.ndarray | None = None


class _Dtype:
    """A dtype that the pickle builds, such as f4; its byte order is read afterwards."""

    def __init__(self, kind: str):
        self.kind, self.little = kind, False


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a pickle by name; names of nested dicts are joined by dots.

    Raises:
      ValueError: if the file is damaged, or holds anything but dicts with names and arrays of numbers.
    """
    try:
        content = describe(Path(path).read_bytes(), Vocabulary("arrays", _KNOWN, _begin, _fill, _stored))
        _check_content(content)
        arrays = {name: array.value for name, array in flatten(content, _Array)}
        if any(value is None for value in arrays.values()):
            raise ValueError("holds an array without content")
    except (Refused, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no pickle of NumPy arrays alone ({error}): install its package again") from error
    return arrays


_KNOWN = (*RECONSTRUCT, NDARRAY, DTYPE)


def _check_content(content: Any) -> None:
    """Raises ValueError if something is neither an array nor a dict with names; visits each object once."""
    waiting, seen = [content], set()
    if type(content) is not Pairs:
        raise ValueError("holds no dict of arrays")
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) is Pairs and all(type(key) is str for key, _ in value):
            waiting += [item for _, item in value]
        elif type(value) is not _Array:
            raise ValueError("holds something that is neither an array nor a dict of arrays")


def _begin(called: str, arguments: tuple) -> _Array | _Dtype:
    """Returns the array or dtype that a call begins; nothing is called."""
    if called in RECONSTRUCT and arguments[0] == Global(NDARRAY):
        return _Array()
    if called == DTYPE and arguments[0] in KINDS:
        return _Dtype(arguments[0])
    raise ValueError("calls something that is no part of an array of numbers")


def _fill(target: Any, state: Any) -> None:
    """Reads the state of a dtype (version, byte order, ...), or of an array (version, shape, dtype, order, bytes)."""
    if type(target) is _Dtype:
        if state[1] not in ("<", "|") or any(entry is not None for entry in state[2:5]):
            raise ValueError("has a dtype that is no little-endian number")
        target.little = True
        return
    if type(target) is not _Array:
        raise ValueError("changes something that is no array")
    _, shape, dtype, fortran, content = state
    if type(dtype) is not _Dtype or not dtype.little or fortran is not False or type(content) is not bytes:
        raise ValueError("has an array of another kind than numbers in C order")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("has an array without a shape")
    target.value = np.frombuffer(content, np.dtype(dtype.kind).newbyteorder("<")).reshape(shape)


def _stored(identity: Any) -> Any:
    del identity
    raise Refused("refers to something outside of the pickle")
