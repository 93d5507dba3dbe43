"""Follows the instructions of a pickle without importing or calling anything.

A pickle is a program: Python's own reader imports and calls what the program names. `describe` reads the same
instructions, but has none that imports or calls. What a file may name, and what a call of it describes, is a
`Vocabulary`: `jvflow.pretrained.torch_pickle` has that of PyTorch's tensors, `jvflow.pretrained.numpy_pickle` that of
NumPy's arrays. Everything else raises `Refused`.

Time and memory are bounded by the length of the pickle: by the number of its instructions, and by the number of items
and letters of names in all containers, because a container can contain another one many times.
"""

import pickletools
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

MAX_INSTRUCTIONS = 10**6
MAX_ITEMS, MAX_LETTERS, MAX_DEPTH = 10**6, 2**25, 16
"""Bounds on the items of all containers, the letters of all names, and nested containers."""


class Refused(Exception):
    """Something in a pickle that is no part of its vocabulary."""


class Global(NamedTuple):
    """The name of something that the pickle would import."""

    name: str


class Pairs(list):
    """The (key, value) pairs of a dict. A list, because a hostile file can choose keys that make a dict slow."""


CONTAINERS = (Pairs, list, tuple)


class Vocabulary(NamedTuple):
    """Names and calls that the pickles of one kind may hold.

    Attributes:
      kind: what they hold, for messages: "tensors" or "arrays".
      known: the global names that they may use, with dots.
      call: returns what a call of a name with a tuple of arguments describes; nothing is called.
      change: sets the state of an object that `call` returned, or of `Pairs`.
      stored: returns what a persistent id stands for.
    """

    kind: str
    known: Collection[str]
    call: Callable[[str, tuple], Any]
    change: Callable[[Any, Any], None]
    stored: Callable[[Any], Any]


_MARK = object()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
"""Instructions that put their argument, a number or a string, on the stack."""
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def describe(data: bytes, vocabulary: Vocabulary) -> Any:
    """Returns what a pickle describes: `Pairs` for dicts, lists, tuples, plain values, and what the vocabulary makes.

    Raises:
      Refused: for an instruction or a global that the vocabulary does not need.
      ValueError, IndexError, TypeError: if the pickle is damaged.
    """
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
        elif name == "BUILD":
            state = _pop(stack)
            vocabulary.change(_top(stack), state)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise ValueError(f"value {argument} is used before it is defined")
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_global(argument.replace(" ", "."), vocabulary))
        elif name == "STACK_GLOBAL":
            attribute, module = _pop(stack), _pop(stack)
            if type(module) is not str or type(attribute) is not str:
                raise Refused("names something by no string")
            stack.append(_global(f"{module}.{attribute}", vocabulary))
        elif name == "BINPERSID":
            stack.append(vocabulary.stored(_pop(stack)))
        elif name == "REDUCE":
            arguments, called = _pop(stack), _pop(stack)
            if type(called) is not Global or type(arguments) is not tuple:
                raise Refused(f"calls something that is no part of {vocabulary.kind}")
            stack.append(vocabulary.call(called.name, arguments))
        else:
            raise Refused(f"has a pickle with the instruction {name}, which {vocabulary.kind} do not need")
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


def _global(name: str, vocabulary: Vocabulary) -> Global:
    if name not in vocabulary.known:
        raise Refused(f"names {name[:100]}, which is no part of {vocabulary.kind} and could run code")
    return Global(name)


def flatten(value: Any, leaf: type) -> Iterator[tuple[str, Any]]:
    """Yields the objects of a type inside of a value, with their names: keys and places, joined by dots.

    Leaves out other values. Counts items and letters, because few containers that contain one another often can stand
    for many names.
    """
    waiting, seen, items, letters = [("", value, 0)], set(), 0, 0
    while waiting:
        name, value, depth = waiting.pop()
        if type(value) is leaf:
            if name in seen:
                raise ValueError(f"two of its entries have the name {name}")
            seen.add(name)
            yield name, value
            continue
        inside = []
        items += len(value) if type(value) in CONTAINERS else 0
        if items > MAX_ITEMS or depth > MAX_DEPTH:
            raise Refused("nests its containers too deeply or too often")
        for key, item in value if type(value) is Pairs else enumerate(value) if type(value) in CONTAINERS else ():
            if type(item) is not leaf and type(item) not in CONTAINERS:
                continue
            if type(key) not in (str, int):
                raise Refused("names an entry by no string and no number")
            key = str(key)
            letters += len(name) + len(key) + 1
            if letters > MAX_LETTERS:
                raise Refused("repeats the names of its containers too often")
            inside.append((f"{name}.{key}" if name else key, item, depth + 1))
        waiting += inside[::-1]
