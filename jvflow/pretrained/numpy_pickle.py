"""Reads a pickle of nested dicts of NumPy arrays, without running code.

Some packages carry their parameters as such a file. Python's own reader imports and calls what a pickle names. This
reader has no instruction that imports or calls: three names are known, which NumPy's arrays need, and every other
instruction or name raises ValueError.
"""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NDARRAY, DTYPE = "numpy ndarray", "numpy dtype"
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
"""The dtypes that an array may have."""
MAX_INSTRUCTIONS, MAX_DEPTH = 10**5, 16
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE")
BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


class _Name(str):
    """A name that the pickle would import."""


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
        return dict(_flatten("", _describe(Path(path).read_bytes()), 0))
    except (ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no pickle of NumPy arrays alone ({error}): install its package again") from error


def _describe(data: bytes) -> Any:
    """Returns what a pickle describes: dicts, `_Array`s and plain values."""
    stack, memo = [], {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if count > MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in VALUES:
            stack.append(VALUES[name])
        elif name in NUMBERS + TEXTS + BYTES:
            stack.append(argument)
        elif name == "MARK":
            stack.append(MARK)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in TUPLES:
            stack.append(tuple(stack.pop() for _ in range(TUPLES[name]))[::-1])
        elif name == "TUPLE":
            stack.append(tuple(_pop_mark(stack)))
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _pop_mark(stack)
            _set_items(stack[-1], items)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_known(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_begin(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        else:
            raise ValueError(f"it has the instruction {name}, which arrays do not need")
    raise ValueError("it has no end")


def _pop_mark(stack: list) -> list:
    """Returns the values since the last mark, and removes them and the mark."""
    items = []
    while (value := stack.pop()) is not MARK:
        items.append(value)
    return items[::-1]


def _set_items(target: Any, items: list) -> None:
    if type(target) is not dict or len(items) % 2 or any(type(key) is not str for key in items[::2]):
        raise ValueError("it changes something that is no dict with names")
    target.update(zip(items[::2], items[1::2]))


def _known(name: str) -> _Name:
    if name not in (*RECONSTRUCT, NDARRAY, DTYPE):
        raise ValueError(f"it names {name[:100]!r}, which is no part of an array and could run code")
    return _Name(name)


def _begin(called: Any, arguments: Any) -> _Array | _Dtype:
    """Returns the array or dtype that a call begins; nothing is called."""
    if type(called) is _Name and called in RECONSTRUCT and arguments[0] == NDARRAY and type(arguments[0]) is _Name:
        return _Array()
    if type(called) is _Name and called == DTYPE and arguments[0] in KINDS:
        return _Dtype(arguments[0])
    raise ValueError("it calls something that is no part of an array of numbers")


def _fill(target: Any, state: Any) -> None:
    """Reads the state of a dtype (version, byte order, ...), or of an array (version, shape, dtype, order, bytes)."""
    if type(target) is _Dtype:
        if state[1] not in ("<", "|") or any(entry is not None for entry in state[2:5]):
            raise ValueError("it has a dtype that is no little-endian number")
        target.little = True
        return
    if type(target) is not _Array:
        raise ValueError("it changes something that is no array")
    _, shape, dtype, fortran, content = state
    if type(dtype) is not _Dtype or not dtype.little or fortran is not False or type(content) is not bytes:
        raise ValueError("it has an array of another kind than numbers in C order")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("it has an array without a shape")
    target.value = np.frombuffer(content, np.dtype(dtype.kind).newbyteorder("<")).reshape(shape)


def _flatten(name: str, value: Any, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    if type(value) is _Array and value.value is not None and name:
        yield name, value.value
    elif type(value) is dict and depth < MAX_DEPTH:
        for key, item in value.items():
            yield from _flatten(f"{name}.{key}" if name else key, item, depth + 1)
    else:
        raise ValueError(f"{name or 'its content'} is neither an array nor a dict of arrays")
