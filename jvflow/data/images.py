"""Reads pictures (png, jpeg, ...) as uint8 RGB, upright, and lists the folders of images that are videos.

Transparent pixels show the background, which is black as in `jvflow.data.picture`. Grey pictures of 16 and 32 bits are
scaled to 8 bits; grey of floating point is taken to be in [0, 1].
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images that are the frames of one video, in the order of the numbers in their names.

    Attributes:
      path: the folder.
      fps: frames per second of the video, which images do not contain; 0 if unknown.
    """

    path: Path
    fps: float | int

    def files(self) -> list[Path]:
        """Returns the images in order: frame_2.png comes before frame_10.png."""
        order = lambda file: [int(part) if part.isdecimal() else part for part in _NUMBERS.split(file.name)]
        return sorted(images_in(self.path), key=order)


def images_in(folder: str | os.PathLike) -> list[Path]:
    """Returns the image files directly in a folder; hidden ones are left out."""
    inside = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return [path for path in inside if path.is_file() and not path.name.startswith(".")]


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture as RGB, turned as its EXIF orientation demands.

    Raises:
      ValueError: if it does not decode, or has so many pixels that Pillow takes it for an attack.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                image = _scale_grey(image)
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # not only OSError: decoders raise SyntaxError, struct.error, MemoryError, ...
        raise ValueError(f"{path} does not decode: {error or type(error).__name__}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """Returns a deep grey picture with 8 bits."""
    values = np.asarray(image)
    if image.mode == "F":
        highest = 1.0
    else:
        short = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
        highest = 65535 if short else 2**32 - 1
        values = values if short else values.view(np.uint32)
    scaled = np.nan_to_num(values.astype(np.float64) / highest).clip(0, 1)
    scaled = Image.fromarray(np.round(255 * scaled).astype(np.uint8))
    scaled.info = dict(image.info)  # keeps the orientation
    return scaled
