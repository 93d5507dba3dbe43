"""A clip, and its columns as the bytes of a `tf.train.Example`."""

from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8


@dataclass(frozen=True)
class Clip:
    """A clip and where it comes from; `start` is in seconds into the source."""

    video: UInt8[np.ndarray, "f h w 3"]
    fps: float
    start: float
    caption: str = ""
    source: str = ""


def as_dict(clip: Clip | dict) -> dict:
    """A clip by its columns."""
    return clip if isinstance(clip, dict) else dict(vars(clip))


@dataclass(frozen=True)
class Columns:
    """What every clip has: the tfds features, and shape and type of each array."""

    features: tfds.features.FeaturesDict
    arrays: dict[str, tuple]

    @property
    def shape(self) -> tuple:
        """Of the video, or of the first array where there is none."""
        return self.arrays.get("video", next(iter(self.arrays.values())))[0]

    @classmethod
    def of(cls, clip: Clip | dict) -> "Columns":
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
        clip = as_dict(clip)
        for name, (shape, dtype) in self.arrays.items():
            got = np.shape(clip[name]), np.asarray(clip[name]).dtype
            if got != (shape, dtype):
                raise ValueError(
                    f"all clips have one shape, {shape} {dtype} as the first one; clip {index} of split "
                    f"{split!r} ({clip.get('source') or 'no source'}) is {got[0]} {got[1]}: "
                    "resize and cut the clips before writing"
                )
        return _in_order(self.features.serialize_example(clip | {name: np.asarray(clip[name]) for name in self.arrays}))


def _in_order(example: bytes) -> bytes:
    """A serialized `tf.train.Example` with its columns sorted: the order of a protobuf map changes from run to run.

    Example = field 1 of type Features, Features = a field 1 for each column, both with their length before them.
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
