"""The format version: a run of each earlier version loads, and a later one is refused by every command."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jvflow import commands
from jvflow.load import load, load_untrained
from jvflow.training import format_version, resume
from jvflow.training.checkpoint import Checkpoints, abstract_like
from jvflow.training.export import export
from jvflow.training.format_version import ENTRY, VERSION
from jvflow.training.loop import train
from jvflow.training.workdir import Workdir

make_run = pytest.importorskip("fixtures.make_run")  # its runs are of Bi-flow
RUNS = sorted((ROOT / "tests" / "fixtures").glob("run_format_*"))
LATER = VERSION + 1


@pytest.fixture
def run(tmp_path):
    """Returns a copy of the run of the newest version."""
    return shutil.copytree(RUNS[-1], tmp_path / "run")


def rewrite(file, **entries):
    """Replaces entries of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_the_newest_version_has_a_fixture():
    assert f"run_format_{VERSION}" in [run.name for run in RUNS]


@pytest.mark.parametrize("fixture", RUNS, ids=lambda path: path.name)
def test_a_run_of_each_version_generates_the_frame_that_it_did(fixture, tmp_path):
    """The tolerance is for the rounding of other processors: two of 255 levels, and 1e-3 of the range in the mean."""
    run = shutil.copytree(fixture, tmp_path / "run")
    given, expected = np.load(run / "frames.npy")
    frame = make_run.first_frame(run, given[None, None])
    difference = frame.astype(float) - expected
    assert np.abs(difference).max() <= 2 and abs(difference.mean()) < 0.13


def test_a_run_without_the_entry_is_version_0_and_loads(run):
    now = load(run)
    before = Workdir.read(run)[1].to_dict()
    rewrite(run / "config.json", **{ENTRY: None})
    shutil.rmtree(run / "checkpoints" / "2" / "format")
    assert ENTRY not in before and resume.changes(before, Workdir.read(run)[1].to_dict()) == {}
    assert load(run).protocol == now.protocol


def test_config_and_checkpoint_carry_the_version_and_a_resume_adds_it(run):
    file = run / "config.json"
    assert json.loads(file.read_text())[ENTRY] == VERSION
    rewrite(file, **{ENTRY: None})
    folder, config = Workdir.read(run)
    assert Workdir.open(run, config) == folder and folder.begin(config, 2) == {}
    assert json.loads(file.read_text())[ENTRY] == VERSION and not (run / resume.HISTORY).exists()


def starting_from(run, **entries):
    config = make_run.config_of("")
    config.update(pretrained=str(run), **entries)
    return config


COMMANDS = {
    "train": lambda run, out: train(make_run.config_of(""), run),
    "sample": lambda run, out: commands.sample(run, out),
    "evaluate": lambda run, out: commands.evaluate(run),
    "compare": lambda run, out: commands.compare([run], out),
    "export": lambda run, out: export(run, out),
    "train from it": lambda run, out: train(starting_from(run), out),
    "continue its state": lambda run, out: train(starting_from(run, pretrained_state=True), out),
    "load": lambda run, out: load(run),
    "load_untrained": lambda run, out: load_untrained(run),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_of_a_later_version_is_refused(run, tmp_path, name):
    """Also one whose config has lost an entry that this version needs; the refusal writes nothing."""
    rewrite(run / "config.json", **{ENTRY: LATER, "network": None})
    before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
    with pytest.raises(ValueError) as raised:
        COMMANDS[name](run, tmp_path / "out")
    assert str(raised.value) == (
        f"{run / 'config.json'} has format version {LATER}, and this jvflow reads versions up to {VERSION}: a later "
        "jvflow wrote it, so install a later jvflow"
    )
    left = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
    assert {file: content for file, content in left.items() if file.suffix != ".lock"} == before


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path):
    """An undamaged checkpoint before it stays unused: to continue there would lose the steps in between."""
    state = {"params": {"a": jnp.arange(4.0)}}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state, {"next_index": step})
    rewrite(tmp_path / "2" / "format" / "metadata", **{ENTRY: LATER})
    checkpoints.close()
    abstract = abstract_like(state, None)
    for read in (
        lambda checkpoints: checkpoints.restore(abstract),
        lambda checkpoints: checkpoints.restore(abstract, step=2),
        lambda checkpoints: checkpoints.restore_only(abstract),
        lambda checkpoints: checkpoints.restore_raw(),
    ):
        checkpoints = Checkpoints(tmp_path)
        with pytest.raises(format_version.LaterVersion, match=f"{tmp_path / '2'} has format version {LATER}, and this"):
            read(checkpoints)
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore_raw(1)["params"]["a"][3] == 3
    checkpoints.close()


@pytest.mark.parametrize("value", ["2", 1.5, True, -1, None, []])
def test_a_version_that_is_no_number_is_damage(value):
    with pytest.raises(ValueError, match="run/config.json is damaged: format_version is .*: restore it from a copy"):
        format_version.check_version({ENTRY: value}, "run/config.json")
