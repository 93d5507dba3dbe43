"""Videos for people to look at: mp4 files, contact sheets, and the samples of a run with their record.

Frames are uint8 (h, w, 3), RGB, with rows from the top, as in `jvflow.data.video`.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jvflow.data.video import Frame, check_pixels, exact_rate
from jvflow.files import read_json, write_text
from jvflow.parallel import processes

LOG = logging.getLogger(__name__)
RECORD, SHEET, PARTIAL = "samples.json", "sheet.png", ".samples.partial"
SAMPLE = re.compile(r"sample_\d{3,}\.mp4")


class Writer:
    """A writer of h264 mp4 files, frame by frame: `with Writer(path, fps) as writer: writer.append(frame)`.

    The file appears under its name when the block ends without an exception. Until then it is the hidden file
    `.<name>.partial` in the same folder, which an exception removes. All frames have one size, `size` or the size of
    the first frame. Frames whose shorter side is below `min_side` are scaled up by an integer (nearest neighbour),
    because 4:2:0 keeps little colour in a small picture. A side that is odd after that gets one repeated row or column,
    because the codec needs even sides.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float | int,
        size: tuple[int, int] | None = None,
        *,
        min_side: int = 256,
        crf: int = 12,
    ):
        if Path(path).suffix.lower() != ".mp4":
            raise ValueError(f"Writer writes mp4; name the file *.mp4, not {path}")
        self._path, self._rate, self._size = Path(path), exact_rate(fps), size
        self._min_side, self._crf = min_side, crf
        self._partial = self._path.with_name(f".{self._path.name}.partial")
        self._container = self._stream = None
        self._count = 0

    def __enter__(self) -> "Writer":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = str(self._partial.absolute())  # because FFmpeg takes "12:30/a.mp4" for a protocol
        self._container = av.open(file, "w", format="mp4", options={"movflags": "faststart"})
        return self

    def append(self, frame: np.ndarray) -> None:
        """Writes the next frame; raises ValueError if it is not uint8 RGB of the size of the other frames."""
        if self._container is None:
            raise ValueError(f"{self._path} is not open: use `with Writer(...) as writer: ...`")
        frame = check_pixels(frame, (3,), "Writer.append")
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


def write(path: str | os.PathLike, video: np.ndarray, fps: float | int, *, min_side: int = 256) -> None:
    """Writes a whole video (f, h, w, 3) as h264 mp4; see `Writer`."""
    video = check_pixels(video, (4,), "write")
    with Writer(path, fps, min_side=min_side) as writer:
        for frame in video:
            writer.append(frame)


def sheet(
    videos: np.ndarray, *, columns: int = 8, scale: int | None = None, captions: Sequence[str] = ()
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a contact sheet of uint8 videos (n, f, h, w, 3).

    Each video is a row, with frames equally spaced from first to last; a video shorter than `columns` shows every
    frame. Frames are scaled up by the integer `scale`, by default until their shorter side has 96 pixels. White lines
    of 2 pixels lie between them. If any of `captions`, one for each video, is not empty, each stands above its row, cut
    at the right edge.
    """
    videos = check_pixels(videos, (5,), "sheet")
    if columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"columns and scale must be at least 1, not {columns} and {scale}")
    chosen = np.linspace(0, videos.shape[1] - 1, min(columns, videos.shape[1])).round().astype(int)
    cells = [[_magnify(video[i], 96, scale) for i in chosen] for video in videos]
    lined = np.pad(cells, ((0, 0), (0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    rows = rearrange(lined, "row column h w c -> row h (column w) c")[:, :, :-2]
    if any(captions):
        rows = [np.concatenate([_line(text, row.shape[1]), row]) for text, row in zip(captions, rows, strict=True)]
    return np.concatenate(rows)[:-2]


def write_preview(stem: Path, videos: UInt8[np.ndarray, "n f h w 3"], fps: float | int) -> list[Path]:
    """Writes each video of a preview as STEM_0.mp4 and so on; of 8 videos, each pair is one, real above generated."""
    count = 4 if len(videos) % 4 == 0 else len(videos)
    columns = rearrange(videos, "(column row) f h w c -> column f (row h) w c", column=count)
    files = [stem.with_name(f"{stem.name}_{i}.mp4") for i in range(count)]
    for file, video in zip(files, columns):
        write(file, video, fps)
    return files


def _line(text: str, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a line of text, black on white, in Pillow's own font."""
    line = Image.new("RGB", (width, 18), "white")
    ImageDraw.Draw(line).text((2, 1), " ".join(text.split()), "black", ImageFont.load_default(size=12))
    return np.asarray(line)


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture (h, w, 3) without loss."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(check_pixels(image, (3,), "write_png")).save(path, format="PNG")


def _magnify(frame: Frame, min_side: int, scale: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """Repeats pixels `scale` times, by default until the shorter side reaches `min_side`."""
    scale = scale or max(1, -(-min_side // min(frame.shape[:2])))
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


@contextmanager
def replace_samples(out: str | os.PathLike) -> Iterator[Path]:
    """Gives a folder for the files of new samples, which replace those in `out` when the block ends.

    If the block raises, `out` keeps its older samples. Otherwise these are removed first: the files that the old
    `samples.json` lists, and `sample_NNN.mp4`. No other file is touched; without an old `samples.json`, none is
    removed. The new `samples.json` comes last, so that a folder with one holds exactly the samples that it lists.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    new, stopped = out / PARTIAL, (out / PARTIAL).exists()  # left by a command that was killed
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        old = _sample_files(out)
        if stopped or (out / RECORD).exists():
            for file in (out / RECORD, out / SHEET, *old):
                file.unlink(missing_ok=True)
        elif others := [file.name for file in old if not (new / file.name).exists()]:
            LOG.warning("warning: %s also holds %s, which no %s lists: they stay", out, ", ".join(others), RECORD)
        for file in sorted(new.iterdir(), key=lambda file: file.name == RECORD):
            file.replace(out / file.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sample_files(out: Path) -> list[Path]:
    """Returns the videos of samples in a folder."""
    try:
        entries = read_json(out / RECORD, "", keys=dict(samples=list))["samples"]
    except ValueError:  # no record, or a damaged one
        entries = []
    listed = [entry.get("file") for entry in entries if isinstance(entry, dict)]
    names = lambda file: SAMPLE.fullmatch(file.name) or (file.name in listed and file.suffix == ".mp4")
    return sorted(file for file in out.iterdir() if names(file) and file.is_file())


def write_record(out: str | os.PathLike, samples: list[dict], protocol: dict, sheet: np.ndarray) -> dict:
    """Writes `sheet.png` and `samples.json` into the folder `out`; returns the content of `samples.json`.

    Args:
      out: a folder that exists.
      samples: the record of each sample.
      protocol: the settings with which all samples were made.
      sheet: see `sheet`.
    """
    record = dict(samples=samples, protocol=protocol)
    write_png(Path(out) / SHEET, sheet)
    write_text(Path(out) / RECORD, json.dumps(record, indent=1) + "\n")
    return record


def write_samples(
    out: str | os.PathLike,
    videos: UInt8[np.ndarray, "b f h w 3"],
    captions: Sequence[str],
    *,
    fps: float | int,
    nfe_per_frame: np.ndarray,
    seconds_per_frame: float,
    seed: int,
    protocol: dict,
) -> dict:
    """Writes videos into the folder `out`: mp4 files, `sheet.png` and `samples.json`, whose content it returns.

    Every process calls this; the primary one writes.
    """
    names = [f"sample_{i:03d}.mp4" for i in range(len(videos))]
    each = dict(frames=videos.shape[1], fps=fps, seconds_per_frame=seconds_per_frame, seed=seed)
    samples = [
        dict(file=name, caption=caption, nfe_per_frame=float(n), **each)
        for name, caption, n in zip(names, captions, nfe_per_frame)
    ]

    def write_all():
        with replace_samples(out) as folder:
            for name, video in zip(names, videos):
                write(folder / name, video, fps)
            write_record(folder, samples, protocol, sheet(videos, captions=captions))

    processes.on_primary(write_all)
    return dict(samples=samples, protocol=protocol)
