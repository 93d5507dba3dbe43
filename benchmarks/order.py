"""Measures how many HiPPO coefficients a clip needs, which VLFM leaves open, by predicting left-out frames.

    python -m benchmarks.order --data=FOLDER [--first=40 --frames=25]

Every second frame of a part of each video is known. The others are predicted by mu(t) at each order, by blending the
two neighbours, and by repeating the last frame. `select_order` sees only the known frames. Figures are PSNR in dB, on
real video of 96 x 64 pixels and on procedural video. Writes `out/benchmarks/order_FRAMES.json`. Takes one or two
minutes.
"""

from itertools import islice
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.record import write
from jvflow import cli

DATA = flags.DEFINE_string("data", None, "A folder of videos.")
FIRST = flags.DEFINE_integer("first", 40, "Frames to skip at the start of each video.")
FRAMES = flags.DEFINE_integer("frames", 25, "Number of known frames.")
SHOWN = (4, 8, 12, 16, 24, 32, 48, 64)
flags.mark_flag_as_required("data")


def main():
    results = {name: _figures(video) for name, video in _clips(2 * FRAMES.value - 1)}
    gaps = [r["behind_the_best"] for r in results.values()]
    summary = dict(within_half_a_decibel=sum(g <= 0.5 for g in gaps), clips=len(gaps), worst=max(gaps))
    print(summary)
    protocol = dict(first=FIRST.value, frames=FRAMES.value)
    write(f"order_{FRAMES.value}", dict(summary=summary, results=results, protocol=protocol))


def _clips(length: int):
    """Yields name and frames (length, h, w, 3) of each video, real ones first."""
    from jvflow.data import procedural, video

    for path in sorted(p for p in Path(DATA.value).iterdir() if p.suffix in video.VIDEO_SUFFIXES):
        frames = [frame for _, frame in islice(video.frames(path), FIRST.value, FIRST.value + length)]
        if len(frames) == length:
            yield path.name, np.stack([video.resize(frame, (64, 96), "squeeze") for frame in frames])
    for kind in ("comets", "bouncing", "maze"):
        for seed in range(2):
            yield f"{kind} {seed}", procedural.scene(kind, seed).render(np.arange(length) / 16.0, (32, 32))


def _figures(video: np.ndarray) -> dict:
    """Returns the PSNR of the left-out frames, in dB, for each way of predicting them."""
    from jvflow.vlfm import hippo

    signal = video.reshape(len(video), -1) / 127.5 - 1
    known, between = signal[::2], signal[1::2]
    n = len(known)
    at = (np.arange(1, n) + 0.5) / n
    psnr = lambda made: float(10 * np.log10(4 / np.mean((np.clip(made, -1, 1) - between) ** 2)))
    orders = {order: psnr(hippo.weights(at, n, order)[0] @ known) for order in range(1, hippo.MAX_ORDER + 1)}
    selected, best = hippo.select_order(known), max(orders, key=orders.get)
    return dict(
        repeat_last=psnr(known[:-1]),
        blend_two_neighbours=psnr((known[:-1] + known[1:]) / 2),
        orders={order: orders[order] for order in SHOWN},
        best=(best, orders[best]),
        selected=(selected, orders[selected]),
        behind_the_best=orders[best] - orders[selected],
    )


if __name__ == "__main__":
    cli.run(main)
