"""Files that PyTorch saved (.pt, .pth, .bin, .ckpt): reads their tensors without PyTorch and without running code.

Such a file is a zip archive. Its entry data.pkl is a pickle that describes the tensors
(`jvflow.pretrained.torch_pickle`); each storage is an uncompressed entry of raw bytes. Every tensor is checked against
the bytes of its storage, and is memory-mapped when it is used.
"""

import struct
import zipfile
import zlib
from math import prod
from pathlib import Path

import numpy as np

from jvflow.pretrained.pickles import Refused
from jvflow.pretrained.torch_pickle import Tensor, tensors_of

MAX_PICKLE, MAX_LIST = 2**25, 2**24
"""Bounds on the bytes of the pickle, and on the bytes in which an archive lists its entries."""


class TorchFile:
    """The tensors of one file of PyTorch by name; names of nested dicts and lists are joined by dots.

    Attributes:
      shapes: shapes of all tensors, known without reading them.
      metadata: always empty: such files hold none.
    """

    def __init__(self, path: Path):
        """Reads the description of the tensors.

        Raises:
          ValueError: if the file is incomplete, is no archive of PyTorch, or holds anything but tensors, plain
            containers, strings, numbers and None.
        """
        self.path, self.metadata = Path(path), {}
        entries = _entries(self.path)
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"{path} is a zip archive, but not one that torch.save writes: extract it first")
        inside = {name.removeprefix(roots[0]): entry for name, entry in entries.items()}
        try:
            self._tensors = tensors_of(_read_entry(self.path, inside["data.pkl"]))
            order = _read_entry(self.path, inside["byteorder"]) if "byteorder" in inside else b"little"
        except Refused as error:
            raise ValueError(
                f"{path} {error}: only tensors, plain containers, strings and numbers are read; use a safetensors file "
                "of the model, or save only its state_dict"
            ) from None
        except (ValueError, IndexError, TypeError, OverflowError, RecursionError, struct.error) as error:
            raise ValueError(f"{path} is damaged ({error}): download it again") from error
        if order != b"little":
            raise ValueError(f"{path} was written by a big-endian machine: save it again on another one")
        self._starts = {}
        for name, tensor in self._tensors.items():
            self._starts[name] = self._locate(name, tensor, inside)
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        self._bytes = None

    def _locate(self, name: str, tensor: Tensor, inside: dict) -> int:
        """Returns where the storage of a tensor begins in the file, after checking that the tensor is inside of it."""
        storage = tensor.storage
        entry = inside.get(f"data/{storage.key}")
        if entry is None:
            raise ValueError(f"{self.path} lacks the bytes of {name}: download it again")
        elements = storage.elements * storage.dtype.itemsize // tensor.dtype.itemsize
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides))
        count = prod(tensor.shape)
        if storage.elements * storage.dtype.itemsize > entry.file_size or (count and last >= elements):
            raise ValueError(f"{self.path}: {name} {tensor.shape} reaches beyond its bytes: download it again")
        if count > elements:
            raise ValueError(
                f"{self.path}: {name} {tensor.shape} repeats {elements} stored values: save a contiguous copy of it"
            )
        return _data_start(self.path, entry)

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor, memory-mapped."""
        tensor = self._tensors[name]
        if not prod(tensor.shape):
            return np.zeros(tensor.shape, tensor.dtype)
        if self._bytes is None:
            self._bytes = np.memmap(self.path, np.uint8, "r")
        width = tensor.dtype.itemsize
        offset, strides = self._starts[name] + width * tensor.offset, tuple(width * n for n in tensor.strides)
        return np.ndarray(tensor.shape, tensor.dtype, self._bytes, offset, strides)

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns these rows of a tensor, and reads no others."""
        return np.asarray(self.read(name)[rows])


# --- the archive ----------------------------------------------------------------------------------


def _entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Returns the entries of an archive by name, after checking that they are few, uncompressed and inside the file."""
    size = path.stat().st_size
    _check_count(path, size)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is cut off or damaged ({error}): download it again") from error
    entries = {}
    for info in infos:
        parts = info.filename.split("/")
        if parts[1:2] == ["code"]:
            raise ValueError(f"{path} is a TorchScript archive, which holds code: save only its state_dict")
        if ".." in parts or info.filename.startswith("/") or "\\" in info.filename or info.filename in entries:
            raise ValueError(f"{path} holds an entry {info.filename!r}, which torch.save does not write: do not use it")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ValueError(f"{path} holds a compressed entry {info.filename!r}, which torch.save does not write")
        if info.header_offset < 0 or info.header_offset + info.file_size > size:
            raise ValueError(f"{path} is cut off inside {info.filename!r}: download it again")
        entries[info.filename] = info
    return entries


def _check_count(path: Path, size: int) -> None:
    """Raises ValueError if the archive lists too many entries; `zipfile` reads the whole list into memory."""
    with path.open("rb") as opened:
        begin = max(size - 2**16 - 22, 0)
        opened.seek(begin)
        tail = opened.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            raise ValueError(f"{path} is cut off: download it again")
        listed = [struct.unpack("<I", tail[at + 12 : at + 16])[0]]
        if tail[max(at - 20, 0) : at].startswith(b"PK\x06\x07"):  # a large archive has a second, wider record
            listed = []
            for place in (begin + at - 76, struct.unpack("<Q", tail[at - 12 : at - 4])[0]):
                opened.seek(min(max(place, 0), size))
                wide = opened.read(56)
                listed += [struct.unpack("<Q", wide[40:48])[0]] if wide[:4] == b"PK\x06\x06" and len(wide) == 56 else []
    if max(listed, default=0) > MAX_LIST:
        raise ValueError(f"{path} lists its entries in more than {MAX_LIST:,} bytes, which is no model: do not use it")


def _data_start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Returns where the bytes of an entry begin: after its own header, two fields of which have any length."""
    with path.open("rb") as opened:
        opened.seek(entry.header_offset)
        header = opened.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{path} is damaged at {entry.filename!r}: download it again")
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start + entry.file_size > path.stat().st_size:
        raise ValueError(f"{path} is cut off inside {entry.filename!r}: download it again")
    return start


def _read_entry(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of a small entry; the archive's checksum of them must agree."""
    if entry.file_size > MAX_PICKLE:
        raise Refused(f"describes its tensors in {entry.file_size:,} bytes, and at most {MAX_PICKLE:,} are read")
    with path.open("rb") as opened:
        opened.seek(_data_start(path, entry))
        content = opened.read(entry.file_size)
    if zlib.crc32(content) != entry.CRC:
        raise ValueError(f"the checksum of {entry.filename} differs")
    return content
