"""A report in one HTML file, with the measures and the videos of several methods. It loads no other file."""

import base64
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
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f3c8d", "#333333")

STYLE = """
body{margin:0 auto;max-width:76rem;padding:1rem 1.25rem 3rem;font:16px/1.55 system-ui,sans-serif}
body{color:#1d2733;background:#fff}
h1{line-height:1.2;margin:1rem 0 .5rem}h2{margin:2.2rem 0 .6rem;border-bottom:1px solid #d8dee6;padding-bottom:.25rem}
pre{background:#f3f5f8;padding:.7rem .9rem;border-radius:6px;overflow-x:auto;font-size:.88rem}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.25rem;align-items:start}
.shows{grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr))}
.wide{overflow-x:auto}figure{margin:0}img{max-width:100%;height:auto;border-radius:4px}
.shows img{image-rendering:pixelated}figcaption,caption,.note{font-size:.88rem;color:#536271;text-align:left}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}caption{padding:.3rem 0}
th,td{padding:.3rem .65rem;border-bottom:1px solid #e3e8ee;text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #9fadbb;vertical-align:bottom}
.note{border-left:3px solid #d55e00;padding-left:.7rem}
"""


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


def _number(value) -> str:
    """Formats a value with four significant digits, or as an en dash if it was not measured."""
    if value is None or value != value:
        return "–"
    if not isinstance(value, float | np.floating):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence]) -> str:
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = ""
    for name, *cells in rows:
        values = "".join(f"<td>{escape(_number(cell))}</td>" for cell in cells)
        body += f'<tr><th scope="row">{escape(name)}</th>{values}</tr>'
    head = f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _figure(kind: str, data: bytes, alt: str, caption: str, width: int) -> str:
    """Returns an image that is shown `width` pixels wide, or less on a narrow page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img width="{width}" src="{source}" alt="{escape(alt)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


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


def _plot(kind: str, curves: Mapping, colours: Mapping, lines: Mapping[str, float | int]) -> bytes:
    """Draws one plot of `CURVES`, with a curve for each method and a dashed line for each reference."""
    from matplotlib.figure import Figure

    _, x_label, y_label, scale = CURVES[kind]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.set_yscale(scale, **({"nonpositive": "mask"} if scale == "log" else {}))
    for name, method in curves.items():
        points = np.asarray(method.get(kind, ()), float).reshape(-1, 2)
        if len(points):
            marker = "o" if len(points) < 40 else None
            axes.plot(*points.T, color=colours[name], label=name, linewidth=1.6, marker=marker, markersize=3)
    for style, (name, value) in zip(("--", ":", "-.") * len(lines), lines.items()):
        axes.axhline(value, color="#6b7783", linestyle=style, linewidth=1.2, label=name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(color="#e6eaef", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()


def write_pareto(path: str | os.PathLike, fronts: Mapping[str, Sequence[tuple]]) -> None:
    """Draws cost against distance as a png: method -> points (NFE, distance, label), joined in their order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=MEASURES["nfe_per_frame"], ylabel=f"{DISTANCE_NAME}, mean over time", yscale="log")
    for colour, (name, points) in zip(COLOURS, fronts.items()):
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
    """
    sheets = videos if sheets is None else sheets
    _check(methods, curves, videos, sheets, fps)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(methods)}
    references = {"loss": {}, "distance": controls, "motion": {"real": 1.0}}
    plots = ""
    for kind, (caption, *_) in CURVES.items():
        data = _plot(kind, curves, colours, references[kind])
        plots += _figure("png", data, f"{caption}: {', '.join(methods)}", caption, 640)
    names, stills = ("real", *methods), {}
    for name in names:
        shown = sheets[name][:VIDEOS]
        at = np.unique(np.linspace(0, shown.shape[1] - 1, COLUMNS).astype(int))
        image = _tile(rearrange(shown[:, at], "n f h w c -> (n f) h w c"), len(at))
        image.save(buffer := io.BytesIO(), "PNG", optimize=True)
        alt = f"Contact sheet of {name}: {len(shown)} videos by {len(at)} frames"
        caption = f"Rows: videos. Columns: frames {', '.join(map(str, at))}."
        stills[name] = _figure("png", buffer.getvalue(), alt, caption, len(at) * CELL)
    shows = ""
    for i, name in enumerate(names):
        shown = videos[name][:VIDEOS]
        left = LIMIT - len(plots) - len(shows) - sum(map(len, stills.values()))
        columns = math.ceil(math.sqrt(2 * len(shown)))
        data, every = _gif(shown, columns, fps, int(0.7 * left / (len(names) - i)))  # base64 turns 3 bytes into 4
        caption = f"{fps:g} frames per second" + (f", one in {every} shown" if every > 1 else "")
        moving = _figure("gif", data, f"Animation of {name}: {len(shown)} videos", caption, columns * CELL)
        shows += f"<section><h3>{escape(name)}</h3>{moving}{stills.pop(name)}</section>"

    extra = list(dict.fromkeys(key for measured in methods.values() for key in measured if key not in MEASURES))
    keys = [*MEASURES, *extra]
    ours = _table(
        f"This run. Distance: {DISTANCE_NAME}, lower is better. Motion: generated / real, 1 is right.",
        ["method", *MEASURES.values(), *(key.replace("_", " ") for key in extra)],
        [[name, *(measured.get(key) for key in keys)] for name, measured in methods.items()],
    )
    theirs = note = ""
    if paper_table:
        theirs = _table(
            paper_table.caption,
            ["method", *paper_table.data_sets],
            [[name, *(f"{fvd:g} / {steps:g}" for fvd, steps in row)] for name, row in paper_table.rows.items()],
        )
        note = """
<p class="note">Only the order of the methods is comparable between the two tables, not their numbers. This run's
distance and the paper's FVD are different measures, of different features, videos and sizes. This run's NFE is a mean
over samples under diffrax's controller; the paper's steps are torchode's count of the slowest of eight videos.</p>"""
    settings = _table("How it was measured.", ["setting", "value"], list(protocol.items()))
    bounds = _table(f"Controls: {DISTANCE_NAME} of known videos.", ["control", "distance"], list(controls.items()))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<header><h1>{escape(title)}</h1>
<p>Videos generated by {escape(", ".join(methods))} are shown with real ones. The {DISTANCE_NAME} compares windows of
generated frames with real windows as the stream goes on, and motion distinguishes a stable video from a frozen one.
Every number and picture comes from one run of this command:</p>
<pre><code>{escape(command)}</code></pre></header>
<main><h2>Videos</h2><div class="row shows">{shows}</div>
<h2>Results</h2><div class="row">{ours}{theirs}</div>{note}
<h2>Curves</h2><div class="row">{plots}</div>
<h2>Protocol and controls</h2><div class="row">{settings}
{bounds}</div></main>
</body></html>
"""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
