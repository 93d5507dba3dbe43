"""The report of a comparison in one HTML file: the measures and the videos of several methods, next to the paper's."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from jvflow.files import write_text
from jvflow.metrics import DISTANCE_NAME
from jvflow.report import page

LIMIT = 12_000_000
"""Limit of the file size in bytes; GIFs drop frames to stay below it."""
VIDEOS, COLUMNS, CELL = 8, 10, 96
"""Videos shown for each method, frames of each on a contact sheet, and the approximate width of a frame in pixels."""

MEASURES = {
    "nfe_per_frame": "NFE per frame",
    "distance_first_window": "distance, first window",
    "distance_last_window": "distance, last window",
    "motion_last_window": "motion, last window",
    "seconds_per_frame": "seconds per frame",
}
"""The measures that every method must report, with their column heads."""

CURVES = {
    "loss": ("Training loss", "step", "loss", "log"),
    "distance": (f"Drift: {DISTANCE_NAME} over time", "frame", "distance", "log"),
    "motion": ("Motion over time, generated / real", "frame", "motion", "linear"),
}


@dataclass(frozen=True)
class PaperTable:
    """Results that a paper has published, shown next to the results of the run.

    Attributes:
      caption: names the paper and the table.
      data_sets: the columns.
      rows: method -> (FVD, steps per frame) on each data set.
    """

    caption: str
    data_sets: tuple[str, ...]
    rows: Mapping[str, Sequence[tuple]]


def _tile(frames: np.ndarray, columns: int) -> Image.Image:
    """Tiles frames (n, h, w, 3) row by row with gaps. Frames far wider than `CELL` shrink; the page enlarges others."""
    n, height, width, _ = frames.shape
    rows, gap = math.ceil(n / columns), max(1, width // 32)
    cells = np.full((rows * columns, height + gap, width + gap, 3), 255, np.uint8)
    cells[:n, :height, :width] = frames
    image = Image.fromarray(rearrange(cells, "(r k) h w c -> (r h) (k w) c", k=columns))
    small = (columns * CELL, rows * max(1, round(height * CELL / width)))
    return image.resize(small, Image.Resampling.BOX) if width > 1.5 * CELL else image


def _gif(video: np.ndarray, columns: int, fps: float | int, budget: int) -> tuple[bytes, int]:
    """Returns an animation of (n, f, h, w, 3) at true speed, and k: it shows every k-th frame to fit `budget` bytes.

    GIF counts time in 1/100 s. To keep the speed, the function rounds the start times of frames, not their durations.
    Browsers slow down frames of less than 2/100 s, so k grows with high `fps`.
    """
    frames = video.shape[1]
    tiles = [_tile(video[:, i], columns) for i in range(frames)]
    sample = [np.asarray(tiles[i]) for i in np.unique(np.linspace(0, frames - 1, 6).astype(int))]
    palette = Image.fromarray(np.concatenate(sample)).quantize(256)
    tiles = [tile.quantize(palette=palette, dither=Image.Dither.NONE) for tile in tiles]
    every = max(1, math.ceil(0.02 * fps))
    while True:
        kept, buffer = tiles[::every], io.BytesIO()
        durations = 10 * np.diff(np.round(100 * every / fps * np.arange(len(kept) + 1))).astype(int)
        kept[0].save(buffer, "GIF", save_all=True, append_images=kept[1:], duration=durations.tolist(), loop=0)
        if buffer.tell() <= budget or len(kept) == 1:
            return buffer.getvalue(), every
        every = max(every + 1, math.ceil(every * buffer.tell() / max(budget, 1)))


def write_pareto(path: str | os.PathLike, fronts: Mapping[str, Sequence[tuple]]) -> None:
    """Draws cost against distance as a png: method -> points (NFE, distance, label), joined in their order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=MEASURES["nfe_per_frame"], ylabel=f"{DISTANCE_NAME}, mean over time", yscale="log")
    for colour, (name, points) in zip(page.COLOURS, fronts.items()):
        x, y = [p[0] for p in points], [p[1] for p in points]
        axes.plot(x, y, "o-", color=colour, label=name, linewidth=1.4, markersize=5)
        for nfe, distance, label in points:
            axes.annotate(label, (nfe, distance), textcoords="offset points", xytext=(6, 4), fontsize=8)
    if fronts:
        axes.legend(fontsize=8, frameon=False)
    axes.grid(color="#e6eaef", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=140, metadata={"Software": None})


def _check(methods: Mapping, curves: Mapping, videos: Mapping, sheets: Mapping, fps: float | int) -> None:
    for name, measured in methods.items():
        if missing := [key for key in MEASURES if key not in measured]:
            raise ValueError(f"method {name!r} lacks {', '.join(missing)}: give None for a measure without a value")
    if unknown := [name for name in curves if name not in methods]:
        raise ValueError(f"curves of {', '.join(unknown)} belong to no method: the methods are {', '.join(methods)}")
    expected = ["real", *methods]
    for what, shown in (("videos", videos), ("sheets", sheets)):
        if sorted(shown) != sorted(expected):
            raise ValueError(f"{what} must be given for {', '.join(expected)}, got {', '.join(shown)}")
        for name, video in shown.items():
            if video.dtype != np.uint8 or video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape:
                raise ValueError(
                    f"{what} of {name!r} must be uint8 (n, f, h, w, 3), got {video.dtype} {video.shape}: "
                    "convert pixels in [-1, 1] with (127.5 * (x + 1)).round().astype(uint8)"
                )
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")


def write(
    path: str | os.PathLike,
    *,
    title: str,
    command: str,
    methods: Mapping[str, Mapping],
    controls: Mapping[str, float | int],
    protocol: Mapping[str, object],
    curves: Mapping[str, Mapping],
    videos: Mapping[str, np.ndarray],
    fps: float | int,
    sheets: Mapping[str, np.ndarray] | None = None,
    paper_table: PaperTable | None = None,
    above: str = "",
) -> None:
    """Writes the report to `path` in one step: readers see the old file or the new one, never a part.

    Args:
      title: the heading.
      command: the command that made the numbers.
      methods: name -> the measures of `MEASURES`, None where not measured; further keys become further columns.
      controls: name -> distance of known videos, which bound the scale (real against real, frozen, noise).
      protocol: the settings of the measurement, as names and values of a table.
      curves: method -> any of `loss` [(step, loss)], `distance` and `motion` [(frame, value)].
      videos: "real" and every method -> uint8 (n, f, h, w, 3), animated; the first 8 are shown.
      fps: frames per second of the videos.
      sheets: videos for the contact sheets, such as longer streams, in the form of `videos`, which is the default.
      paper_table: published results, or None.
      above: HTML that comes before the comparison.
    """
    sheets = videos if sheets is None else sheets
    _check(methods, curves, videos, sheets, fps)
    references = {"loss": {}, "distance": controls, "motion": {"real": 1.0}}
    plots = ""
    for kind, (caption, x_label, y_label, scale) in CURVES.items():
        points = {name: curves.get(name, {}).get(kind, ()) for name in methods}  # each method has its colour
        data = page.plot(points, (x_label, y_label), scale=scale, lines=references[kind])
        plots += page.picture("png", data, f"{caption}: {', '.join(methods)}", caption, 640)
    names, stills = ("real", *methods), {}
    for name in names:
        shown = sheets[name][:VIDEOS]
        at = np.unique(np.linspace(0, shown.shape[1] - 1, COLUMNS).astype(int))
        image = _tile(rearrange(shown[:, at], "n f h w c -> (n f) h w c"), len(at))
        image.save(buffer := io.BytesIO(), "PNG", optimize=True)
        alt = f"Contact sheet of {name}: {len(shown)} videos by {len(at)} frames"
        caption = f"Rows: videos. Columns: frames {', '.join(map(str, at))}."
        stills[name] = page.picture("png", buffer.getvalue(), alt, caption, len(at) * CELL)
    shows = ""
    for i, name in enumerate(names):
        shown = videos[name][:VIDEOS]
        left = LIMIT - len(plots) - len(shows) - sum(map(len, stills.values()))
        columns = math.ceil(math.sqrt(2 * len(shown)))
        data, every = _gif(shown, columns, fps, int(0.7 * left / (len(names) - i)))  # base64 turns 3 bytes into 4
        caption = f"{fps:g} frames per second" + (f", one in {every} shown" if every > 1 else "")
        moving = page.picture("gif", data, f"Animation of {name}: {len(shown)} videos", caption, columns * CELL)
        shows += f"<section><h3>{escape(name)}</h3>{moving}{stills.pop(name)}</section>"

    extra = list(dict.fromkeys(key for measured in methods.values() for key in measured if key not in MEASURES))
    keys = [*MEASURES, *extra]
    ours = page.table(
        f"This run. Distance: {DISTANCE_NAME}, lower is better. Motion: generated / real, 1 is right.",
        ["method", *MEASURES.values(), *(key.replace("_", " ") for key in extra)],
        [[name, *(measured.get(key) for key in keys)] for name, measured in methods.items()],
    )
    theirs = note = ""
    if paper_table:
        theirs = page.table(
            paper_table.caption,
            ["method", *paper_table.data_sets],
            [[name, *(f"{fvd:g} / {steps:g}" for fvd, steps in row)] for name, row in paper_table.rows.items()],
        )
        note = """
<p class="note">Only the order of the methods is comparable between the two tables, not their numbers. This run's
distance and the paper's FVD are different measures, of different features, videos and sizes. This run's NFE is a mean
over samples under diffrax's controller; the paper's steps are torchode's count of the slowest of eight videos.</p>"""
    settings = page.table("How it was measured.", ["setting", "value"], list(protocol.items()))
    bounds = page.table(f"Controls: {DISTANCE_NAME} of known videos.", ["control", "distance"], list(controls.items()))
    command = f"<p>The command was:</p><pre><code>{escape(command)}</code></pre>"
    about = f"""<p>Videos generated by {escape(", ".join(methods))} are shown with real ones. The {DISTANCE_NAME}
compares windows of generated frames with real windows as the stream goes on, and motion distinguishes a stable video
from a frozen one. Every number and picture of this comparison comes from one run of the command.</p>"""
    body = f"""{about}<div class="row shows">{shows}</div>
<h2>Results</h2><div class="row">{ours}{theirs}</div>{note}
<h2>Curves</h2><div class="row">{plots}</div>
<h2>Protocol and controls</h2><div class="row">{settings}
{bounds}</div>"""
    heading = f"<h2>{escape(title)}</h2>" if above else ""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.document(title, command, above + heading + body))
