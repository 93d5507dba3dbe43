"""The tensors of several files as one mapping, and the writing of a safetensors file."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jvflow.files import check_room
from jvflow.pretrained.readers import open_file

CONFIG = "config.json"


class Files(Mapping):
    """The tensors of files (`jvflow.pretrained.readers`), each read when it is used.

    Attributes:
      shapes: shapes of all tensors, known without reading them.
      metadata: the strings in the headers of the files.
      paths: the files.
    """

    def __init__(self, files: Sequence[Path]):
        """Opens the files; raises ValueError that names all files that cannot be read, or a tensor in two of them."""
        self.paths, self.metadata, self.shapes, self._files, broken = tuple(map(Path, files)), {}, {}, {}, []
        for file in self.paths:
            try:
                opened = open_file(file)
            except ValueError as error:
                broken.append(str(error))
                continue
            twice = sorted(self._files.keys() & opened.shapes.keys())
            if twice:
                raise ValueError(
                    f"the tensor {twice[0]} is in {self._files[twice[0]][0].path} and in {file}, which may differ: "
                    "keep the files of one model in the folder, or give one file"
                )
            self._files |= {name: (opened, name) for name in opened.shapes}
            self.shapes |= opened.shapes
            self.metadata |= opened.metadata
        if broken:
            raise ValueError("; ".join(broken))

    def renamed(self, rename: Callable[[str], str | None], reshape: Callable[[str, tuple], tuple] | None = None):
        """Returns these tensors under other names, without those whose new name is None.

        Args:
          rename: `name -> new name or None`.
          reshape: `(new name, shape) -> shape` of the same number of elements.
        """
        new = object.__new__(Files)
        new.paths, new.metadata, new.shapes, new._files = self.paths, self.metadata, {}, {}
        for name, shape in self.shapes.items():
            public = rename(name)
            if public is None:
                continue
            if public in new.shapes:
                raise ValueError(f"two tensors of {', '.join(map(str, self.paths))} would be {public}: {name} is one")
            new.shapes[public] = reshape(public, shape) if reshape else shape
            new._files[public] = self._files[name]
        return new

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._files[name]
        return file.read(stored).reshape(self.shapes[name])

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Returns rows (..., width) of a tensor for indices (...), and reads no others."""
        unique, where = np.unique(indices, return_inverse=True)
        file, stored = self._files[name]
        return file.read_rows(stored, unique)[where.reshape(np.shape(indices))]

    def __contains__(self, name: object) -> bool:  # the one of `Mapping` reads the tensor
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def save(file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file with the usual permissions; raises before writing if the disk has no room for it."""
    check_room(
        file.parent, sum(a.nbytes for a in tensors.values()), f"the tensors of {file.name}", "or use another disk"
    )
    save_file(dict(tensors), file, metadata=dict(metadata or {}, format="pt"))
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(file, 0o666 & ~mask)
