"""Opens one file of tensors: safetensors, or a file that PyTorch saved (`jvflow.pretrained.torch_file`).

The first bytes decide which it is, not the name. A file that is neither raises ValueError with its cure: download it
again, fetch it from Git LFS, use another format.
"""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jvflow import files
from jvflow.pretrained.torch_file import TorchFile

MAX_HEADER, MAX_JSON = 2**23, 2**22
"""Bounds on the bytes of the header of a safetensors file, and of a JSON file."""
FLOAT8 = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
"""Dtypes that NumPy itself does not have, so that the package safetensors does not return them as arrays."""
AGAIN = "download it again"


class SafetensorsFile:
    """The tensors of one safetensors file by name.

    Attributes:
      shapes: shapes of all tensors, known without reading them.
      metadata: the strings in its header.
    """

    def __init__(self, path: Path):
        """Reads the header; raises ValueError if the file is incomplete or its tensors overlap."""
        self.path = Path(path)
        self._begin, header = _read_header(self.path)
        try:
            self._opened = safe_open(self.path, framework="np")  # checks all offsets and sizes
            self.metadata = dict(self._opened.metadata() or {})
            slices = {name: self._opened.get_slice(name) for name in self._opened.keys()}
            self.shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a complete safetensors file ({error}): {AGAIN}") from error
        self._float8 = {name: header[name] for name, tensor in slices.items() if tensor.get_dtype() in FLOAT8}

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        if name not in self._float8:
            return self._opened.get_tensor(name)
        entry = self._float8[name]
        dtype, offset = FLOAT8[entry["dtype"]], self._begin + entry["data_offsets"][0]
        return np.fromfile(self.path, dtype, int(np.prod(self.shapes[name])), offset=offset).reshape(self.shapes[name])

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns these rows of a tensor, and reads no others unless it has a dtype of 8 bits."""
        if name in self._float8:
            return self.read(name)[rows]
        table = self._opened.get_slice(name)
        return np.concatenate([table[int(i) : int(i) + 1] for i in rows])


def open_file(path: Path) -> SafetensorsFile | TorchFile:
    """Opens a file of tensors; raises ValueError with the cure if it is none, or is incomplete."""
    path = Path(path)
    try:
        with path.open("rb") as opened:
            begin = opened.read(16)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if begin[:4] == b"PK\x03\x04":
        return TorchFile(path)
    return SafetensorsFile(path)


def _read_header(path: Path) -> tuple[int, dict]:
    """Returns where the tensors of a safetensors file begin, and its header."""
    size = path.stat().st_size
    with path.open("rb") as opened:
        begin = opened.read(64)
        if begin[8:9] != b"{":
            raise ValueError(f"{path} {_what_else(begin)}")
        length = struct.unpack("<Q", begin[:8])[0]
        if length > MAX_HEADER:
            raise ValueError(
                f"{path} has a header of {length:,} bytes, and at most {MAX_HEADER:,} are read: it is no model"
            )
        opened.seek(8)
        text = opened.read(length)
    if len(text) < length:
        raise ValueError(f"{path} is cut off in its header: {AGAIN}")
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it has no valid header: {AGAIN}") from error
    if size < needed:
        raise ValueError(f"{path} is not a complete safetensors file: it has {size:,} of {needed:,} bytes, so {AGAIN}")
    return 8 + length, header


def _what_else(begin: bytes) -> str:
    """Returns what a file is that is no safetensors file, with the cure, from its first bytes."""
    if not begin:
        return f"is empty: {AGAIN}"
    if begin.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer in place of the file: run git lfs pull in its repository, or download it"
    if begin.startswith(b"GGUF"):
        return "is a GGUF file, which is not read: use a safetensors file of the model"
    if begin.lstrip()[:1] == b"<":
        return f"is a web page in place of the file: {AGAIN}"
    if begin[:1] == b"\x80" and begin[1:2] <= b"\x05":
        return (
            "is a bare pickle, which is not read (PyTorch wrote such files before version 1.6): use a safetensors file "
            "of the model, or load it where you trust it and save its state_dict again"
        )
    return f"is not a safetensors file, nor one of PyTorch: {AGAIN}"


def read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file; raises ValueError with its name if it is damaged, or is no dict."""
    path = Path(path)
    if path.is_file() and path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, and at most {MAX_JSON:,} are read: {AGAIN}")
    return files.read_json(path, AGAIN)
