"""Trains with 1, 2, 4, 1, ... processes, kills or stops one of them each time, and compares with one process.

    python tests/slow/kill_processes.py --kills 10

Half of the kills come at random moments, the other half while a checkpoint is written. Passes if

  * every kill ends the whole job within 30 seconds, without a launcher that watches it;
  * the next job, with another number of processes, finds and reads the newest complete checkpoint;
  * no kill costs more than `checkpoint_every` steps;
  * SIGTERM to one process saves a checkpoint, and ends all processes with exit status 143;
  * losses and parameters equal the uninterrupted run's, up to the order of sums.

Takes a few minutes, so pytest does not collect it.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kill_and_resume import ROOT, command, parameters, steps

EVERY = 10
WITHIN = 30


def start(count: int, workdir: Path, data: Path, last: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    of = lambda i: (
        dict(JVFLOW_COORDINATOR=address, JVFLOW_PROCESSES=str(count), JVFLOW_PROCESS=str(i)) if count > 1 else {}
    )
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [
        subprocess.Popen(command(workdir, data, last, EVERY), cwd=ROOT, env=environment | of(i), **quiet)
        for i in range(count)
    ]


def ends(job: list[subprocess.Popen], within: float) -> list[int]:
    """Returns the exit codes of a job; exits with an error if it does not end `within` seconds."""
    deadline = time.time() + within
    try:
        return [process.wait(max(deadline - time.time(), 0.1)) for process in job]
    except subprocess.TimeoutExpired:
        for process in job:
            process.kill()
        sys.exit(f"a process still ran {within} s after another one ended")


def losses(workdir: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    counts = [1, 2, 4]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed, data = (Path(folder) / name for name in ("whole", "killed", "data"))
        steps_in_all = 35 * kills + 30
        assert ends(start(1, whole, data, steps_in_all), 600) == [0]
        worst = slowest = torn = 0
        for number in range(1, kills + 1):
            target = max(steps(killed), default=0) + rng.randint(4, 24)
            target = (
                target if number % 2 else EVERY * (target // EVERY + 1)
            )  # metrics of a step come before its checkpoint
            count = counts[(number - 1) % 3]
            asked = number % 3 == 0  # SIGTERM to one of four processes stops all of them
            job, begun = start(count, killed, data, steps_in_all), time.time()
            while max(steps(killed), default=0) < target:
                if any(process.poll() is not None for process in job) or time.time() - begun > 300:
                    codes = [process.poll() for process in job]
                    sys.exit(f"the job ended before kill {number}, or never reached step {target}: {codes}")
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.2))
            clock = time.time()
            one = rng.randrange(count)
            job[one].send_signal(signal.SIGTERM if asked else signal.SIGKILL)
            codes = ends(job, 2 * WITHIN if asked else WITHIN)
            slowest = max(slowest, 0 if asked else time.time() - clock)
            if asked and codes != [143] * count:
                sys.exit(f"after SIGTERM the job ended with {codes}, not 143")
            saved = max((int(p.name) for p in (killed / "checkpoints").iterdir() if p.name.isdigit()), default=0)
            torn += any(not p.name.isdigit() for p in (killed / "checkpoints").iterdir())
            reached = max(steps(killed), default=0)
            worst = max(worst, reached - saved)
            what = "SIGTERM" if asked else "SIGKILL"
            print(
                f"{what} {number} to process {one} of {count}: reached {reached}, saved {saved}, "
                f"all ended in {time.time() - clock:.1f} s",
                flush=True,
            )
        assert ends(start(2, killed, data, steps_in_all), 600) == [0, 0]
        apart = float(np.abs(losses(killed) / losses(whole) - 1).max())
        far = max(
            float(np.abs(a.astype(np.float64) - b).max())
            for a, b in zip(parameters(whole), parameters(killed), strict=True)
            if a.dtype == np.float32
        )
        once = steps(killed) == list(range(1, steps_in_all + 1))
        print(
            f"losses within {apart:.1e}, parameters within {far:.1e}; "
            f"most steps recomputed: {worst} (checkpoint_every {EVERY}); "
            f"each step once: {once}; slowest end {slowest:.1f} s; kills that left an incomplete checkpoint: {torn}"
        )
        sys.exit(0 if apart < 1e-3 and once and worst <= EVERY and slowest <= WITHIN else 1)


if __name__ == "__main__":
    main()
