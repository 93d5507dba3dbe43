"""Kills the build of a data set with SIGKILL at random moments, restarts it each time, and compares the bytes.

    python tests/kill_build.py --kills 10                     a folder of videos, cut into clips
    python tests/kill_build.py --kills 10 --of inversions     latents inverted through a text-to-video model

Passes when the finished data set is, byte for byte, that of an uninterrupted build. Real clips where
they lie beside the checkout, else ten that are made here. Not collected by pytest: it takes a minute.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jvflow.data import procedural, records, video

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "clips"
BUILDS = dict(
    clips="""
import sys
from jvflow.data import folder, records
records.SHARD_BYTES = 200_000  # several shards of these few clips
folder.build(sys.argv[1], sys.argv[2], frames=16, fps=8, size=(32, 32), stride=8)
""",
    inversions="""
import sys
import jax
from jvflow import inversion, run
jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/xla")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
inversion.SHARD_BYTES = 200_000
inversion.invert(run.load(sys.argv[1] + "/model"), sys.argv[1] + "/latents", sys.argv[2], lengths=(4, 8), steps=50)
""",
)


def start(build: str, source: Path, directory: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", BUILDS[build], str(source), str(directory)], cwd=ROOT, stderr=subprocess.DEVNULL)


def contents(directory: Path) -> dict:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def made(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(10):
        video.write(folder / f"{seed}.mp4", procedural.scene("comets", seed).render([i / 8 for i in range(400)], 96), 8)
    return folder


def model_and_latents(folder: Path) -> Path:
    """A text-to-video model after twenty steps, and latents of other clips."""
    command = lambda *flags: subprocess.run([sys.executable, "-m", *flags, "--config.data.clips.train=24"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    config = "--config=configs/flowframes/pretrain.py:debug"
    command("launch.train", config, f"--workdir={folder / 'model'}", "--config.optimizer.learning_rate=0.02")
    command("launch.encode", config, f"--out={folder / 'latents'}")
    return folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--of", choices=BUILDS, default="clips")
    kills, build = (args := parser.parse_args()).kills, args.of
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if build == "inversions":
            source = model_and_latents(folder / "source")
            assert start(build, source, folder / "compiling").wait() == 0
        else:
            source = REAL if REAL.exists() else made(folder / "videos")
        clock = time.time()
        assert start(build, source, folder / "whole").wait() == 0
        took = time.time() - clock
        print(f"{len(contents(folder / 'whole'))} files in {took:.1f} s")
        done, builds, equal, most = 0, 0, True, 0
        while done < kills or not builds:
            directory = folder / f"killed_{builds}"
            while not records.is_dataset(directory):
                process = start(build, source, directory)
                partial = directory.with_name(f".{directory.name}.partial")
                while process.poll() is None and len(list(partial.rglob("*"))) < 3:  # what loads first is not what is tested
                    time.sleep(0.05)
                try:
                    process.wait(rng.uniform(0.1, 0.25 * took) if done < kills else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    done += 1
                    left = sorted(path.name for path in folder.glob(f".killed_{builds}.*"))
                    most = max([most, *(len(list((folder / part).rglob("*"))) for part in left)])
                    print(f"kill {done}: left {', '.join(left) or 'nothing'}", flush=True)
            equal = equal and contents(directory) == contents(folder / "whole")
            builds += 1
        clean = not list(folder.glob(".killed_*"))
        print(f"{done} kills in {builds} builds; byte-equal: {equal}; nothing left beside them: {clean}")
        sys.exit(0 if equal and clean and most > 2 else 1)


if __name__ == "__main__":
    main()
