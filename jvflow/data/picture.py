"""Converts decoded frames to RGB as a player shows them, with the filters of FFmpeg.

* Interlaced frames are deinterlaced (yadif, one frame for each frame).
* The matrix and the range of colours are those that the frame declares. A frame without a matrix is BT.709 if it has at
  least 720 lines or 1280 columns, else BT.601; without a range it is limited.
* 10 bits and more are scaled to 8.
* Pixels that are not square are stretched: the picture grows in one direction.
* The display matrix mirrors and turns the picture: 8 orientations.
* Transparent pixels show the background, which is black.

Scene-referred and high-dynamic-range transfer functions (PQ, HLG, linear, log) raise ValueError: the FFmpeg of PyAV has
no filter that converts them.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

from jvflow.data.timing import Stamp

UNSPECIFIED, BT709, BT601 = 2, 1, 6
MATRICES = (BT709, 4, 5, BT601, 7, 8, 9)  # BT.709, FCC, BT.601 (625 and 525 lines), SMPTE 240M, YCgCo, BT.2020
LIMITED, FULL = 1, 2
REFUSED = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)", 8: "linear light", 9: "log", 10: "log", 17: "ST 428"}
"""Transfer functions that cannot be converted to the one of displays."""
MOST_STRETCH = 16
"""Largest ratio of the sides of a pixel, and smallest of its inverse."""
SCALING = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
DEINTERLACING = "mode=send_frame:parity=auto:deint=interlaced"


def deinterlace(stamps: Iterable[Stamp]) -> Iterator[Stamp]:
    """Yields the same pictures, deinterlaced from the first one that is interlaced.

    A damaged picture stays as it is, and does not affect its neighbours.
    """
    graph, waiting, key = None, [], None

    def finish() -> Iterator[Stamp]:
        graph.push(None)
        yield from _pull(graph, waiting)

    for stamp in stamps:
        frame = stamp.content
        new = frame.width, frame.height, frame.format.name
        if graph is not None and (stamp.damage or new != key):
            yield from finish()
            graph = None
        if stamp.damage or (graph is None and not frame.interlaced_frame):
            yield stamp
            continue
        if graph is None:
            graph, key = _graph(frame, [("yadif", DEINTERLACING)]), new
        frame.pts = len(waiting)
        waiting.append(stamp)
        graph.push(frame)
        yield from _pull(graph, waiting)
    if graph is not None:
        yield from finish()


def _pull(graph: Graph, waiting: list[Stamp]) -> Iterator[Stamp]:
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            frame = graph.pull()
            yield replace(waiting.pop(0), content=frame)


class Converter:
    """Converts frames of a file to RGB: `Converter(path, aspect)(frame)`.

    Attributes:
      path: for messages.
      aspect: width of a pixel over its height.
      matrix: the display matrix of frames that carry none, as in `orientation`.
    """

    def __init__(self, path, aspect: Fraction = Fraction(1), matrix: bytes | None = None):
        self.path, self.matrix = path, matrix
        self.aspect = aspect if aspect > 0 else Fraction(1)
        self._key = self._graph = None

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the pixels; raises ValueError if the frame cannot be shown."""
        refused = REFUSED.get(frame.color_trc)
        if refused:
            raise ValueError(
                f"{self.path} has the transfer function {refused}, which jvflow does not convert: "
                "convert it to BT.709 before"
            )
        _complete_colours(frame, self.path)
        side_data = frame.side_data.get(Type.DISPLAYMATRIX)
        turns = orientation(bytes(side_data) if side_data is not None else self.matrix, self.path)
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turns)
        try:
            if key != self._key:
                self._graph = _graph(frame, self._filters(frame, turns))
                self._key = key
            frame.pts = 0
            self._graph.push(frame)
            return self._graph.pull().to_ndarray()
        except av.FFmpegError as error:
            self._key = None
            reason = f"{frame.format.name}, {frame.width} x {frame.height}: {error.strerror}"
            raise ValueError(f"{self.path} has a picture that FFmpeg does not convert ({reason})") from error

    def _filters(self, frame: av.VideoFrame, turns: tuple) -> list[tuple[str, str]]:
        width, height = self._square(frame)
        scale = ("scale", f"w={width}:h={height}:flags={SCALING}")
        if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
            return [scale, ("format", "gbrap"), ("premultiply", "inplace=1"), ("format", "gbrap"), *_to_rgb(turns)]
        return [scale, *_to_rgb(turns)]

    def _square(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Returns (width, height) with square pixels."""
        if not 1 / MOST_STRETCH <= self.aspect <= MOST_STRETCH:
            raise ValueError(
                f"{self.path} declares pixels with the aspect {self.aspect}, which is not in "
                f"[1/{MOST_STRETCH}, {MOST_STRETCH}]: its header is damaged"
            )
        if self.aspect >= 1:
            return round(frame.width * self.aspect), frame.height
        return frame.width, round(frame.height / self.aspect)


def _to_rgb(turns: tuple) -> list[tuple[str, str]]:
    return [("scale", f"flags={SCALING}"), ("format", "rgb24"), *turns]


def _graph(frame: av.VideoFrame, filters: list[tuple[str, str]]) -> Graph:
    """Returns a chain of filters for frames like this one."""
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1:pixel_aspect=1/1:"
        f"colorspace={frame.colorspace}:range={frame.color_range}",
    )
    nodes = [source, *(graph.add(name, options) for name, options in filters), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return graph


def _complete_colours(frame: av.VideoFrame, path) -> None:
    """Sets the matrix and the range of a frame that declares none."""
    if frame.format.is_rgb or frame.format.has_palette:
        frame.colorspace, frame.color_range = 0, FULL
        return
    if frame.colorspace in (0, UNSPECIFIED, 3):  # 0 means RGB, 3 is reserved
        frame.colorspace = BT709 if frame.height >= 720 or frame.width >= 1280 else BT601
    if frame.colorspace not in MATRICES:
        raise ValueError(
            f"{path} has the colour matrix {frame.colorspace} of ISO/IEC 23091-4, which jvflow does not convert: "
            "convert it to BT.709 before"
        )
    if frame.color_range not in (LIMITED, FULL):
        frame.color_range = FULL if frame.format.name.startswith("yuvj") else LIMITED


def orientation(matrix: bytes | None, path="") -> tuple[tuple[str, str], ...]:
    """Returns the filters that bring a picture into the orientation of a display matrix.

    Column p and row q go to column a p + c q and row b p + d q, up to a shift; the matrix is
    (a, b, u, c, d, v, x, y, w), 32-bit integers. None and a matrix of zeros turn nothing.

    Raises:
      ValueError: if it turns by an angle that is not a multiple of 90 degrees.
    """
    if matrix is None:
        return ()
    a, b, _, c, d = (int(n) for n in np.frombuffer(matrix, np.int32)[:5])
    if not (a or b or c or d):
        return ()
    straight, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    if 50 * max(abs(b), abs(c)) <= straight:
        return (("hflip", ""),) * (a < 0) + (("vflip", ""),) * (d < 0)
    if 50 * max(abs(a), abs(d)) <= across:
        names = {(True, True): "cclock_flip", (True, False): "clock", (False, True): "cclock"}
        return (("transpose", f"dir={names.get((b > 0, c > 0), 'clock_flip')}"),)
    raise ValueError(
        f"{path} has a display matrix that does not turn by a multiple of 90 degrees "
        f"(a, b, c, d = {a}, {b}, {c}, {d}): turn the video with ffmpeg before"
    )
