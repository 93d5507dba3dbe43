"""Writes files as PyTorch saves them, and pickles by hand, for the tests of their reader. Needs no PyTorch."""

import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long", "uint8": "Byte"}
BEGIN, END = b"\x80\x02", b"."


def write(path: Path, value, *, entries: dict[str, bytes] | None = None) -> Path:
    """Writes a value of arrays, dicts, lists, tuples, strings and numbers as torch.save does; returns the path."""
    storages = []
    return write_archive(path, BEGIN + encode(value, storages) + END, storages, entries)


def write_archive(path: Path, pickle: bytes, storages=(), entries: dict[str, bytes] | None = None) -> Path:
    """Writes an archive with a pickle and the bytes of its storages."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for number, stored in enumerate(storages):
            archive.writestr(f"archive/data/{number}", stored)
        archive.writestr("archive/version", "3\n")
        for name, content in (entries or {}).items():
            archive.writestr(name, content)
    return path


def encode(value, storages: list[bytes]) -> bytes:
    """Returns the instructions that put a value on the stack, and appends the bytes of its arrays to `storages`."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a\x08" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, dict):
        pairs = b"".join(encode(item, storages) for pair in value.items() for item in pair)
        return b"}(" + pairs + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(encode(item, storages) for item in value)
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"
    value = np.asarray(value)
    stored = np.array(value, order="C")
    storages.append(stored.tobytes())
    strides = tuple(stride // value.itemsize for stride in stored.strides)
    return tensor(STORAGES[value.dtype.name], len(storages) - 1, value.size, 0, value.shape, strides)


def tensor(kind: str, key: int, elements: int, offset: int, shape: tuple, strides: tuple) -> bytes:
    """Returns the instructions of one tensor."""
    storage = b"(" + encode("storage", []) + b"ctorch\n" + f"{kind}Storage\n".encode()
    storage += encode(str(key), []) + encode("cpu", []) + encode(elements, []) + b"tQ"
    arguments = storage + b"".join(encode(value, []) for value in (offset, tuple(shape), tuple(strides), False))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"ccollections\nOrderedDict\n)RtR"


class Acting:
    """A class that makes a file when Python's own reader of pickles makes an object of it, or sets its state."""

    def __new__(cls, path: str = ""):
        if path:
            Path(path).touch()
        return super().__new__(cls)

    def __setstate__(self, path: str):
        Path(path).touch()
