"""Reads what a pickle of PyTorch says about tensors, without PyTorch and without running code.

A pickle is a program: Python's own reader imports and calls what the program names. `tensors_of` reads the same
instructions, but has no instruction that imports or calls. A global is only a name, which must be in `GLOBALS`. What
comes out is numbers, strings, lists, pairs and descriptions of tensors; everything else raises `Refused`.

Time and memory are bounded by the length of the pickle: by the number of its instructions, and by the number of items
and letters of names in all containers, because a container can contain another one many times.
"""

import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_INSTRUCTIONS = 10**6
MAX_ITEMS, MAX_LETTERS, MAX_DEPTH, MAX_AXES = 10**6, 2**25, 16, 32
"""Bounds on the items of all containers, the letters of all names, nested containers, and the axes of a tensor."""

DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 uint32 bool"
    ).split()
}
STORAGES = dict(Double="float64", Float="float32", Half="float16", BFloat16="bfloat16", Long="int64", Int="int32")
STORAGES |= dict(Short="int16", Char="int8", Byte="uint8", Bool="bool")
GLOBALS = {f"torch.{name}Storage": DTYPES[dtype] for name, dtype in STORAGES.items()}
GLOBALS |= {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
UNTYPED, DICT, SIZE = "torch.storage.UntypedStorage", "collections.OrderedDict", "torch.Size"
TENSOR, TYPED_TENSOR, PARAMETER = (
    f"torch._utils.{name}" for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
)
GLOBALS |= {UNTYPED: np.dtype(np.uint8)} | dict.fromkeys((DICT, SIZE, TENSOR, TYPED_TENSOR, PARAMETER))
"""All global names that a file may hold; storages and dtypes have their NumPy dtype."""


class Refused(Exception):
    """Something in a pickle that is no tensor and no plain value."""


class Global(NamedTuple):
    """The name of something that the pickle would import."""

    name: str


class Storage(NamedTuple):
    """The entry of the archive that holds the bytes of tensors, and its number of elements."""

    dtype: np.dtype
    key: str
    elements: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pairs(list):
    """The (key, value) pairs of a dict. A list, because a hostile file can choose keys that make a dict slow."""


CONTAINERS = (Pairs, list, tuple)


_MARK = object()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
"""Instructions that put their argument, a number or a string, on the stack."""
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """Returns the tensors that a pickle describes, by name; names of nested dicts and lists are joined by dots.

    Raises:
      Refused: for an instruction, a global or a container that a pickle of tensors does not need.
      ValueError, IndexError, TypeError: if the pickle is damaged.
    """
    return dict(_flatten(_describe(data)))


def _describe(data: bytes) -> Any:
    """Returns what a pickle describes."""
    stack, memo = [], {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if count >= MAX_INSTRUCTIONS:
            raise Refused(f"has a pickle of more than {MAX_INSTRUCTIONS:,} instructions")
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return _pop(stack)
        if name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            stack.append(tuple(_pop(stack) for _ in range(_TUPLES[name]))[::-1])
        elif name == "TUPLE":
            stack.append(tuple(_pop_mark(stack)))
        elif name in ("EMPTY_LIST", "LIST"):
            stack.append([] if name == "EMPTY_LIST" else _pop_mark(stack))
        elif name in ("EMPTY_DICT", "DICT"):
            stack.append(Pairs() if name == "EMPTY_DICT" else Pairs(_two_by_two(_pop_mark(stack))))
        elif name in ("APPEND", "APPENDS"):
            items = [_pop(stack)] if name == "APPEND" else _pop_mark(stack)
            _container(stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [_pop(stack), _pop(stack)][::-1] if name == "SETITEM" else _pop_mark(stack)
            _container(stack, Pairs).extend(_two_by_two(items))
        elif name == "BUILD":  # attributes of an OrderedDict, such as the versions of modules
            _pop(stack)
            _container(stack, Pairs)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise ValueError(f"value {argument} is used before it is defined")
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_global(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = _pop(stack), _pop(stack)
            if type(module) is not str or type(attribute) is not str:
                raise Refused("names something by no string")
            stack.append(_global(f"{module}.{attribute}"))
        elif name == "BINPERSID":
            stack.append(_storage(_pop(stack)))
        elif name == "REDUCE":
            arguments, called = _pop(stack), _pop(stack)
            stack.append(_rebuild(called, arguments))
        else:
            raise Refused(f"has a pickle with the instruction {name}, which tensors do not need")
    raise ValueError("its pickle has no end")


def _pop(stack: list) -> Any:
    value = stack.pop()
    if value is _MARK:
        raise ValueError("its pickle ends a group that holds nothing")
    return value


def _top(stack: list) -> Any:
    if stack[-1] is _MARK:
        raise ValueError("its pickle names a group that is not complete")
    return stack[-1]


def _pop_mark(stack: list) -> list:
    """Returns the values since the last mark, and removes them and the mark."""
    items = []
    while (value := stack.pop()) is not _MARK:
        items.append(value)
    return items[::-1]


def _two_by_two(items: list) -> Iterator[tuple]:
    if len(items) % 2:
        raise ValueError("a dict of its pickle has a key without a value")
    return zip(items[::2], items[1::2])


def _container(stack: list, kind: type) -> list:
    if type(_top(stack)) is not kind:
        raise Refused("has a pickle that changes an object that is no plain list or dict")
    return stack[-1]


def _global(name: str) -> Global:
    if name not in GLOBALS:
        raise Refused(f"names {name[:100]}, which is no part of a tensor and could run code")
    return Global(name)


def _storage(identity: Any) -> Storage:
    """Returns the storage that a persistent id stands for."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        raise Refused("refers to something that is no storage of a tensor")
    _, kind, key, _, elements = identity
    if type(kind) is not Global or GLOBALS[kind.name] is None or type(key) is not str:
        raise Refused("refers to a storage of an unknown type")
    return Storage(GLOBALS[kind.name], key, _whole(elements))


def _rebuild(called: Any, arguments: Any) -> Any:
    """Returns what a call in the pickle describes. Only these five calls are known, and none of them is made."""
    if type(called) is not Global or type(arguments) is not tuple:
        raise Refused("calls something that is no part of a tensor")
    if called.name == DICT and len(arguments) <= 1:
        pairs = arguments[0] if arguments else []
        if type(pairs) is not list or any(type(pair) not in (tuple, list) or len(pair) != 2 for pair in pairs):
            raise ValueError("a dict of its pickle has a key without a value")
        return Pairs(pairs)
    if called.name == SIZE and len(arguments) == 1:
        return _sizes(arguments[0])
    if called.name == PARAMETER and arguments and type(arguments[0]) is Tensor:
        return arguments[0]
    if called.name in (TENSOR, TYPED_TENSOR) and len(arguments) >= 4 and type(arguments[0]) is Storage:
        storage, offset, shape, strides = arguments[:4]
        dtype = storage.dtype
        if called.name == TYPED_TENSOR:
            kind = arguments[6]
            dtype = GLOBALS[kind.name] if type(kind) is Global else None
            if dtype is None:
                raise Refused("holds a tensor of an unknown dtype")
        shape, strides = _sizes(shape), _sizes(strides)
        if len(shape) != len(strides):
            raise ValueError(f"a tensor has shape {shape} and strides {strides}")
        return Tensor(storage, dtype, _whole(offset), shape, strides)
    raise Refused(f"calls {called.name} with arguments that are no part of a tensor")


def _sizes(numbers: Any) -> tuple[int, ...]:
    if type(numbers) not in (tuple, list) or len(numbers) > MAX_AXES:
        raise ValueError(f"the sizes of a tensor are no list of up to {MAX_AXES} numbers")
    return tuple(_whole(number) for number in numbers)


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**48:
        raise ValueError("a size of a tensor is no whole number in the range of sizes")
    return number


def _flatten(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the names and tensors inside of a value.

    Counts items and letters, because few containers that contain one another often can stand for many names.
    """
    waiting, seen, items, letters = [("", value, 0)], set(), 0, 0
    while waiting:
        name, value, depth = waiting.pop()
        if type(value) is Tensor:
            if name in seen:
                raise ValueError(f"two of its tensors have the name {name}")
            seen.add(name)
            yield name, value
            continue
        inside = []
        items += len(value) if type(value) in CONTAINERS else 0
        if items > MAX_ITEMS or depth > MAX_DEPTH:
            raise Refused("nests its containers too deeply or too often")
        for key, item in value if type(value) is Pairs else enumerate(value) if type(value) in CONTAINERS else ():
            if type(item) is not Tensor and type(item) not in CONTAINERS:
                continue
            if type(key) not in (str, int):
                raise Refused("names a tensor by no string and no number")
            key = str(key)
            letters += len(name) + len(key) + 1
            if letters > MAX_LETTERS:
                raise Refused("repeats the names of its containers too often")
            inside.append((f"{name}.{key}" if name else key, item, depth + 1))
        waiting += inside[::-1]
