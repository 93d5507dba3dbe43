"""Decodes video files and folders of images at a constant rate, and resizes frames.

A frame is uint8 (h, w, 3), RGB, with rows from the top, as a player shows it (`jvflow.data.picture`); a video is uint8
(f, h, w, 3). Time is in seconds since the first frame; `jvflow.data.timing` defines the parts of a source between gaps,
and the frames at a constant rate.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jvflow.data import decoder, picture, timing
from jvflow.data.images import IMAGE_SUFFIXES, ImageFolder, read_image
from jvflow.data.tensor_video import TENSOR_SUFFIX, TensorVideo
from jvflow.data.timing import Interval, Length, Stamp, exact_rate

Frame = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".gif", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts")
VIDEO_SUFFIXES += (".wmv", ".flv", ".3gp", ".ogv", TENSOR_SUFFIX)

native_fps = decoder.native_fps


@dataclass(frozen=True)
class Shown:
    """A frame of a source.

    Attributes:
      time: seconds since the first frame of the source.
      part: number of the part of the source, see `jvflow.data.timing`.
      frame: the pixels; None if they are damaged.
      damage: empty, or why the frame is damaged.
    """

    time: float
    part: int
    frame: Frame | None
    damage: str = ""


def shown(path: str | os.PathLike | ImageFolder, *, fps: float | int | None = None) -> Iterator[Shown]:
    """Decodes a video file, or images, in order.

    With `fps` the frames of each part follow (2) of `jvflow.data.timing`: repeated where the source is slower, left out
    where it is faster; a source of variable rate is sampled by its time stamps. Without `fps` they are the source's
    own.

    Raises:
      ValueError: while iterating, from the first place on where the source does not decode.
    """
    period = None if fps is None else 1 / exact_rate(fps)
    return _image_frames(path, period) if isinstance(path, ImageFolder) else _file_frames(path, period)


def frames(path: str | os.PathLike | ImageFolder, *, fps: float | int | None = None) -> Iterator[tuple[float, Frame]]:
    """Yields (seconds since the first frame, frame) of the frames that are not damaged; see `shown`."""
    return ((item.time, item.frame) for item in shown(path, fps=fps) if not item.damage)


def source_of(path: Path, image_fps: float | int) -> Path | ImageFolder:
    """Returns what `frames` decodes: the file; or a folder of images, or a tensor, at `image_fps`."""
    if path.is_dir():
        return ImageFolder(path, image_fps)
    return TensorVideo(path, image_fps) if path.suffix.lower() == TENSOR_SUFFIX else path


def measure(source: str | os.PathLike | ImageFolder) -> Length:
    """Returns the length and the true frame rate of a source, without decoding it; ValueError if it does not open."""
    if isinstance(source, ImageFolder):
        return timing.measure(_image_intervals(source))
    return decoder.measure(source)


def _file_frames(path: str | os.PathLike, period: Fraction | None) -> Iterator[Shown]:
    with decoder.open_file(path) as container:
        stream = decoder.video_stream(container)
        matrix = decoder.display_matrix(path) if decoder.has_hidden_alpha(stream) else None
        convert = picture.Converter(path, Fraction(stream.sample_aspect_ratio or 1), matrix)
        stamps = picture.deinterlace(decoder.decode(path, container))
        pictures = timing.intervals(stamps, 1 / decoder.declared_rate(stream))
        yield from _convert(timing.sample(pictures, period, Fraction(stream.time_base)), convert)


def _image_frames(images: ImageFolder, period: Fraction | None) -> Iterator[Shown]:
    yield from _convert(timing.sample(_image_intervals(images), period, Fraction(0)), _read_or_reason)


def _image_intervals(images: ImageFolder) -> Iterator[Interval]:
    if not images.fps:
        what = "is a tensor" if isinstance(images, TensorVideo) else "is a folder of images"
        raise ValueError(f"{images.path} {what}, and its frames have no frame rate: set config.data.image_fps")
    own, files = 1 / exact_rate(images.fps), images.files()
    if not files:
        raise ValueError(f"{images.path} holds no image ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})")
    stamps = (Stamp(k * own, own, file) for k, file in enumerate(files))
    return timing.intervals(stamps, own, longest=None)


def _read_or_reason(path: Path | np.ndarray) -> Frame | str:
    """Returns the picture, or why it does not decode: one broken image does not end its video."""
    if isinstance(path, np.ndarray):
        return np.array(path)
    try:
        return read_image(path)
    except ValueError as error:
        return str(error)


def _convert(sampled: Iterator[tuple[Fraction, Interval]], convert) -> Iterator[Shown]:
    """Yields frames with their pixels; a picture that is repeated is converted once."""
    last, pixels = None, None
    for time, interval in sampled:
        if interval is not last:
            last, pixels = interval, interval.damage or convert(interval.content)
        if isinstance(pixels, str):
            yield Shown(float(time), interval.part, None, pixels)
        else:
            yield Shown(float(time), interval.part, pixels)


def resize(video: np.ndarray, size: tuple[int, ...], mode: str = "crop") -> UInt8[np.ndarray, "*f height width 3"]:
    """Resizes a frame (h, w, 3) or a video (f, h, w, 3), uint8, to `size` = (height, width) with antialiasing.

    "crop" keeps the aspect: it scales the largest centred box of the wanted aspect. "squeeze" scales the whole picture
    and changes the aspect, as in the Bi-flow paper. The filter is Lanczos.
    """
    video = check_pixels(video, (3, 4), "resize")
    if np.shape(size) != (2,) or min(size) < 1:
        raise ValueError(f"size must be (height, width) in pixels, both positive, not {size}")
    height, width = size
    if mode not in ("crop", "squeeze"):
        raise ValueError(f"mode must be 'crop' or 'squeeze', not {mode!r}")
    if video.ndim == 4:
        return np.stack([resize(frame, size, mode) for frame in video])
    h, w = video.shape[:2]
    if (h, w) == (height, width):
        return video
    box_h, box_w = h, w
    if mode == "crop":
        scale = max(height / h, width / w)
        box_h, box_w = min(h, height / scale), min(w, width / scale)
    top, left = (h - box_h) / 2, (w - box_w) / 2
    image = Image.fromarray(video).resize(
        (width, height),
        Image.Resampling.LANCZOS,
        box=(left, top, left + box_w, top + box_h),
        reducing_gap=3.0,
    )
    return np.array(image)


def check_pixels(array, ndims: tuple[int, ...], where: str) -> np.ndarray:
    """Returns `array`; raises ValueError if it is not uint8 RGB with one of these numbers of axes."""
    array = np.asarray(array)
    if array.ndim not in ndims or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        names = {3: "(h, w, 3)", 4: "(f, h, w, 3)", 5: "(n, f, h, w, 3)"}
        want = " or ".join(names[n] for n in ndims)
        raise ValueError(f"{where} takes uint8 {want} with at least one pixel, not {array.dtype} {array.shape}")
    return array


def first_frames(path, need: int, data) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns the first `need` frames of an image, a video or a folder of images, at `config.data`'s rate and size.

    Images are taken at the rate `config.data.fps` where `config.data.image_fps` is 0. Raises ValueError if there are
    fewer frames, or if they are damaged or divided by a gap in time.
    """
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        given = [read_image(path)]
    else:
        source = source_of(Path(path), data.image_fps or data.fps)
        items = list(islice(shown(source, fps=float(data.fps)), need))
        bad = next((item for item in items if item.damage or item.part), None)
        if bad:
            reason = bad.damage or f"{path} has a gap in time there"
            raise ValueError(f"{reason}; a stream of this run starts from its first {need} frames: repair or cut it")
        given = [item.frame for item in items]
    if len(given) < need:
        raise ValueError(
            f"{path} has {len(given)} frames at {data.fps} fps, a stream of this run starts from {need}: "
            "give a longer video"
        )
    return np.stack([resize(frame, tuple(data.size), data.fit) for frame in given])
