"""Compares scores of one process with those of several processes, of eight devices, and of other batches.

    python tests/slow/equal_scores.py [--data=DIR] [--parts=processes,batches,limited] [--batches=1,64]

Scores half of the first 20 videos of a folder against the other half through I3D, with `launch.score`. Next to the
generated videos lie a broken, a short and an odd-sized one. Prints a table with a part for processes and devices (1
to 4, 1 and 8), one for sizes of batches (clips of 9 frames, because a batch of 64 with 16 frames takes 17 GB), and one
for redrawn clips and limits on their number. Passes if the distance, its interval and the kernel distance are within
1e-4 of those in the first row of the part, one process with one device and batches of 8, and counts and reports are
equal. Needs the extra `metrics`. Makes videos if there is no such folder. Takes about 5 minutes on two idle cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from kill_and_resume import ROOT

from jvflow.report import videos

DATA = ROOT.parent / "shared" / "data" / "asl_gestures"
WITHIN = 1e-4
SUFFIXES = (".mkv", ".mp4", ".avi", ".mov", ".webm")
OPTIONS = dict(
    processes=[],
    batches=["--set=frames=9"],
    limited=["--set=window=random", "--set=redraw=True", "--set=generated_count=14", "--set=real_count=7"],
)
"""The options of each part of the table."""
FIRST = (1, 1, 8)
"""Processes, devices of each, and batch of the first row of each part."""


def make_videos(folder: Path) -> list[Path]:
    """Writes 20 videos of a bright square that moves over noise."""
    folder.mkdir()
    for number in range(20):
        random = np.random.default_rng(number)
        video = np.repeat(random.integers(0, 90, (1, 96, 128, 3), dtype=np.uint8), 24, axis=0)
        speed, corner = random.integers(1, 3, 2), random.integers(0, 30, 2)
        for frame, image in enumerate(video):
            row, column = corner + frame * speed // 2
            image[row : row + 30, column : column + 30] = random.integers(100, 255, 3)
        videos.write(folder / f"{number:02}.mp4", video, 24)
    return sorted(folder.iterdir())


def make_folders(root: Path, found: list[Path]) -> None:
    """Links the videos into the folders generated and real, and writes videos with faults."""
    for number, path in enumerate(found):
        folder = root / ("real" if number % 2 else "generated")
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path.resolve())
    noise = np.random.default_rng(0).integers(0, 255, (16, 40, 64, 3), dtype=np.uint8)
    (root / "generated" / "broken.mp4").write_bytes(b"no video")
    videos.write(root / "generated" / "a_short.mp4", noise[:9], 24)
    videos.write(root / "generated" / "b_odd.mp4", noise, 24)


def score(root: Path, processes: int, devices: int, batch: int, options: list[str]) -> dict:
    """Returns the record of `launch.score`."""
    out = root / "score.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "launch.score", f"--out={out}", f"--batch={batch}", *options]
    command += [f"--generated={root / 'generated'}", f"--real={root / 'real'}"]
    if processes > 1:
        command = [str(ROOT / "launch" / "local.sh"), str(processes), *command]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    printed = sum(line.startswith("fvd ") for line in done.stdout.splitlines())
    if done.returncode or printed != 1:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}, printed {printed}:\n{done.stderr[-3000:]}")
    return json.loads(out.read_text())


def numbers(record: dict) -> dict[str, float]:
    interval = {name: record["interval"][name] for name in ("low", "high")}
    return dict(fvd=record["value"], **interval, kernel=record["kernel_distance"])


def same_words(record: dict, expected: dict) -> bool:
    """Returns whether the entries that hold no measured number are the same."""
    return all(record[name] == expected[name] for name in ("counts", "inputs", "protocol", "warnings", "extractor"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA, help="a folder of 20 videos or more")
    parser.add_argument("--parts", default=",".join(OPTIONS), help="the parts of the table")
    parser.add_argument("--batches", default="1,64", help="sizes of batches that are compared with 8")
    given = parser.parse_args()
    cases = dict(processes=[(2, 1, 8), (4, 1, 8), (1, 8, 8), (2, 8, 8)], limited=[(2, 1, 3), (4, 1, 1)])
    cases["batches"] = [(1, 1, int(batch)) for batch in given.batches.split(",")]
    rows = [(part, row) for part in given.parts.split(",") for row in (FIRST, *cases[part])]
    failed, expected = 0, {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        found = sorted(path for path in given.data.glob("*") if path.suffix in SUFFIXES)[:20]
        make_folders(scratch, found if len(found) == 20 else make_videos(scratch / "made"))
        print(
            "part       processes  devices  batch  clips      fvd     low    high  kernel   largest difference  reports"
        )
        for part, (processes, devices, batch) in rows:
            record = score(scratch, processes, devices, batch, OPTIONS[part])
            first = expected.setdefault(part, record)
            apart = max(abs(value / numbers(first)[name] - 1) for name, value in numbers(record).items())
            same = same_words(record, first)
            problems = record["inputs"]["generated"]
            failed += not (same and apart <= WITHIN and problems["broken"] and problems["odd"])
            clips = "/".join(str(record["counts"][name]["clips"]) for name in ("generated", "real"))
            shown = " ".join(f"{value:7.2f}" for value in numbers(record).values())
            place = f"{part:9}  {processes:9} {devices:8} {batch:6}  {clips:6}"
            print(place, shown, f"{apart:20.1e}  {'' if same else 'DIFFERENT'}", flush=True)
    print(f"{len(rows)} rows, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
