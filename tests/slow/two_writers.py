"""Starts two runs at once in one workdir, or with one cache, after random delays; kills the first in every second case.

    python tests/slow/two_writers.py --starts 20                a workdir
    python tests/slow/two_writers.py --starts 20 --of cache     a cache, while a folder of videos is cut

A workdir passes if a run that comes second ends with one line that names the first, and a run after both completes what
they left: `metrics.jsonl` has each step once, and the parameters equal those of an uninterrupted run. A cache passes if
every run that is not killed ends well, the second one waits at most once, and the data set and the list of hashes equal
those of one run. Takes several minutes, so pytest does not collect it.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kill_and_resume import parameters, steps
from kill_build import contents

from jvflow.data import procedural
from jvflow.report.videos import write
from jvflow.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
STEPS = 300
FLAGS = (f"--config.train.steps={STEPS}", "--config.run.checkpoint_every=50", "--config.run.log_every=1")
IN_USE = re.compile(r"error: \S+ is in use by process (\d+) on \S+, since [-\d]+ [:\d]+ \(.*\): wait until it ends, .*")
WAITS = re.compile(r".* waits for process (\d+) on \S+, since [-\d]+ [:\d]+ \(.*\), which writes \S+")


class Job:
    """A process that trains; its log is a file."""

    def __init__(self, log: Path, config: str, workdir: Path, *flags: str):
        self.log, self.killed = log, False
        command = [sys.executable, "-m", "launch.train", f"--config=configs/biflow/{config}:debug", *flags]
        command += [f"--workdir={workdir}", "--config.run.progress=False", "--config.run.tensorboard=False"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla")}
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.killed = self.process.wait() < 0

    def end(self) -> tuple[int, list[str]]:
        """Returns the exit status and the lines of the log."""
        return self.process.wait(), self.log.read_text().splitlines()


def two(folder: Path, rng: random.Random, times: tuple[float, float], kill: bool, start) -> list[Job]:
    """Starts two jobs, the second after a random delay; kills the first at a random moment after that, if asked.

    `times` is how long a job takes until it holds its lock, and how long it holds it.
    """
    before, during = times
    jobs = [start(folder / "first.log", "first")]
    time.sleep(rng.uniform(0, 0.6 * during))
    jobs.append(start(folder / "second.log", "second"))
    if kill:
        time.sleep(rng.uniform(0, before + during))
        jobs[0].kill()
    for job in jobs:
        job.end()
    return jobs


def one_workdir(folder: Path, rng: random.Random, times: tuple[float, float], kill: bool, whole: list) -> str:
    """Runs two jobs in one workdir, then a third one; returns a report. Raises AssertionError if a check fails."""
    run = folder / "run"
    start = lambda log, name: Job(log, "procedural.py", run, *FLAGS)
    jobs = two(folder, rng, times, kill, start)
    refused, after = [], False
    for job, other in (jobs, jobs[::-1]):
        status, lines = job.end()
        if status == 1:
            found = IN_USE.fullmatch(lines[0])
            assert len(lines) == 1 and found and int(found[1]) == other.process.pid, lines
            refused.append(job)
        else:
            assert status == 0 or job.killed, lines
            after = after or any(f"continues at step {STEPS} of {STEPS}" in line for line in lines)
    assert len(refused) < 2
    assert refused or after or jobs[0].killed, "both ran"
    reached = max(steps(run), default=0)
    third, lines = start(folder / "third.log", "third").end()
    assert third == 0, lines
    assert steps(run) == list(range(1, STEPS + 1)), "a step is absent or double"
    assert Checkpoints(run / "checkpoints").latest() == STEPS
    assert all(np.array_equal(a, b) for a, b in zip(parameters(run), whole, strict=True)), "other parameters"
    assert not (run / ".lock").exists()
    how = "one refused" if refused else "the second came later" if after else "the second ran"
    return f"{how}{', the first killed' * jobs[0].killed}, step {reached} of {STEPS} reached"


def one_cache(
    folder: Path, rng: random.Random, times: tuple[float, float], kill: bool, whole: Path, videos: Path
) -> str:
    """Runs two jobs with one cache; returns a report. Raises AssertionError if a check fails."""
    cache = folder / "cache"
    start = lambda log, name: Job(log, "video_folder.py", folder / name, *cutting(videos, cache))
    jobs, waited = two(folder, rng, times, kill, start), 0
    for job, other in (jobs, jobs[::-1]):
        status, lines = job.end()
        assert status == 0 or job.killed, lines
        waits = [found for line in lines if (found := WAITS.fullmatch(line))]
        assert len(waits) <= 1 and all(int(found[1]) == other.process.pid for found in waits), lines
        waited += len(waits)
    found = [path for path in cache.iterdir() if path.is_dir()]
    assert [path.name for path in found] == [whole.name], found
    assert contents(found[0]) == contents(whole), "another data set"
    hashed = [json.loads(line)[0] for line in (cache / "sha256.jsonl").read_text().splitlines()]
    assert sorted(hashed) == sorted(map(str, videos.iterdir())), "a file is absent or double"
    return f"{'one waited' if waited else 'none waited'}{', the first killed' * jobs[0].killed}"


def locked(job: Job, folder: Path) -> tuple[float, float]:
    """Returns after how many seconds a job holds a lock in a folder, and for how long; the job must end well."""
    began, seen = time.time(), []
    while job.process.poll() is None:
        seen += [time.time()] if list(folder.glob(".*lock")) else []
        time.sleep(0.02)
    assert job.end()[0] == 0, job.end()
    return seen[0] - began, seen[-1] - seen[0]


def make_videos(folder: Path) -> Path:
    """Writes six videos of 15 s; returns their folder."""
    for seed in range(6):
        write(folder / f"{seed}.mp4", procedural.scene("comets", seed).render([i / 8 for i in range(120)], 64), 8)
    return folder


def cutting(videos: Path, cache: Path) -> list[str]:
    settings = dict(path=videos, cache=cache, frames=8, stride=8, fps=8.0, test_fraction=0.0, min_frames=0)
    return ["--config.train.steps=1", *(f"--config.data.{name}={value}" for name, value in settings.items())]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--of", choices=("workdir", "cache"), default="workdir")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.of == "workdir":
            for name in ("compiles", "whole"):
                times = locked(Job(folder / "log", "procedural.py", folder / name, *FLAGS), folder / name)
            check, options = one_workdir, dict(whole=parameters(folder / "whole"))
        else:
            videos, cache = make_videos(folder / "videos"), folder / "cache"
            times = locked(Job(folder / "log", "video_folder.py", folder / "whole", *cutting(videos, cache)), cache)
            (whole,) = (path for path in cache.iterdir() if path.is_dir())
            check, options = one_cache, dict(whole=whole, videos=videos)
        print(f"one run takes its lock after {times[0]:.1f} s and holds it for {times[1]:.1f} s")
        passed = 0
        for number in range(arguments.starts):
            place = folder / str(number)
            place.mkdir()
            try:
                outcome = check(place, rng, times, kill=number % 2 == 1, **options)
                passed += 1
            except AssertionError as error:
                outcome = f"FAILED: {error}"
            print(f"start {number + 1}: {outcome}", flush=True)
    print(f"{passed} of {arguments.starts} starts passed")
    sys.exit(0 if passed == arguments.starts else 1)


if __name__ == "__main__":
    main()
