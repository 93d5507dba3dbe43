"""Measures the memory of `jvflow score` over the number of clips.

    python -m benchmarks.score_memory [--parts=i3d,small]

Scores up to 500 clips of 9 frames against a few through I3D (224 x 224), and up to 100,000 through a small
network with as many features (32 x 32), each in a process of its own. The clips are windows of a synthetic video,
which is linked under several names. Reads the peak of the resident memory since the first batch (VmHWM, Linux) at some
numbers of clips, and once more after interval, kernel distance and extrapolation, which use at most 10,000 clips.
Writes `out/benchmarks/score_memory.json`. Takes about 6 minutes on two idle cores. Needs the extra `metrics`.
"""

import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import record
from jvflow import cli

PARTS = flags.DEFINE_list("parts", ["i3d", "small"], "The networks to measure.")
MARKS = dict(i3d=(50, 100, 200, 500), small=(100, 1000, 10_000, 100_000))
"""Numbers of clips at which the memory is read."""
BATCH = dict(i3d=8, small=64)
"""Clips of a batch."""
FILES, FRAMES, REAL, SIDE = 8, 9, 64, 32
"""Names of the video, frames of a clip, clips of the real set, pixels of the video's sides."""


def make_folder(root: Path, clips: int) -> Path:
    """Writes a video whose windows, over all its names, are `clips` or more."""
    from jvflow.report import videos

    root.mkdir()
    random, base = np.random.default_rng(0), np.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
    with videos.Writer(root / "0.mp4", 24, min_side=SIDE) as writer:
        for _ in range(-(-clips // FILES) + FRAMES):
            writer.append(np.uint8((base * random.integers(1, 9) + random.integers(256)) % 256))
    for number in range(1, FILES):
        (root / f"{number}.mp4").symlink_to(root / "0.mp4")
    return root


def peak() -> int:
    """Returns the peak of this process's resident memory in bytes, since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(network: str, folder: Path) -> dict:
    """Returns the peak in bytes at each number of clips, and at the end, and the seconds."""
    from jvflow.metrics import score as scores
    from jvflow.metrics.extractor import Extractor
    from jvflow.metrics.protocol import preset

    class Small(Extractor):
        """Stands in for I3D: a matrix product with some pixels of each clip."""

        width = 400

        def __init__(self, protocol, file, batch):
            self.protocol, self.batch = protocol, batch
            self.network = type("Network", (), dict(name="small", sha256="", source=str(file)))
            self.matrix = np.random.default_rng(0).normal(size=(FRAMES * 8 * 8 * 3, self.width)).astype(np.float32)

        def __call__(self, prepared):
            return np.tanh(prepared[:, :, ::4, ::4].reshape(len(prepared), -1) @ self.matrix)

    class Marked(Small if network == "small" else Extractor):
        """Reads the memory when the features of so many clips are there."""

        clips, peaks = -REAL, []

        def __call__(self, prepared):
            features = super().__call__(prepared)
            self.clips += len(prepared)
            if len(self.peaks) < len(marks) and self.clips >= marks[len(self.peaks)]:
                self.peaks.append(peak())
            return features

    marks = MARKS[network]
    changes = dict(window="all", window_stride=1, frames=FRAMES, generated_count=marks[-1], real_count=REAL)
    protocol = preset("original", changes | (dict(size=32) if network == "small" else {}))
    extractor = Marked(protocol, None, BATCH[network])
    extractor(np.zeros((extractor.batch, FRAMES, protocol.size, protocol.size, 3), np.float32))
    extractor.clips = -REAL
    scores.Extractor = lambda *_: extractor
    reset_peak()
    clock = time.perf_counter()
    score = scores.score_folders(folder, folder, protocol)
    assert score.counts["generated"]["clips"] == marks[-1] and len(extractor.peaks) == len(marks)
    seconds = round(time.perf_counter() - clock, 1)
    return dict(clips=marks, peaks=extractor.peaks, peak_at_the_end=peak(), seconds=seconds)


def main():
    os.environ["MALLOC_ARENA_MAX"] = "2"  # otherwise each thread's own arena hides a small growth
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    file = record.file("score_memory.json")
    parts = json.loads(file.read_text())["parts"] if file.exists() else {}
    for network in PARTS.value:
        with tempfile.TemporaryDirectory() as scratch:
            folder = make_folder(Path(scratch) / network, MARKS[network][-1])
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found = pool.submit(measure, network, folder).result()
        mebibytes = [round(each / 2**20) for each in (*found["peaks"], found["peak_at_the_end"])]
        print(network, found["clips"], f"{mebibytes[:-1]} MiB, with distances {mebibytes[-1]}", flush=True)
        parts[network] = found | dict(growth_mebibytes=mebibytes[-2] - mebibytes[0])
        record.write("score_memory", dict(parts=parts, frames=FRAMES, real_clips=REAL))


if __name__ == "__main__":
    cli.run(main)
