"""Videos that PyTorch saved as one tensor, such as CARLA's: uint8 (frames, height, width, 3), RGB."""

from dataclasses import dataclass

import numpy as np

from jvflow.data.images import ImageFolder
from jvflow.pretrained.torch_file import TorchFile

TENSOR_SUFFIX = ".pt"


@dataclass(frozen=True)
class TensorVideo(ImageFolder):
    """A file with the frames of one video; `path` is the file, and `fps` as for images."""

    def files(self) -> list[np.ndarray]:
        """Returns the frames in order, memory-mapped.

        Raises:
          ValueError: if the file holds anything but tensors, or no single tensor of this shape.
        """
        opened = TorchFile(self.path)
        found = [opened.read(name) for name in opened.shapes]
        if len(found) != 1 or found[0].ndim != 4 or found[0].shape[-1] != 3 or found[0].dtype != np.uint8:
            what = ", ".join(f"{a.dtype} {a.shape}" for a in found[:3]) or "no tensor"
            raise ValueError(f"{self.path} holds {what}, and a video is one tensor uint8 (frames, height, width, 3)")
        return list(found[0])
