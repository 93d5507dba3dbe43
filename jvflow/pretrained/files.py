"""Reads safetensors files by memory-mapping, and writes them. Pickles are never read."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jvflow.files import check_room

CONFIG = "config.json"


class Files(Mapping):
    """The tensors of safetensors files, each read when it is used.

    Attributes:
      folder: the folder of the first file.
      shapes: shapes of all tensors, known without reading them.
    """

    def __init__(self, files: Sequence[Path]):
        self.folder = Path(files[0]).parent
        self._files, self.shapes, broken = {}, {}, []
        for file in files:
            if not Path(file).exists():
                broken.append(f"{file} does not exist")
                continue
            try:
                opened = safe_open(file, framework="np")
            except (SafetensorError, OSError) as error:
                broken.append(f"{file} is not a complete safetensors file ({error})")
                continue
            for name in opened.keys():
                self._files[name], self.shapes[name] = opened, tuple(opened.get_slice(name).get_shape())
        if broken:
            raise ValueError(
                f"cannot read {'; '.join(broken)}: pickled files (.bin, .pt, .ckpt) are never read, "
                "convert them to safetensors"
            )

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Returns rows (..., width) of a tensor for indices (...), and reads no others."""
        unique, where = np.unique(indices, return_inverse=True)
        table = self._files[name].get_slice(name)
        return np.concatenate([table[int(i) : int(i) + 1] for i in unique])[where.reshape(np.shape(indices))]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def save(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file with the usual permissions; raises before writing if the disk has no room for it."""
    check_room(
        file.parent, sum(a.nbytes for a in tensors.values()), f"the tensors of {file.name}", "or use another disk"
    )
    save_file(dict(tensors), file, metadata=dict(format="pt"))
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(file, 0o666 & ~mask)
