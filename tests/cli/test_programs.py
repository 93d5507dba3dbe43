"""The folder of compiled programs: the second start of a command compiles nothing."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, config_flag

from jvflow.cli import programs

COUNTED = """
import atexit, sys
import jax.monitoring
events = []
jax.monitoring.register_event_listener(lambda event, **named: events.append(event.rsplit("/", 1)[-1]))
atexit.register(lambda: print("counted", events.count("cache_hits"), events.count("compile_requests_use_cache")))
from jvflow.cli.main import main
sys.argv[0] = "jvflow"
main()
"""


def count(home, *arguments):
    """Runs a command with the user's cache in `home`; returns how many programs it loaded, and how many it needed."""
    apart = ("JAX_COMPILATION_CACHE_DIR", "EQX_ON_ERROR", "XLA_FLAGS")
    env = {key: value for key, value in os.environ.items() if key not in apart}
    env |= dict(XDG_CACHE_HOME=str(home), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *arguments], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("counted "))
    return tuple(int(word) for word in found.split()[1:])


@pytest.mark.integration
@pytest.mark.parametrize("paper", ["biflow", "vlfm"])
def test_the_second_start_of_a_command_compiles_nothing(tmp_path, paper):
    """Trains, then samples in steps of the error's choice and in given steps; VLFM reads its clips at given times."""
    config = config_flag(f"{paper}/procedural.py", "debug")
    common = [f"--config.data.cache={tmp_path / 'data'}", "--config.run.progress=False"]
    for number in (1, 2):
        hits, needed = count(tmp_path, "train", config, f"--workdir={tmp_path / str(number)}", *common)
        assert needed > 3 and (hits == needed if number == 2 else hits < needed)
    sample = ["sample", f"--workdir={tmp_path / '1'}", f"--out={tmp_path / 'out'}", "--count=1"]
    for steps in ([], ["--sample=method=euler", "--sample=steps=2"]):
        count(tmp_path, *sample, *steps)
        hits, needed = count(tmp_path, *sample, *steps)
        assert hits == needed > 1


@pytest.mark.integration
def test_the_second_start_of_the_other_commands_compiles_nothing(tmp_path):
    """Evaluates, compares, exports, encodes, reports and scores; `dryrun` compiles for other devices."""
    quiet = "--config.run.progress=False"

    def twice(name, *arguments, least=1):
        folders = [tmp_path / f"{name}_{number}" for number in (1, 2)]
        counts = [count(tmp_path, name, *(word.replace("OUT", str(out)) for word in arguments)) for out in folders]
        (first, needed), (hits, needed_again) = counts
        assert hits == needed_again >= least, (name, counts)
        assert first < needed or not least, (name, counts)

    run, metrics, samples = tmp_path / "run", tmp_path / "metrics.json", tmp_path / "samples"
    cache = f"--config.data.cache={tmp_path / 'data'}"
    count(tmp_path, "train", config_flag("biflow/procedural.py", "debug"), f"--workdir={run}", cache, quiet)
    twice("evaluate", f"--workdir={run}", "--out=OUT.json")
    twice("compare", f"--workdirs={run}", "--epsilon=0.1,0.2", "--out=OUT")
    twice("export", f"--workdir={run}", "--packed", "--clips=2", "--out=OUT", least=0)
    chunks = [config_flag("flowframes/procedural.py", "debug"), cache, quiet]
    text_to_video = ["--config.objective=text_to_video", "--config.inversion.rho=0.0", "--config.train.steps=1"]
    count(tmp_path, "train", *chunks, f"--workdir={tmp_path / 'clips'}", *text_to_video)
    twice("encode", *chunks, f"--config.pretrained={tmp_path / 'clips'}", "--out=OUT")
    count(tmp_path, "evaluate", f"--workdir={run}", f"--out={metrics}")
    twice("report", str(metrics), "--out=OUT.md", least=0)
    count(tmp_path, "sample", f"--workdir={run}", f"--out={samples}", "--count=2")
    pairs = [f"--{side}={samples}" for side in ("generated", "real")]
    twice("score", *pairs, "--protocol=pairs", "--set=metrics=psnr,ssim", "--out=OUT.json")


def test_the_folder_is_in_the_users_cache_and_is_named_after_the_processor(tmp_path, monkeypatch):
    assert programs.processor() == programs.processor() != "" and "/" not in programs.processor()
    show = "import jax; from jvflow.cli import programs; programs.keep(); print(jax.config.jax_compilation_cache_dir)"

    def folder(**environment):
        env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"} | environment
        done = subprocess.run([sys.executable, "-c", show], env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert folder(XDG_CACHE_HOME=str(tmp_path)) == str(tmp_path / "jvflow" / "programs" / programs.processor())
    assert folder(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR="/elsewhere") == "/elsewhere"
    (tmp_path / "file").write_text("")
    assert folder(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"  # where no folder can be made
