"""Decodes video files and folders of images, and resizes frames.

A frame is uint8 (h, w, 3), RGB, with rows from the top; a video is uint8 (f, h, w, 3). Time is in
seconds since the first frame. At a constant rate `fps`, frame k is the picture of the source at

    t_k = k / fps,  k = 0, 1, ... while t_k < end of the last frame                              (1)

which is the source's last frame at or before t_k. Containers round time stamps (mkv to milliseconds, gif to
centiseconds), so a frame that is late by at most one tick of the container's clock, and by at most
an eighth of 1/fps, counts as being at t_k.                                                      (2)
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

Frame = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".gif", ".mov", ".avi")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_NUMBERS = re.compile(r"(\d+)")


def native_fps(path: str | os.PathLike) -> float:
    """Returns the declared frame rate, or FFmpeg's guess from the time stamps (gif)."""
    with _open(path) as container:
        return float(_rate(path, container.streams.video[0]))


def declared_fps_and_seconds(path: str | os.PathLike) -> tuple[float, float]:
    """Returns the mean frame rate and the length in seconds that a file declares; 0 seconds if it declares none."""
    with _open(path) as container:
        stream = container.streams.video[0]
        seconds = float(_declared_length(container, stream) or Fraction(container.duration or 0, av.time_base))
        return stream.frames / seconds if stream.frames and seconds else float(_rate(path, stream)), seconds


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
        order = lambda file: [int(part) if part.isdigit() else part for part in _NUMBERS.split(file.name)]
        return sorted(images_in(self.path), key=order)


def images_in(folder: str | os.PathLike) -> list[Path]:
    """Returns the image files directly in a folder; hidden ones are left out."""
    inside = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return [path for path in inside if path.is_file() and not path.name.startswith(".")]


def frames(path: str | os.PathLike | ImageFolder, *, fps: float | int | None = None) -> Iterator[tuple[float, Frame]]:
    """Decodes a video file, or images, in order: pairs (seconds since the first frame, frame).

    With `fps` the frames follow (1): repeated where the source is slower, left out where it is faster; a source
    of variable rate is sampled by its time stamps. Without `fps` they are the source's own. Iterating raises
    ValueError when it reaches something that does not decode.
    """
    period = None if fps is None else 1 / exact_rate(fps)
    return _image_frames(path, period) if isinstance(path, ImageFolder) else _file_frames(path, period)


def _file_frames(path: str | os.PathLike, period: Fraction | None) -> Iterator[tuple[float, Frame]]:
    with _open(path) as container:
        yield from _resample(_decode(path, container), _to_array, period, container.streams.video[0].time_base)


def _image_frames(images: ImageFolder, period: Fraction | None) -> Iterator[tuple[float, Frame]]:
    if not images.fps:
        raise ValueError(f"{images.path} is a folder of images, which have no frame rate: set config.data.image_fps")
    own, files = 1 / exact_rate(images.fps), images.files()
    if not files:
        raise ValueError(f"{images.path} holds no image ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})")
    pictures = ((k * own, (k + 1) * own, file) for k, file in enumerate(files))
    yield from _resample(pictures, read_image, period, Fraction(0))


def _resample(
    pictures: Iterator[tuple[Fraction, Fraction, Any]],
    to_array: Callable[[Any], Frame],
    period: Fraction | None,
    tick: Fraction,
) -> Iterator[tuple[float, Frame]]:
    """Yields (time, frame) at a constant rate (1) from (start, end, picture); all pictures when `period` is None."""
    if period is None:
        for start, _, picture in pictures:
            yield float(start), to_array(picture)
        return
    slack = min(tick, period / 8)  # (2)
    shown, end, k = None, None, 0
    for start, end_of_frame, picture in pictures:
        array = None  # converted only if it is shown
        while shown is not None and k * period + slack < start:
            array = to_array(shown) if array is None else array
            yield float(k * period), array
            k += 1
        shown, end = picture, end_of_frame
    array = to_array(shown)
    while k == 0 or k * period + slack < end:
        yield float(k * period), array
        k += 1


def _decode(path, container) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
    """Yields (start, end, frame) with the first frame at 0; raises if there is none."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    period = 1 / _rate(path, stream)
    origin, end = None, Fraction(0)
    try:
        for frame in container.decode(stream):
            start = end if frame.pts is None else frame.pts * frame.time_base - (origin or 0)
            if origin is None:
                origin, start = start, Fraction(0)
            end = start + (frame.duration * frame.time_base if frame.duration else period)
            yield start, end, frame
    except av.FFmpegError as error:
        reason = f"{path} does not decode after {float(end):.2f} s: {error.strerror}"
        raise ValueError(reason) from error
    if origin is None:
        raise ValueError(f"{path} does not decode: its video stream holds no frame")
    declared = _declared_length(container, stream)  # not every decoder raises at the end of a truncated file
    if end < declared - 2 * period:
        raise ValueError(
            f"{path} ends after {float(end):.2f} s of the {float(declared):.2f} s that it declares: "
            "it is truncated or damaged"
        )


def _declared_length(container, stream) -> Fraction:
    """Returns the declared length of the video in seconds, 0 if there is none."""
    if stream.duration:
        return stream.duration * stream.time_base
    only_video = len(container.streams) == 1  # sound may last longer than the pictures
    return Fraction(container.duration or 0, av.time_base) if only_video else Fraction(0)


def _open(path: str | os.PathLike):
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise ValueError(f"{path} does not decode: {error.strerror}") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path} does not decode: it has no video stream")
    return container


def _rate(path: str | os.PathLike, stream) -> Fraction:
    rate = stream.guessed_rate or stream.average_rate
    if not rate:
        raise ValueError(f"{path} does not decode: it declares no frame rate")
    return rate


def exact_rate(fps: float | int) -> Fraction:
    """Returns the frame rate as a fraction with a small denominator; raises ValueError if it is out of range."""
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must be in [0.01, 1000] frames per second, not {fps}")
    return Fraction(fps).limit_denominator(1001)  # 29.97... is 30000/1001


def _to_array(frame: av.VideoFrame) -> Frame:
    """Converts to RGB, turned upright if the display matrix is a multiple of a quarter turn."""
    array = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))


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


def read_image(path: str | os.PathLike) -> Frame:
    """Reads a picture (png, jpeg, ...) as RGB; raises ValueError if it does not decode."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} does not decode: {error}") from error


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
    fewer frames.
    """
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        given = [read_image(path)]
    else:
        source = ImageFolder(Path(path), data.image_fps or data.fps) if Path(path).is_dir() else path
        given = [frame for _, frame in islice(frames(source, fps=float(data.fps)), need)]
    if len(given) < need:
        raise ValueError(
            f"{path} has {len(given)} frames at {data.fps} fps, a stream of this run starts from {need}: "
            "give a longer video"
        )
    return np.stack([resize(frame, tuple(data.size), data.fit) for frame in given])
