"""Video files and arrays of frames: reading, writing, resizing, contact sheets.

A frame is uint8 (h, w, 3), RGB, with rows from the top; a video is uint8 (f, h, w, 3). Time is in
seconds since the first frame. At a constant rate `fps`, frame k shows what the source shows at

    t_k = k / fps,  k = 0, 1, ... while t_k < end of the last frame                              (1)

that is its last frame at or before t_k. Containers round time stamps (mkv to milliseconds, gif to
centiseconds), so a frame that is late by at most one tick of the container's clock, and by at most
an eighth of 1/fps, counts as being at t_k.                                                      (2)
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

Frame = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]

FILES = (".mp4", ".webm", ".mkv", ".gif", ".mov", ".avi")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Suffixes of what is taken for a video file, and for an image."""
_NUMBERS = re.compile(r"(\d+)")


def native_fps(path: str | os.PathLike) -> float:
    """Returns the frame rate: declared, or FFmpeg's guess from the time stamps (gif)."""
    with _open(path) as container:
        return float(_rate(path, container.streams.video[0]))


def declared(path: str | os.PathLike) -> tuple[float, float]:
    """Frames per second on average, and seconds, as far as the file says: 0 seconds where it does not."""
    with _open(path) as container:
        stream = container.streams.video[0]
        seconds = float(_declared(container, stream) or Fraction(container.duration or 0, av.time_base))
        return stream.frames / seconds if stream.frames and seconds else float(_rate(path, stream)), seconds


@dataclass(frozen=True)
class Images:
    """A folder of images that are the frames of one video, in the order of the numbers in their names.

    Attributes:
      path: the folder.
      fps: frames per second; images do not tell it.
    """

    path: Path
    fps: float

    def files(self) -> list[Path]:
        """The images in order: frame_2.png comes before frame_10.png."""
        return sorted(images_in(self.path), key=lambda file: [int(part) if part.isdigit() else part for part in _NUMBERS.split(file.name)])


def images_in(folder: str | os.PathLike) -> list[Path]:
    """The image files directly in a folder; hidden ones are left out."""
    inside = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGES)
    return [path for path in inside if path.is_file() and not path.name.startswith(".")]


def frames(path: str | os.PathLike | Images, *, fps: float | None = None) -> Iterator[tuple[float, Frame]]:
    """Decodes a video file, or images, in order: pairs (seconds since the first frame, frame).

    With `fps`, the frames are those of (1): repeated where the source is slower, left out where it
    is faster, and a variable rate is followed by its time stamps. Without, they are the source's
    own. Raises ValueError, when it gets there, for what cannot be decoded.
    """
    period = None if fps is None else 1 / rate(fps)
    return _of_images(path, period) if isinstance(path, Images) else _of_file(path, period)


def _of_file(path, period: Fraction | None) -> Iterator[tuple[float, Frame]]:
    with _open(path) as container:
        yield from _shown(_decode(path, container), _to_array, period, container.streams.video[0].time_base)


def _of_images(images: Images, period: Fraction | None) -> Iterator[tuple[float, Frame]]:
    if not images.fps:
        raise ValueError(f"{images.path} is a folder of images, which tell no frame rate: say it with config.data.image_fps")
    own, files = 1 / rate(images.fps), images.files()
    if not files:
        raise ValueError(f"{images.path} holds no image ({', '.join(suffix[1:] for suffix in IMAGES)})")
    yield from _shown(((k * own, (k + 1) * own, file) for k, file in enumerate(files)), read_image, period, Fraction(0))


def _shown(decoded, to_array, period: Fraction | None, tick: Fraction) -> Iterator[tuple[float, Frame]]:
    """What is shown at a constant rate (1) of (start, end, picture); all pictures when `period` is None."""
    if period is None:
        for start, _, picture in decoded:
            yield float(start), to_array(picture)
        return
    slack = min(tick, period / 8)  # (2)
    shown, end, k = None, None, 0
    for start, end_of_frame, picture in decoded:
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
    declared = _declared(container, stream)  # what is missing of a truncated file is no error to every decoder
    if end < declared - 2 * period:
        raise ValueError(f"{path} ends after {float(end):.2f} s of the {float(declared):.2f} s that it declares: it is truncated or damaged")


def _declared(container, stream) -> Fraction:
    """The length of the video in seconds, as far as it is said; 0 where it is not."""
    if stream.duration:
        return stream.duration * stream.time_base
    alone = len(container.streams) == 1  # the whole may be longer for its sound
    return Fraction(container.duration or 0, av.time_base) if alone else Fraction(0)


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


def rate(fps: float) -> Fraction:
    """The frame rate as a fraction with a small denominator; a ValueError when it is none."""
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must be in [0.01, 1000] frames per second, not {fps}")
    return Fraction(fps).limit_denominator(1001)  # 29.97... is 30000/1001


def _to_array(frame: av.VideoFrame) -> Frame:
    """RGB, upright: a display matrix is honoured for quarter turns."""
    array = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))


def resize(
    video: Frame | Video, size: tuple[int, int], mode: str = "crop"
) -> UInt8[np.ndarray, "*f height width 3"]:
    """Resizes a frame or a video to (h, w) with an antialiasing Lanczos filter.

    "crop" keeps the aspect: the largest centred box of the wanted aspect is scaled. "squeeze"
    scales the whole picture and changes the aspect, as in the Bi-flow paper.
    """
    video = _checked(video, (3, 4), "resize")
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


class Writer:
    """Writes an h264 mp4 frame by frame: `with Writer(path, fps) as writer: writer.append(frame)`.

    The file appears under its name when the block ends without an exception; until then it is the
    hidden `.<name>.partial` beside it, which an exception removes. All frames have one size, `size`
    or that of the first. Frames whose shorter side is below `min_side` are scaled up by an integer
    (nearest neighbour), since a small 4:2:0 picture has little colour left; odd sides then get one
    repeated row or column, which the codec demands.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float,
        size: tuple[int, int] | None = None,
        *,
        min_side: int = 256,
        crf: int = 12,
    ):
        if Path(path).suffix.lower() != ".mp4":
            raise ValueError(f"Writer writes mp4; name the file *.mp4, not {path}")
        self._path, self._rate, self._size = Path(path), rate(fps), size
        self._min_side, self._crf = min_side, crf
        self._partial = self._path.with_name(f".{self._path.name}.partial")
        self._container = self._stream = None
        self._count = 0

    def __enter__(self):
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(
            str(self._partial), "w", format="mp4", options={"movflags": "faststart"}
        )
        return self

    def append(self, frame: Frame) -> None:
        if self._container is None:
            raise ValueError(f"{self._path} is not open: use `with Writer(...) as writer: ...`")
        frame = _checked(frame, (3,), "Writer.append")
        self._size = tuple(self._size or frame.shape[:2])
        if frame.shape[:2] != self._size:
            raise ValueError(
                f"all frames of {self._path} have one size, {self._size}; frame {self._count} is "
                f"{frame.shape[:2]}: resize it"
            )
        frame = _magnify(frame, self._min_side)
        h, w = frame.shape[:2]
        frame = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = _h264_stream(self._container, self._rate, self._crf, frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base, picture.duration = self._count, 1 / self._rate, 1
        self._container.mux(self._stream.encode(picture))
        self._count += 1

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None and self._stream is None:
                raise ValueError(f"{self._path}: no frame was appended; a video needs one")
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                self._partial.replace(self._path)
        finally:
            self._container = None
            self._partial.unlink(missing_ok=True)


def _h264_stream(container, rate: Fraction, crf: int, size: tuple[int, int]):
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
    stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # 16 to 235
    return stream


def write(path: str | os.PathLike, video: Video, fps: float, *, min_side: int = 256) -> None:
    """Writes a whole video as h264 mp4; see `Writer`."""
    video = _checked(video, (4,), "write")
    with Writer(path, fps, min_side=min_side) as writer:
        for frame in video:
            writer.append(frame)


def sheet(
    videos: UInt8[np.ndarray, "n f h w 3"], *, columns: int = 8, scale: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a contact sheet: a row for each video, frames equally spaced from first to last.

    Frames are scaled up by the integer `scale`, by default until their shorter side has 96 pixels;
    white lines of 2 pixels lie between them. Videos shorter than `columns` show every frame.
    """
    videos = _checked(videos, (5,), "sheet")
    if columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"columns and scale must be at least 1, not {columns} and {scale}")
    chosen = np.linspace(0, videos.shape[1] - 1, min(columns, videos.shape[1])).round().astype(int)
    cells = [[_magnify(video[i], 96, scale) for i in chosen] for video in videos]
    lined = np.pad(cells, ((0, 0), (0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    return rearrange(lined, "row column h w c -> (row h) (column w) c")[:-2, :-2]


def write_png(path: str | os.PathLike, image: Frame) -> None:
    """Writes a picture without loss."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_checked(image, (3,), "write_png")).save(path, format="PNG")


def read_image(path: str | os.PathLike) -> Frame:
    """Reads a picture (png, jpeg, ...) as RGB."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} does not decode: {error}") from error


def _magnify(
    frame: Frame, min_side: int, scale: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Repeats pixels `scale` times, by default until the shorter side reaches `min_side`."""
    scale = scale or max(1, -(-min_side // min(frame.shape[:2])))
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def _checked(array, ndims: tuple[int, ...], where: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim not in ndims or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        names = {3: "(h, w, 3)", 4: "(f, h, w, 3)", 5: "(n, f, h, w, 3)"}
        want = " or ".join(names[n] for n in ndims)
        raise ValueError(
            f"{where} takes uint8 {want} with at least one pixel, not {array.dtype} {array.shape}"
        )
    return array
