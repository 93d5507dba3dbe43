"""Kills a run with SIGKILL at random moments, restarts it each time, and compares with an uninterrupted run.

    python tests/slow/kill_and_resume.py --kills 10

Passes when the final parameters are bit-equal, no kill cost more than `checkpoint_every` steps, and
`metrics.jsonl` holds each step once. Not collected by pytest: it takes a few minutes.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jvflow.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 3000, 50


def command(workdir: Path, data: Path, last: int, every: int) -> list[str]:
    """Returns the command that trains to step `last`, with metrics of each step and a checkpoint each `every` steps."""
    return [
        sys.executable,
        "-m",
        "launch.train",
        "--config=configs/biflow/procedural.py:debug",
        f"--workdir={workdir}",
        f"--config.data.cache={data}",
        f"--config.train.steps={last}",
        f"--config.run.checkpoint_every={every}",
        "--config.run.progress=False",
        "--config.run.tensorboard=False",
        "--config.run.log_every=1",
    ]


def start(workdir: Path, data: Path) -> subprocess.Popen:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla")}
    return subprocess.Popen(
        command(workdir, data, STEPS, EVERY),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def steps(workdir: Path) -> list[int]:
    """Returns the steps in metrics.jsonl, without a line that is still being written."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line)["step"] for line in lines]


def parameters(workdir: Path):
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore_raw()
    checkpoints.close()
    return [np.asarray(a) for a in jax.tree.leaves(state)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed, data = (Path(folder) / name for name in ("whole", "killed", "data"))
        assert start(whole, data).wait() == 0
        clock = time.time()
        assert start(whole, data).wait() == 0  # the run is complete: measures the time to start
        startup = time.time() - clock
        worst, reached = 0, 0
        for number, target in enumerate(sorted(rng.sample(range(int(0.9 * STEPS)), kills)), start=1):
            process = start(killed, data)
            if target <= reached:  # the last kill came later than this step: kills the run while it starts
                time.sleep(rng.uniform(0.2, startup))
            while max(steps(killed), default=0) < target and process.poll() is None:
                time.sleep(rng.uniform(0.0, 0.1))
            if process.poll() is not None:
                sys.exit(f"the run ended before kill {number} with {process.returncode}: increase STEPS")
            process.send_signal(signal.SIGKILL)
            process.wait()
            reached = max(steps(killed), default=0)
            saved = Checkpoints(killed / "checkpoints").latest() or 0
            worst = max(worst, reached - saved)
            print(f"kill {number}: aimed at step {target}, reached {reached}, saved {saved}", flush=True)
        assert start(killed, data).wait() == 0
        equal = all(np.array_equal(a, b) for a, b in zip(parameters(whole), parameters(killed), strict=True))
        once = steps(killed) == list(range(1, STEPS + 1))
        print(f"bit-equal: {equal}; most steps recomputed: {worst} (checkpoint_every {EVERY}); each step once: {once}")
        sys.exit(0 if equal and once and worst <= EVERY else 1)


if __name__ == "__main__":
    main()
