"""Writes small video files of every kind with PyAV: orientations, colours, depths, fields, alpha, and times.

The picture has a colour in each quarter, and a grey square in its middle that counts frames.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLOURS = np.array([[(220, 30, 30), (30, 200, 30)], [(30, 30, 220), (235, 235, 235)]])
"""Colours of the quarters, [row][column]."""
STEP = 20
"""Difference of the levels of two successive counters; frame k has the level 20 + STEP (k mod 11)."""
LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
LUMA |= {9: (0.2627, 0.0593)}
"""Shares (red, blue) of luma, for each colour matrix of ISO/IEC 23091-4."""
MATRICES = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside_down": (-1, 0, 0, -1),
    "flipped": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "clockwise": (0, 1, -1, 0),
    "transposed_across": (0, -1, -1, 0),
    "anticlockwise": (0, -1, 1, 0),
}
"""(a, b, c, d) of the 8 display matrices: column p and row q are shown at column a p + c q and row b p + d q."""


def level(number: int) -> int:
    """Returns the grey level of the counter of a frame."""
    return 20 + STEP * (number % 11)


def picture(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Returns the RGB pixels of a frame."""
    rgb = np.repeat(np.repeat(COLOURS, height // 2, 0), width // 2, 1).astype(np.uint8)
    rgb[3 * height // 8 : 5 * height // 8, 3 * width // 8 : 5 * width // 8] = level(number)
    return rgb


def number_of(frame: np.ndarray) -> int:
    """Returns the number of a frame, modulo 11, from its counter."""
    height, width = frame.shape[:2]
    middle = frame[7 * height // 16 : 9 * height // 16, 7 * width // 16 : 9 * width // 16]
    return round((middle.mean() - 20) / STEP) % 11


def corners(frame: np.ndarray) -> np.ndarray:
    """Returns the mean colour of each quarter near the corners of the picture, [row][column]."""
    h, w = frame.shape[0] // 6, frame.shape[1] // 6
    rows, columns = (slice(h // 2, h), slice(-h, -h // 2)), (slice(w // 2, w), slice(-w, -w // 2))
    return np.array([[frame[r, c].mean((0, 1)) for c in columns] for r in rows])


def turned(matrix: str) -> np.ndarray:
    """Returns the colours of the quarters after a display matrix."""
    a, b, c, d = MATRICES[matrix]
    result = np.zeros_like(COLOURS)
    for q in (0, 1):
        for p in (0, 1):
            x, y = 2 * p - 1, 2 * q - 1  # around the middle
            result[(b * x + d * y + 1) // 2, (a * x + c * y + 1) // 2] = COLOURS[q, p]
    return result


def yuv_frame(rgb: np.ndarray, pix_fmt: str, matrix: int, full: bool, alpha: np.ndarray | None = None):
    """Returns a frame of a planar YUV format, converted by the equations of ISO/IEC 23091-4 and not by FFmpeg."""
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], pix_fmt)
    bits = frame.format.components[0].bits
    kr, kb = LUMA[matrix]
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    unit, most = 2 ** (bits - 8), 2**bits - 1
    if full:
        planes = [most * y, most * u + 128 * unit, most * v + 128 * unit]
    else:
        planes = [(219 * y + 16) * unit, (224 * u + 128) * unit, (224 * v + 128) * unit]
    planes += [] if alpha is None else [alpha / 255.0 * most]
    for plane, values in zip(frame.planes, planes, strict=True):
        h, w = rgb.shape[0] // plane.height, rgb.shape[1] // plane.width
        values = values.reshape(plane.height, h, plane.width, w).mean((1, 3)).round().clip(0, most)
        fill(plane, values.astype(np.uint8 if bits == 8 else "<u2"))
    return frame


def fill(plane, values: np.ndarray) -> None:
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    inside = values.view(np.uint8).reshape(plane.height, -1)
    rows[:, : inside.shape[1]] = inside
    plane.update(rows.tobytes())


def write(
    path: Path,
    count: int = 12,
    *,
    rate: int = 24,
    times: Sequence[int | None] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    matrix: str = "upright",
    aspect: Fraction | None = None,
    colours: int = 6,
    full: bool = False,
    tags: bool = True,
    transfer: int | None = None,
    interlaced: bool = False,
    alpha: bool = False,
    size: tuple[int, int] = (64, 96),
    pictures: Sequence[np.ndarray] | None = None,
    options: dict | None = None,
    container: dict | None = None,
    format: str | None = None,
) -> Path:
    """Writes a file whose frame k is `picture(k)`; returns its path.

    Args:
      path: its suffix is the container.
      count: number of frames.
      rate: frames per second that the file declares.
      times: presentation times in ticks of `time_base`, 1/1000 s by default; without them, the rate is constant.
      codec, pix_fmt, options: for the encoder.
      matrix: a key of MATRICES.
      aspect: of a pixel.
      colours, full: the colour matrix and whether the range is full.
      tags: declare both.
      transfer: the declared transfer function.
      interlaced: rows of two successive pictures alternate.
      alpha: the left half is transparent.
      size: (height, width).
      pictures: replace `picture(k)`.
      container, format: options and name of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "1", "preset": "ultrafast"} if codec in ("libx264", "libx265") and options is None else options
    with av.open(str(path), "w", format=format, options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        context = stream.codec_context
        if times is not None:
            context.time_base = time_base or Fraction(1, 1000)
        if aspect:
            stream.sample_aspect_ratio = aspect
        if tags:
            context.colorspace, context.color_range = colours, 2 if full else 1
        if transfer:
            context.color_trc = transfer
        if matrix != "upright":
            a, b, c, d = (65536 * n for n in MATRICES[matrix])
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number in range(count):
            rgb = pictures[number] if pictures is not None else picture(number, *size)
            if interlaced:
                rgb[1::2] = picture(number + 1, *size)[1::2]
            left = np.where(np.arange(size[1]) < size[1] // 2, 0, 255) * np.ones((size[0], 1))
            if av.VideoFormat(pix_fmt).is_rgb:
                channels = [rgb, np.uint8(left)[..., None]] if alpha else [rgb]
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(np.concatenate(channels, -1)), format="rgba" if alpha else "rgb24"
                ).reformat(format=pix_fmt)
            else:
                frame = yuv_frame(rgb, pix_fmt, colours, full, left if alpha else None)
            frame.colorspace, frame.color_range = colours, 2 if full else 1
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate) if times is None else context.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
