"""Decodes mutated files, and checks that none crashes, hangs, or gives more than its bound.

    python tests/slow/fuzz_files.py [--files=2000] [--seconds=20] [--seed=0]

Writes 12 small files (mp4, mkv, webm, gif, png, jpg and others), mutates each of them (changed, removed, repeated and
moved bytes, cut ends, joined files, wrong suffixes), and cuts each result into clips in another process. A
worker that takes longer than `--seconds` for one file, dies, or raises anything but ValueError fails the check, and so
does a file with more frames than its presentation times allow, or with clips of other shapes.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of films

import av
import films
import numpy as np
from PIL import Image

from jvflow.data import folder, video

FPS, FRAMES, SIZE = 24, 4, (8, 8)
IMAGES = ("png", "jpg")


def write_seeds(directory: Path) -> list[Path]:
    """Writes the files that are mutated."""
    plain = {"crf": "23", "g": "6"}
    made = [
        films.write(directory / "h264.mp4", options=plain),
        films.write(directory / "turned.mp4", matrix="clockwise", options=plain),
        films.write(directory / "h264.mkv", options=plain),
        films.write(directory / "h264.ts", options=plain),
        films.write(directory / "mpeg4.avi", codec="mpeg4", rate=25),
        films.write(directory / "mpeg2.mpg", codec="mpeg2video", rate=25),
        films.write(directory / "vp8.webm", codec="libvpx", options={"b": "500000"}),
        films.write(directory / "alpha.webm", codec="libvpx-vp9", pix_fmt="yuva420p", alpha=True),
        films.write(directory / "flash.flv", codec="flv"),
    ]
    pictures = [Image.fromarray(films.picture(k)) for k in range(6)]
    pictures[0].save(directory / "a.gif", save_all=True, append_images=pictures[1:], duration=40)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[0].save(directory / "a.png", exif=exif)
    pictures[0].save(directory / "a.jpg", exif=exif)
    return [*made, directory / "a.gif", directory / "a.png", directory / "a.jpg"]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the bytes after one to four random changes; more of them at the begin, which holds the header."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = max(len(data), 1)
        at = int(size * rng.random() ** (3 if rng.random() < 0.6 else 1))
        length = int(min(size - at, 2 ** rng.integers(0, 10)))
        kind = rng.integers(0, 7)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)
        elif kind == 1:
            data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "big")
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data = data[: max(at, 1)]
        elif kind == 5 and data:
            data[min(at, size - 1)] ^= 1 << int(rng.integers(0, 8))
        else:
            data += data[at:]
    return bytes(data)


def check(path: Path) -> str:
    """Cuts a file into clips; returns the reason of the report, or "clips". Raises AssertionError at a wrong result."""
    cutting = dict(frames=FRAMES, fps=FPS, size=SIZE, image_fps=FPS)
    try:
        most = folder.max_clips(path.parent, **cutting)
    except ValueError:  # too slow for the rate
        most = None
    entries = []
    count = 0
    for clip in folder.clips(path.parent, **cutting, report=entries.append):
        assert clip.video.shape == (FRAMES, *SIZE, 3), clip.video.shape
        count += 1
    assert most is None or count <= most, f"{count} clips, at most {most} were promised"
    for entry in entries:
        name = path.parent / entry["file"]
        if name.is_file():
            total = entry["frames"] + entry["damaged"]
            bound = video.measure(name).most_frames(FPS) if total else 0
            assert total <= bound, f"{total} frames, at most {bound} were promised"
        assert entry["error"] is None or str(name) in entry["error"], entry["error"]
    return entries[0]["error"] and "reason" or "clips"


def worker(jobs, results) -> None:
    """Checks the files whose names arrive; sends (name, outcome, seconds)."""
    av.logging.set_level(None)
    while (path := jobs.get()) is not None:
        began = time.monotonic()
        try:
            outcome = check(path)
        except Exception as error:
            outcome = f"FAILED {type(error).__name__}: {error}"
        results.put((path, outcome, time.monotonic() - began))


class Worker:
    """A process that checks one file after another, and is replaced when it dies or hangs."""

    def __init__(self):
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.jobs, self.results = context.Queue(), context.Queue()
        self.process = context.Process(target=worker, args=(self.jobs, self.results), daemon=True)
        self.process.start()

    def run(self, path: Path, limit: float) -> tuple[str, float]:
        """Returns (outcome, seconds) of one file."""
        self.jobs.put(path)
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if not self.results.empty():
                _, outcome, seconds = self.results.get()
                return outcome, seconds
            if not self.process.is_alive():
                outcome = f"FAILED the process died with status {self.process.exitcode}"
                self.start()
                return outcome, time.monotonic() - began
            time.sleep(0.002)
        self.process.kill()
        self.start()
        return f"FAILED no result after {limit:.0f} s", limit


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    outcomes, slowest = {}, 0.0
    with tempfile.TemporaryDirectory() as scratch:
        seeds = write_seeds(Path(scratch) / "seeds")
        suffixes = [seed.suffix for seed in seeds]
        runner = Worker()
        for number in range(options.files):
            seed = seeds[number % len(seeds)]
            picture = seed.suffix[1:] in IMAGES
            suffix = seed.suffix if picture or rng.random() < 0.9 else str(rng.choice(suffixes[:-2]))
            place = Path(scratch) / f"{number:05d}"
            place.mkdir()
            path = place / f"a{suffix}"
            data = seed.read_bytes()
            path.write_bytes(mutate(data, rng))
            if picture:  # the broken image is one of several
                for k in range(4):
                    (place / f"b{k}{suffix}").write_bytes(data)
            outcome, seconds = runner.run(path, options.seconds)
            slowest = max(slowest, seconds)
            outcomes[outcome[:6]] = outcomes.get(outcome[:6], 0) + 1
            if outcome.startswith("FAILED"):
                keep = Path(tempfile.gettempdir()) / f"fuzz_{options.seed}_{number}{suffix}"
                keep.write_bytes(path.read_bytes())
                print(f"{outcome} ({seed.name}, kept as {keep})")
            for file in place.iterdir():
                file.unlink()
            place.rmdir()
    failed = outcomes.pop("FAILED", 0)
    print(
        f"{options.files} files of {len(seeds)} seeds: {outcomes.get('clips', 0)} without a fault, "
        f"{outcomes.get('reason', 0)} with a reason, {failed} failed; the slowest took {slowest:.1f} s"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
