"""Reads what a pickle of PyTorch says about tensors, without PyTorch and without running code (`pickles`)."""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jvflow.pretrained.pickles import Global, Pairs, Refused, Vocabulary, describe, flatten

MAX_AXES = 32
"""The bound on the axes of a tensor."""

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


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """Returns the tensors that a pickle describes, by name; names of nested dicts and lists are joined by dots.

    Raises:
      Refused: for an instruction, a global or a container that a pickle of tensors does not need.
      ValueError, IndexError, TypeError: if the pickle is damaged.
    """
    return dict(flatten(describe(data, Vocabulary("tensors", GLOBALS, _rebuild, _change, _storage)), Tensor))


def _change(target: Any, state: Any) -> None:
    """Ignores the attributes of an OrderedDict, such as the versions of modules."""
    del state
    if type(target) is not Pairs:
        raise Refused("has a pickle that changes an object that is no plain list or dict")


def _storage(identity: Any) -> Storage:
    """Returns the storage that a persistent id stands for."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        raise Refused("refers to something that is no storage of a tensor")
    _, kind, key, _, elements = identity
    if type(kind) is not Global or GLOBALS[kind.name] is None or type(key) is not str:
        raise Refused("refers to a storage of an unknown type")
    return Storage(GLOBALS[kind.name], key, _whole(elements))


def _rebuild(called: str, arguments: tuple) -> Any:
    """Returns what a call in the pickle describes. Only these five calls are known, and none of them is made."""
    if called == DICT and len(arguments) <= 1:
        pairs = arguments[0] if arguments else []
        if type(pairs) is not list or any(type(pair) not in (tuple, list) or len(pair) != 2 for pair in pairs):
            raise ValueError("a dict of its pickle has a key without a value")
        return Pairs(pairs)
    if called == SIZE and len(arguments) == 1:
        return _sizes(arguments[0])
    if called == PARAMETER and arguments and type(arguments[0]) is Tensor:
        return arguments[0]
    if called in (TENSOR, TYPED_TENSOR) and len(arguments) >= 4 and type(arguments[0]) is Storage:
        storage, offset, shape, strides = arguments[:4]
        dtype = storage.dtype
        if called == TYPED_TENSOR:
            kind = arguments[6]
            dtype = GLOBALS[kind.name] if type(kind) is Global else None
            if dtype is None:
                raise Refused("holds a tensor of an unknown dtype")
        shape, strides = _sizes(shape), _sizes(strides)
        if len(shape) != len(strides):
            raise ValueError(f"a tensor has shape {shape} and strides {strides}")
        return Tensor(storage, dtype, _whole(offset), shape, strides)
    raise Refused(f"calls {called} with arguments that are no part of a tensor")


def _sizes(numbers: Any) -> tuple[int, ...]:
    if type(numbers) not in (tuple, list) or len(numbers) > MAX_AXES:
        raise ValueError(f"the sizes of a tensor are no list of up to {MAX_AXES} numbers")
    return tuple(_whole(number) for number in numbers)


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**48:
        raise ValueError("a size of a tensor is no whole number in the range of sizes")
    return number
