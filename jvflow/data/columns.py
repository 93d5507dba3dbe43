"""A clip of a video, the names of its columns, and the columns as the bytes of a `tf.train.Example`."""

from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of a video, and where they come from.

    Attributes:
      video: uint8 (f, h, w, 3); `Columns` checks it.
      fps: frames per second.
      start: seconds into the source.
      caption: describes the frames.
      source: name of the video that the clip was cut from.
    """

    video: np.ndarray
    fps: float | int
    start: float | int
    caption: str = ""
    source: str = ""


def as_dict(clip: Clip | dict) -> dict:
    """Returns the columns of a clip."""
    return clip if isinstance(clip, dict) else dict(vars(clip))


def latent_columns(chunk: int = 0) -> tuple[str, str]:
    """Returns the names of the columns with mean and deviation of latents, encoded in chunks of `chunk` frames."""
    return (f"latent_mean_{chunk}", f"latent_std_{chunk}") if chunk else ("latent_mean", "latent_std")


def inverted_column(chunk: int) -> str:
    """Returns the name of the column with the inversions of a clip's chunks; NAME_error holds each chunk's error."""
    return f"inverted_{chunk}"


@dataclass(frozen=True)
class Columns:
    """The columns of every clip in a data set.

    Attributes:
      features: the tfds features of the columns.
      arrays: shape and type of each array.
    """

    features: tfds.features.FeaturesDict
    arrays: dict[str, tuple]

    @property
    def shape(self) -> tuple:
        """Returns the shape of the video, or of the first array if there is no video."""
        return self.arrays.get("video", next(iter(self.arrays.values())))[0]

    @classmethod
    def of(cls, clip: Clip | dict) -> "Columns":
        """Returns the columns of a clip; raises ValueError if its video is not (f, h, w, 3)."""
        features, arrays = {}, {}
        for name, value in as_dict(clip).items():
            if isinstance(value, str):
                features[name] = tfds.features.Text()
            elif np.ndim(value) == 0:
                features[name] = tfds.features.Scalar(np.float32)
            else:
                value = np.asarray(value)
                if name == "video" and (value.ndim != 4 or value.shape[-1] != 3):
                    raise ValueError(f"a clip has shape (frames, height, width, 3), not {value.shape}")
                arrays[name] = value.shape, np.dtype(np.uint8) if name == "video" else value.dtype
                features[name] = tfds.features.Tensor(
                    shape=value.shape, dtype=arrays[name][1], encoding=tfds.features.Encoding.BYTES
                )
        return cls(tfds.features.FeaturesDict(features), arrays)

    def serialize(self, clip: Clip | dict, split: str, index: int) -> bytes:
        """Returns the bytes of clip number `index` of a split; raises ValueError if its arrays do not fit."""
        clip = as_dict(clip)
        for name, (shape, dtype) in self.arrays.items():
            got = np.shape(clip[name]), np.asarray(clip[name]).dtype
            if got != (shape, dtype):
                raise ValueError(
                    f"all clips need the shape of the first one, {shape} {dtype}; clip {index} of split "
                    f"{split!r} ({clip.get('source') or 'no source'}) is {got[0]} {got[1]}: "
                    "resize and cut the clips before writing"
                )
        return _sort_columns(
            self.features.serialize_example(clip | {name: np.asarray(clip[name]) for name in self.arrays})
        )


def _sort_columns(example: bytes) -> bytes:
    """Sorts the columns of a serialized `tf.train.Example`, since the order of a protobuf map changes between runs.

    An Example is one field 1 with the Features, and the Features are one field 1 for each column. Fields have a length.
    """
    (features,) = _fields(example)
    return _field(b"".join(_field(column) for column in sorted(_fields(features))))


def _fields(message: bytes) -> list[bytes]:
    contents, at = [], 0
    while at < len(message):
        if message[at] != 0x0A:  # field 1, with a length
            raise ValueError(f"not a tf.train.Example: byte {at} is {message[at]:#x}")
        length, at, shift = 0, at + 1, 0
        while True:
            byte = message[at]
            length, at, shift = length | (byte & 0x7F) << shift, at + 1, shift + 7
            if byte < 0x80:
                break
        contents.append(message[at : at + length])
        at += length
    return contents


def _field(content: bytes) -> bytes:
    length, left = bytearray(), len(content)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return b"\x0a" + bytes(length) + bytes([left]) + content
