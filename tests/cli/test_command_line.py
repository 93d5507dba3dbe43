"""Tests of the `jvflow` commands: help, configs found from any folder, and errors in one line."""

import ast
import json
import subprocess
import sys

import pytest
from absl import flags
from conftest import ROOT, config_flag, load_config

from jvflow import cli
from jvflow.cli import configs
from jvflow.cli.main import COMMANDS

pytestmark = pytest.mark.slow

SCRIPT = "import sys; from jvflow.cli.main import main; sys.argv[0] = 'jvflow'; main()"


def jvflow(*arguments, cwd=ROOT):
    """Runs the console script."""
    return run("-c", SCRIPT, *arguments, cwd=cwd)


def run(*arguments, cwd):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def last_line(done) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_help_lists_the_commands_with_the_first_line_of_their_modules():
    done = jvflow("--help")
    assert done.returncode == 0
    for name, line in COMMANDS.items():
        text = (ROOT / "jvflow" / "cli" / f"{name}.py").read_text()
        assert ast.get_docstring(ast.parse(text)).splitlines()[0] == line
        assert f"    {name:10}{line}" in done.stdout.splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_own_flags_without_jax(name):
    code = f"""
import sys
from jvflow.cli.main import main
sys.argv = ["jvflow", "{name}", "--help"]
main()
loaded = [module for module in ("jax", "numpy", "flax") if module in sys.modules]
assert not loaded, loaded
"""
    done = run("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(COMMANDS[name]) and f"jvflow.cli.{name}:" in done.stdout
    neither = ("train", "compare", "report", "score")
    assert ("--workdir" in done.stdout) != ("--config" in done.stdout) or name in neither
    assert "--verbosity" not in done.stdout  # a flag of absl itself


def test_a_checkout_runs_the_same_command():
    console, module = jvflow("demo", "--help"), run("-m", "launch.demo", "--help", cwd=ROOT)
    assert module.returncode == 0 and module.stdout == console.stdout


@pytest.mark.parametrize(
    "name, hint",
    [
        ("trian", "did you mean train?"),
        ("quickstart", "use one of train, sample, evaluate, score, encode, compare, report, export, dryrun, demo"),
    ],
)
def test_an_unknown_command_is_one_line(name, hint):
    done = jvflow(name, "--workdir=run")
    assert done.returncode == 1 and done.stderr == f"error: unknown command {name!r}: {hint}\n"


@pytest.mark.parametrize(
    "mistake, message",
    [
        (
            ["--workdri=run"],
            "error: Unknown command line flag 'workdri'. Did you mean: workdir ? (--help lists the flags)",
        ),
        (["--workdir=run", "more"], "error: unexpected arguments: more; flags are written --NAME=VALUE"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(mistake, message):
    done = jvflow("train", config_flag("biflow/procedural.py"), *mistake)
    assert done.returncode == 1 and done.stderr == message + "\n"


@pytest.mark.integration
def test_configs_are_found_from_any_folder_and_a_mistake_is_one_line(tmp_path):
    config = config_flag("biflow/procedural.py", "debug")
    done = jvflow("train", config, "--config.objective=flwo", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 1
    assert last_line(done).startswith("error: unknown objective 'flwo': use one of ")
    assert not (tmp_path / "run").exists()


def test_a_config_is_looked_up_in_the_working_directory_then_the_checkout_then_the_package(tmp_path, monkeypatch):
    name, package = "configs/toy.py:debug", tmp_path / "site-packages" / "jvflow"
    files = [tmp_path / "here" / "configs", package.parent / "configs", package / "configs"]
    for folder in files:
        folder.mkdir(parents=True)
        (folder / "toy.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(configs, "PACKAGE", package)
    found = []
    for folder in files:
        found.append(cli.find_config(name))
        (folder / "toy.py").unlink()
    assert found == [name, f"{package.parent}/{name}", f"{package}/{name}"]
    assert cli.find_config(name) == name


def test_an_unknown_config_key_is_an_error_with_the_nearest_key(tmp_path):
    config = config_flag("biflow/procedural.py")
    done = jvflow("train", config, "--config.optimizer.learning_rat=1", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 1
    assert last_line(done).startswith("error: the config has no key 'learning_rat'") and "learning_rate" in done.stderr


@pytest.mark.integration
def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    config = load_config("biflow/procedural.py", "debug").to_dict()
    del config["prediction"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = jvflow("sample", f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}", cwd=tmp_path)
    assert done.returncode == 1
    assert last_line(done).startswith(f"error: {tmp_path / 'config.json'} has no key 'prediction': restore it")
    assert not (tmp_path / "out").exists()


def test_overrides_are_literals_or_strings_and_half_an_entry_is_refused():
    def read(*texts):
        values = flags.FlagValues()
        flag = flags.DEFINE_multi_string("sample", [], "entries", flag_values=values)
        values(["jvflow", *(f"--sample={text}" for text in texts)])
        return cli.parse_overrides(flag, "epsilon=0.1")

    assert read("epsilon=0.1", "steps=None", "curve=backward", "per_sample=False") == dict(
        epsilon=0.1, steps=None, curve="backward", per_sample=False
    )
    for half in ("epsilon", "epsilon=", "=0.1"):
        with pytest.raises(ValueError, match=f"--sample={half}: write NAME=VALUE, for example --sample=epsilon=0.1"):
            read(half)


@pytest.mark.integration
@pytest.mark.parametrize("name, out", [("sample", "out"), ("evaluate", "o.json")])
def test_half_an_override_is_one_line(tmp_path, name, out):
    done = jvflow(name, f"--workdir={tmp_path}", f"--out={tmp_path / out}", "--sample=epsilon", cwd=tmp_path)
    assert done.returncode == 1
    assert last_line(done).startswith("error: --sample=epsilon: write NAME=VALUE")
    assert not (tmp_path / out).exists()


@pytest.mark.integration
def test_no_tensorflow_or_torch_is_imported():
    code = "import sys, jvflow.commands; assert not {'tensorflow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)


def test_a_full_disk_is_one_line_with_its_cure():
    done = run("-c", "from jvflow import cli; cli.run(lambda: open('/dev/full', 'w').write('x' * 99999))", cwd=ROOT)
    assert done.returncode == 1
    cure = "free some space and run the same command again; it continues after the complete files"
    assert last_line(done) == f"error: [Errno 28] No space left on device: {cure}"
