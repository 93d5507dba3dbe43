"""File locks: between processes and threads, after a kill, in forked processes, and around runs and outputs."""

import errno
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, debug_config

from jvflow import commands
from jvflow.data import dataset, records
from jvflow.parallel import locks, processes
from jvflow.training.export import export
from jvflow.training.loop import train

HOLDER = "import sys; from pathlib import Path; from jvflow.parallel import locks\n"
HOLDER += "with locks.hold(Path(sys.argv[1]), 'the run'): print('holds', flush=True); sys.stdin.readline()"
CHILD = (
    "import os, time; ready, tell = os.pipe(); os.fork() or (os.write(tell, b'.'), time.sleep(60)); os.read(ready, 1)"
)
FORKING = HOLDER.replace("print", f"{CHILD}; print")


def start(file, script=HOLDER):
    """Starts a process that holds the lock until it reads a line."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-c", script, str(file)], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "holds\n"
    return process


@pytest.fixture
def other(tmp_path):
    process = start(tmp_path / "run" / ".lock")
    yield process
    process.kill()
    process.wait()


def in_thread(work):
    """Calls `work` in another thread, for which the locks of this one are those of a stranger."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_the_second_process_names_the_first(tmp_path, other):
    with pytest.raises(ValueError) as raised, locks.hold(tmp_path / "run" / ".lock", "the run"):
        pass
    when = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    expected = (
        rf"the run is in use by process {other.pid} on \S+, since {when} \(-c /\S+/run/.lock\): wait until it ends, "
    )
    assert re.fullmatch(expected + "stop it, or give another path", str(raised.value))
    other.communicate("\n")
    with locks.hold(tmp_path / "run" / ".lock", "the run"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [HOLDER, FORKING])
def test_a_killed_process_holds_nothing_even_if_its_child_lives(tmp_path, script):
    process = start(tmp_path / ".lock", script)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lock").exists()
    with locks.hold(tmp_path / ".lock", "the run"):
        assert f'"process": {os.getpid()},' in (tmp_path / ".lock").read_text()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jvflow"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_waiting_process_logs_once_for_whom(tmp_path, other, log):
    threading.Timer(0.3, lambda: other.communicate("\n")).start()
    began = time.monotonic()
    with locks.hold(tmp_path / "run" / ".lock", "the run", wait=True):
        assert time.monotonic() - began > 0.2
    assert len(log.messages) == 1
    assert re.match(f"waits for process {other.pid} on .*, which writes the run$", log.messages[0])


def test_a_thread_may_hold_a_lock_twice_and_another_thread_may_not(tmp_path):
    hold = lambda: locks.hold(tmp_path / ".lock", "the run")

    def enter():
        with hold():
            return True

    with hold():
        with hold():
            pass
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
            in_thread(enter)
    assert in_thread(enter)


def test_threads_that_wait_take_turns(tmp_path):
    """Each release removes the file and the folder, which the others create again."""
    inside, most = [], []

    def enter(number):
        with locks.hold(tmp_path / "new" / ".lock", "the run", wait=True, log=False):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.002)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(40)))
    assert most == [1] * 40 and not (tmp_path / "new" / ".lock").exists()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, log):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.hold(tmp_path / ".lock", "the run"):
        pass
    assert "the file system of the run has no locks: run only one process" in log.text


def test_only_the_primary_process_locks(tmp_path, monkeypatch):
    """Every process of a job gets the path, and the primary one has the lock."""
    monkeypatch.setattr(processes, "on_primary", lambda work: None)
    with processes.one_writer(tmp_path / "run", "--workdir") as path:
        assert path == tmp_path / "run" and not path.exists()


def config(folder):
    config = debug_config(folder)
    config.objective = "flow"
    return config


@pytest.mark.parametrize(
    "lock, call",
    [
        ("run/.lock", lambda folder: train(config(folder), folder / "run")),
        ("out/.lock", lambda folder: commands.sample(folder / "run", folder / "out")),
        ("out/.lock", lambda folder: commands.demo(config(folder), folder / "out", command="")),
        (".out.lock", lambda folder: commands.encode(config(folder), folder / "out")),
        (".out.lock", lambda folder: export(folder / "run", folder / "out")),
    ],
)
def test_the_second_writer_of_a_run_or_an_output_ends(tmp_path, lock, call):
    with locks.hold(tmp_path / lock, "it"):
        with pytest.raises(ValueError, match=f"(run|out) is in use by process {os.getpid()} on .*, since"):
            in_thread(lambda: call(tmp_path))
    assert not list(tmp_path.iterdir())


def test_runs_with_one_cache_build_it_once(tmp_path, monkeypatch):
    built, write = [], records.write

    def count(directory, *arguments, **options):
        built.append(directory)
        time.sleep(0.2)
        write(directory, *arguments, **options)

    monkeypatch.setattr(records, "write", count)
    prepare = lambda name: dataset.prepare(config(tmp_path).data, tmp_path / name)
    with ThreadPoolExecutor(3) as pool:
        (found,) = set(pool.map(prepare, "abc"))
    assert len(built) == 1 and records.is_dataset(found)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [found.name]


def test_a_finished_data_set_is_read_without_a_lock(tmp_path, monkeypatch):
    found = dataset.prepare(config(tmp_path).data, tmp_path)
    monkeypatch.setattr(locks, "hold", lambda *arguments, **options: pytest.fail("takes a lock"))
    assert dataset.prepare(config(tmp_path).data, tmp_path) == found


def test_the_lock_files():
    assert locks.inside("a/b") == Path("a/b/.lock") and locks.next_to("b") == Path.cwd() / ".b.lock"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_text("")
    with pytest.raises(ValueError, match=r"--workdir=.*a\.mp4 is a file: give a folder"):
        with processes.one_writer(tmp_path / "a.mp4", "--workdir"):
            pass
