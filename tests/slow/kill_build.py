"""Kills the build of a data set with SIGKILL at random moments, restarts it each time, and compares the bytes.

    python tests/slow/kill_build.py --kills 10                    clips of a folder of videos
    python tests/slow/kill_build.py --kills 10 --of inversions    latents inverted through a text-to-video model
    python tests/slow/kill_build.py --kills 10 --of latents       latents, encoded by two processes, killed one by one

Passes if the finished data set equals, byte for byte, the data set of an uninterrupted build by one process. Uses the
real clips next to the checkout, or renders ten clips. Takes a minute, so pytest does not collect it.
"""

import argparse
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jvflow.data import procedural, records
from jvflow.report import videos

ROOT = Path(__file__).resolve().parents[2]
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
from pathlib import Path
from jvflow.load import load
from jvflow.flowframes import inversion
jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/xla")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
inversion.SHARD_BYTES = 200_000
run, source, directory = load(sys.argv[1] + "/model"), Path(sys.argv[1], "latents"), Path(sys.argv[2])
inversion.invert_dataset(run, source, directory, lengths=(4, 8), steps=50)
""",
    latents="""
import runpy, sys
from jvflow.parallel import processes
processes.start()
from jvflow.data import latents, records
records.SHARD_BYTES = 1_000_000
config = runpy.run_path("configs/biflow/video_folder.py")["get_config"]()
cache = sys.argv[2].rpartition("/")[0] + "/clips"  # shared, so that clips are cut once
config.data.update(path=sys.argv[1], cache=cache, frames=16, fps=8.0, stride=2, dtype="float16")
latents.prepare(config, sys.argv[2])
processes.barrier("the end")
""",
)
PROCESSES = dict(clips=1, inversions=1, latents=2)


def start(build: str, source: Path, directory: Path, count: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    of = lambda i: (
        dict(JVFLOW_COORDINATOR=address, JVFLOW_PROCESSES=str(count), JVFLOW_PROCESS=str(i)) if count > 1 else {}
    )
    command = [sys.executable, "-c", BUILDS[build], str(source), str(directory)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [subprocess.Popen(command, cwd=ROOT, env=environment | of(i), **quiet) for i in range(count)]


def ended(job: list[subprocess.Popen]) -> bool:
    return all(process.poll() is not None for process in job)


def wait_for_files(job: list[subprocess.Popen], directory: Path) -> None:
    """Waits until a build that has just begun writes a shard, or ends."""
    partial, begun = directory.with_name(f".{directory.name}.partial"), time.time()
    while not ended(job):
        try:
            written = [path.stat().st_mtime for path in partial.rglob("*") if path.is_file()]
        except FileNotFoundError:  # renamed in between: the build is complete
            written = []
        if len(written) > 1 and max(written) > begun:
            return
        time.sleep(0.02)


def contents(directory: Path) -> dict:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def made(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(10):
        videos.write(
            folder / f"{seed}.mp4", procedural.scene("comets", seed).render([i / 8 for i in range(400)], 96), 8
        )
    return folder


def model_and_latents(folder: Path) -> Path:
    """Trains a text-to-video model for a few steps, and encodes clips into latents; returns the folder."""
    command = lambda *flags: subprocess.run(
        [sys.executable, "-m", *flags, "--config.data.clips.train=24"],
        cwd=ROOT,
        check=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
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
            assert start(build, source, folder / "compiling", 1)[0].wait() == 0
        else:
            source = REAL if REAL.exists() else made(folder / "videos")
        job = start(build, source, folder / "whole", 1)
        wait_for_files(job, folder / "whole")
        clock = time.time()
        assert job[0].wait() == 0
        took = time.time() - clock  # of writing: imports, and clips that all builds share, are done before
        print(f"{len(contents(folder / 'whole'))} files, written in {took:.1f} s")
        done, builds, equal, most = 0, 0, True, 0
        while done < kills or not builds:
            directory = folder / f"killed_{builds}"
            while not records.is_dataset(directory):
                job = start(build, source, directory, PROCESSES[build])
                wait_for_files(job, directory)  # kills during imports test nothing
                until = time.time() + rng.uniform(0, 0.2 * took) if done < kills else math.inf
                while not ended(job) and time.time() < until:
                    time.sleep(0.01)
                if ended(job):
                    continue
                # once the process that writes first: where another one dies, it may remove what it wrote
                for process in rng.sample(job, len(job)) if done else job:
                    process.send_signal(signal.SIGKILL)
                    time.sleep(rng.uniform(0, 1) * (len(job) > 1))
                [process.wait() for process in job]
                done += 1
                left = sorted(path.name for path in folder.glob(f".killed_{builds}.*"))
                most = max([most, *(len(list((folder / part).rglob("*"))) for part in left)])
                print(f"kill {done}: left {', '.join(left) or 'nothing'}", flush=True)
            equal = equal and contents(directory) == contents(folder / "whole")
            builds += 1
        clean = not list(folder.glob(".killed_*"))
        print(f"{done} kills in {builds} builds; byte-equal: {equal}; no other files left: {clean}")
        sys.exit(0 if equal and clean and most > 2 else 1)


if __name__ == "__main__":
    main()
