"""Parts of a web page in one file: text, tables, pictures and videos. The page loads no other file and runs no script.

Tables become lists on narrow screens, so that nothing scrolls sideways.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f3c8d", "#333333")
"""Colours of curves, which people with every kind of colour vision can tell apart."""
STYLE = """
body{margin:0 auto;max-width:76rem;padding:1rem 1.25rem 3rem;font:16px/1.55 system-ui,sans-serif}
body{color:#1d2733;background:#fff;overflow-wrap:break-word}
h1{line-height:1.2;margin:1rem 0 .5rem}h2{margin:2.2rem 0 .6rem;border-bottom:1px solid #d8dee6;padding-bottom:.25rem}
h3{margin:1rem 0 .4rem}p{max-width:46rem}
pre{background:#f3f5f8;padding:.7rem .9rem;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere}
pre,code{font-size:.88rem}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.25rem;align-items:start}
.shows{grid-template-columns:repeat(auto-fill,minmax(min(100%,16rem),1fr))}
figure{margin:0}img,video{max-width:100%;height:auto;border-radius:4px;display:block}
.shows img{image-rendering:pixelated}figcaption,caption,.note{font-size:.88rem;color:#536271;text-align:left}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;max-width:100%}
caption{padding:.3rem 0}th,td{padding:.3rem .65rem;border-bottom:1px solid #e3e8ee;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere}.number{text-align:right;white-space:nowrap}
thead th{border-bottom:2px solid #9fadbb;vertical-align:bottom}
.note{border-left:3px solid #d55e00;padding-left:.7rem}
@media(max-width:44rem){table,tbody,tr,th,td,caption{display:block;text-align:left}thead{display:none}
tbody th{padding-top:.7rem;border-bottom:0}
td{display:flex;gap:1rem;justify-content:space-between}td::before{content:attr(data-head);color:#536271;
 white-space:nowrap}}
"""


def number(value) -> str:
    """Formats a value with four significant digits, or as an en dash if it was not measured."""
    if value is None or value != value:
        return "–"
    if not isinstance(value, float | np.floating):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Returns a table; the first cell of each row is its name."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = ""
    for name, *cells in rows:
        named = zip(head[1:], cells, strict=True)
        values = "".join(_cell(column, cell) for column, cell in named)
        body += f'<tr><th scope="row">{escape(name)}</th>{values}</tr>'
    head = f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _cell(column: str, value) -> str:
    kind = ' class="number"' if value is None or isinstance(value, int | float | np.number) else ""
    return f'<td data-head="{escape(column)}"{kind}>{escape(number(value))}</td>'


def picture(kind: str, data: bytes, alt: str, caption: str, width: int) -> str:
    """Returns an image that is shown `width` pixels wide, or less on a narrow page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img width="{width}" src="{source}" alt="{escape(alt)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def film(file: Path, alt: str, caption: str, width: int) -> str:
    """Returns an mp4 file that plays again and again, shown `width` pixels wide, or less on a narrow page."""
    source = f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}"
    plays = 'autoplay="" loop="" muted="" playsinline="" controls=""'
    shown = f'<video width="{width}" src="{source}" aria-label="{escape(alt)}" {plays}></video>'
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def plot(
    curves: Mapping[str, Sequence[Sequence]],
    labels: tuple[str, str],
    *,
    scale: str = "linear",
    lines: Mapping[str, float | int] | None = None,
) -> bytes:
    """Draws curves as a png.

    Args:
      curves: name -> points (x, y).
      labels: what x and y are.
      scale: of y, "linear" or "log".
      lines: name -> y of a dashed line, such as that of real video.
    """
    from matplotlib.figure import Figure

    lines = lines or {}
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")  # letters are large enough on a phone
    axes = figure.add_subplot(xlabel=labels[0], ylabel=labels[1])
    axes.set_yscale(scale, **({"nonpositive": "mask"} if scale == "log" else {}))
    for i, (name, given) in enumerate(curves.items()):
        points = np.asarray(given, float).reshape(-1, 2)
        if len(points):
            marker = "o" if len(points) < 40 else None
            style = dict(color=COLOURS[i % len(COLOURS)], linewidth=1.6, marker=marker, markersize=3)
            axes.plot(*points.T, label=name, **style)
    for style, (name, value) in zip(("--", ":", "-.") * len(lines), lines.items()):
        axes.axhline(value, color="#6b7783", linestyle=style, linewidth=1.2, label=name)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    axes.grid(color="#e6eaef", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=180, metadata={"Software": None})
    return buffer.getvalue()


def document(title: str, head: str, body: str) -> str:
    """Returns the whole page; `head` and `body` are HTML, the title is text."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<header><h1>{escape(title)}</h1>
{head}</header>
<main>{body}</main>
</body></html>
"""
