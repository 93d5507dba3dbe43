"""Safetensors files, opened and not read. Pickles are never read."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jvflow.data.files import check_room


class Files(Mapping):
    """The tensors of safetensors files, memory-mapped: read when they are asked for.

    Attributes:
      shapes: of all of them, which costs no reading.
    """

    def __init__(self, files: Sequence[Path]):
        self._where, self.shapes, broken = {}, {}, []
        for file in files:
            if not Path(file).exists():
                broken.append(f"{file} is not there")
                continue
            try:
                opened = safe_open(file, framework="np")
            except (SafetensorError, OSError) as error:
                broken.append(f"{file} is no whole safetensors file ({error})")
                continue
            for name in opened.keys():
                self._where[name], self.shapes[name] = opened, tuple(opened.get_slice(name).get_shape())
        if broken:
            raise ValueError(f"cannot read {'; '.join(broken)}: pickled files (.bin, .pt, .ckpt) are never read, convert them to safetensors")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._where[name].get_tensor(name)

    def rows(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """Rows of a tensor, (..., width) for numbers (...): of a large table only what is asked for is read."""
        some, where = np.unique(numbers, return_inverse=True)
        table = self._where[name].get_slice(name)
        return np.concatenate([table[int(i) : int(i) + 1] for i in some])[where.reshape(np.shape(numbers))]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def save(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, as readable as any other file that is made here; nothing where the disk has no room for it."""
    check_room(file.parent, sum(a.nbytes for a in tensors.values()), f"the tensors of {file.name}", "or take another disk")
    save_file(dict(tensors), file, metadata=dict(format="pt"))
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(file, 0o666 & ~mask)
