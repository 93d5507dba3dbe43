"""Continued runs may change: more steps, the optimizer's settings and places of files, with a record."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import debug_config

from jvflow.experiment import assemble
from jvflow.load import load
from jvflow.training import resume
from jvflow.training.checkpoint import Checkpoints
from jvflow.training.loop import train
from jvflow.training.workdir import Workdir, recorded

pytestmark = pytest.mark.slow


def changed_config(changes, **settings):
    """Returns the debug config with {key: value} replaced, such as {"optimizer.ema": 0.9}."""
    config = debug_config(None, **settings)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return recorded(config)


def begun(folder, step=20, **noted):
    """Writes the files of a run at a step, without training; returns its folder."""
    workdir = Workdir(folder)
    workdir.begin(recorded(debug_config(None)))
    if step:
        (workdir.checkpoints / str(step)).mkdir(parents=True)
    workdir.note_data(noted.get("key", "abc"), noted.get("models", {}))
    return workdir


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_of_an_earlier_version_has_the_default_controller(tmp_path):
    workdir = begun(tmp_path / "run")
    config = json.loads(workdir.config_file.read_text())
    del config["sample"]["controller"]
    workdir.config_file.write_text(json.dumps(config))
    assert Workdir.read(workdir.path)[1].sample.controller == "diffrax"


OPTIMIZER = [
    {"optimizer.learning_rate": 0.5},
    {"optimizer.schedule": "constant"},
    {"optimizer.warmup_steps": 3},
    {"optimizer.weight_decay": 0.1},
    {"optimizer.max_grad_norm": 0.5},
    {"optimizer.b1": 0.8},
    {"optimizer.eps": 1e-6},
    {"optimizer.ema": 0.9},
    {"optimizer.name": "grams"},
]
ALLOWED = [
    {"train.steps": 40},
    {"run.log_every": 1},
    {"sample.rtol": 0.1},
    {"evaluate.videos": 3},
    {"data.cache": "elsewhere"},
    {"data.threads": 0},
    *OPTIMIZER,
]
RESHAPING = [{"optimizer.ema": 0.0}, {"optimizer.max_grad_norm": 0.0}]
REFUSED = [
    {"seed": 7},
    {"train.batch_size": 8},
    {"objective": "flow"},
    {"network.depth": 3},
    {"data.frames": 9},
    {"data.seed": 1},
    {"alpha_max": 0.9},
    {"coupling": "minibatch_ot"},
    {"pretrained": "another"},
    {"codec.scale": 2.0},
    *RESHAPING,
]


@pytest.mark.parametrize("changes", ALLOWED, ids=str)
def test_what_does_not_define_the_run_may_change(tmp_path, changes):
    begun(tmp_path)
    before = files(tmp_path)
    Workdir.open(tmp_path, changed_config(changes))
    assert files(tmp_path) == before


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_what_defines_the_run_may_not_change(tmp_path, changes):
    begun(tmp_path)
    before = files(tmp_path)
    (key,) = changes
    with pytest.raises(ValueError, match=rf"config.{key}: was .*, now ") as caught:
        Workdir.open(tmp_path, changed_config(changes))
    assert f"--config.pretrained={tmp_path}" in str(caught.value) and "--config.pretrained_state=True" in str(
        caught.value
    )
    assert files(tmp_path) == before


@pytest.mark.parametrize("changes", [*OPTIMIZER, *RESHAPING], ids=str)
def test_allowed_settings_of_the_optimizer_are_those_that_keep_its_state(changes):
    def state(config):
        experiment = assemble(config)
        params = jax.eval_shape(experiment.network.init, jax.random.key(0))
        return jax.eval_shape(experiment.optimizer.init, params), config.optimizer.ema > 0

    kept = jax.tree.structure(state(changed_config({}))) == jax.tree.structure(state(changed_config(changes)))
    kept &= state(changed_config({}))[1] == state(changed_config(changes))[1]
    assert kept == (changes in OPTIMIZER)


def test_fewer_steps_than_the_checkpoint_has_are_an_error(tmp_path):
    begun(tmp_path, step=20)
    Workdir.open(tmp_path, changed_config({"train.steps": 20}))
    with pytest.raises(ValueError, match=r"config.train.steps is 19, and .* is at step 20: use 20 or more; .*--step"):
        Workdir.open(tmp_path, changed_config({"train.steps": 19}))


def test_a_place_may_change_if_its_content_is_known(tmp_path):
    begun(tmp_path / "known", key="abc", models={"codec": {"name": "tiny"}})
    moved = {"codec.checkpoint": ("elsewhere",)}
    Workdir.open(tmp_path / "known", changed_config(moved))
    Workdir.open(tmp_path / "known", changed_config({"data.path": "procedural:maze"}))  # its key is compared later
    with pytest.raises(ValueError, match="data.path=nowhere is not there: give a folder of the same videos"):
        Workdir.open(tmp_path / "known", changed_config({"data.path": "nowhere"}))
    begun(tmp_path / "unknown", key=None)
    for changes in (moved, {"data.path": "procedural:maze"}):
        with pytest.raises(ValueError, match=rf"config.{next(iter(changes))}: was "):
            Workdir.open(tmp_path / "unknown", changed_config(changes))


def test_a_tuned_run_takes_its_model_from_another_place(tmp_path):
    tuned = {"pretrained": "here", "tune.rank": 2}
    workdir = Workdir(tmp_path)
    workdir.begin(changed_config(tuned))
    (workdir.checkpoints / "20").mkdir(parents=True)
    Workdir.open(tmp_path, changed_config(tuned | {"pretrained": "there"}))  # its checksum is compared later
    with pytest.raises(ValueError, match="config.tune.rank: was 2, now 3"):
        Workdir.open(tmp_path, changed_config(tuned | {"tune.rank": 3}))


def test_another_codec_at_the_same_place_is_refused(tmp_path):
    run = begun(tmp_path, models={"codec": {"name": "tiny", "weights": ["0"]}})
    run.check_models({"codec": {"name": "tiny", "weights": ["0"]}})
    with pytest.raises(
        ValueError, match=r"was trained with the codec model .*'0'.* config.codec.checkpoint now holds .*'1'"
    ):
        run.check_models({"codec": {"name": "tiny", "weights": ["1"]}})


def test_each_change_is_recorded_with_its_step(tmp_path):
    run, first = begun(tmp_path), recorded(debug_config(None))
    run.begin(first, 20)
    assert not (tmp_path / resume.HISTORY).exists()
    second = changed_config({"train.steps": 40, "optimizer.learning_rate": 0.5})
    rate = first.optimizer.learning_rate
    changed = {"optimizer.learning_rate": [rate, 0.5], "train.steps": [20, 40]}
    assert run.begin(second, 20) == changed
    assert run.begin(second, 30) == {}
    run.begin(changed_config({"train.steps": 50, "optimizer.learning_rate": 0.5, "data.threads": 0}), 40)
    lines = [json.loads(line) for line in (tmp_path / resume.HISTORY).read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    assert lines[0]["config"] == json.loads(first.to_json()) and lines[0]["changed"] == changed
    steps = {"step": 40, "changed": {"train.steps": [40, 50]}}  # threads do not change training
    assert resume.trained_with(tmp_path, 50) == {"config_changes": [{"step": 20, "changed": changed}, steps]}
    assert resume.trained_with(tmp_path, 40) == {"config_changes": [{"step": 20, "changed": changed}]}
    assert resume.trained_with(tmp_path, 20) == {}
    run.begin(Workdir.read(tmp_path)[1], 30)  # the checkpoint of step 40 is damaged: steps 31 to 40 are repeated
    assert [entry["step"] for entry in resume.history(tmp_path)] == [20, 30]
    run.begin(first)  # a new run in this folder
    assert resume.history(tmp_path) == []


def test_a_fork_records_the_run_that_it_continues_with_its_changes(tmp_path):
    source, fork = begun(tmp_path / "source"), Workdir(tmp_path / "fork")
    source.begin(changed_config({"train.steps": 40, "sample.rtol": 0.5}), 20)
    source.begin(changed_config({"train.steps": 60}), 40)
    config = changed_config(
        {"pretrained": str(source.path), "pretrained_state": True, "seed": 7, "data.path": "procedural:maze"}
    )
    fork.begin(config)
    fork.record_fork(config, 30)
    found = resume.trained_with(fork.path, 50)["config_changes"]
    assert found[0] == {"step": 20, "changed": {"train.steps": [20, 40]}} and len(found) == 2
    assert found[1]["step"] == 30 and found[1]["forked"] == str(source.path)
    assert found[1]["changed"]["seed"] == [1, 7] and "data.path" in found[1]["changed"]


# --- runs -----------------------------------------------------------------------------------------


def constant(folder, steps):
    config = debug_config(folder, steps=steps)
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 5
    return config


def equal(a, b):
    states = [jax.tree.leaves(Checkpoints(folder / "checkpoints").restore_raw(40)) for folder in (a, b)]
    return all(np.array_equal(x, y) for x, y in zip(*states, strict=True))


@pytest.mark.integration
def test_an_extended_run_and_a_fork_equal_a_long_run(tmp_path, caplog):
    """Trains 20 steps and extends them to 40, in place and in a fork: bit-equal to 40 steps at once."""
    train(constant(tmp_path, 40), tmp_path / "long")
    train(constant(tmp_path, 20), tmp_path / "run")
    fork = constant(tmp_path, 40)
    fork.update(pretrained=str(tmp_path / "run"), pretrained_state=True)
    train(fork, tmp_path / "fork")
    caplog.set_level("INFO")
    train(constant(tmp_path, 40), tmp_path / "run")
    assert "continues at step 20 of 40" in caplog.text and "config.train.steps: was 20, now 40" in caplog.text
    assert "schedule of the new config, constant over all 40 steps: 0.003 at step 21" in caplog.text
    assert equal(tmp_path / "run", tmp_path / "long") and equal(tmp_path / "fork", tmp_path / "long")
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("long", "run", "fork")]
    assert metrics[1] == metrics[0] and metrics[2] == b"".join(metrics[0].splitlines(keepends=True)[20:])
    assert load(tmp_path / "run").protocol["config_changes"] == [{"step": 20, "changed": {"train.steps": [20, 40]}}]
    assert "config_changes" not in load(tmp_path / "long").protocol
    (change,) = load(tmp_path / "fork").protocol["config_changes"]
    assert change["step"] == 20 and change["forked"] == str(tmp_path / "run")
    assert change["changed"]["train.steps"] == [20, 40] and change["changed"]["pretrained_state"] == [None, True]
    fork.seed = 5
    fork.train.steps = 20
    with pytest.raises(ValueError, match="is at step 40: use a larger config.train.steps than 20"):
        train(fork, tmp_path / "none")
    fork.train.steps = 60
    fork.optimizer.ema = 0.0
    with pytest.raises(ValueError, match=r"has another state:\n  config.optimizer.ema: was 0.99, now 0.0"):
        train(fork, tmp_path / "none")
    fork.optimizer.ema, fork.network.depth = 0.99, 3
    with pytest.raises(ValueError, match="the network of config.pretrained=.* differs from this config's in"):
        train(fork, tmp_path / "none")
    fork.network.depth, fork.pretrained = 2, ""
    with pytest.raises(ValueError, match="continues the state of a run, and config.pretrained= is none"):
        train(fork, tmp_path / "none")
    fork.pretrained = str(tmp_path / "run")
    fork.tune.rank = 2
    with pytest.raises(ValueError, match="has other parameters with config.tune"):
        train(fork, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.integration
def test_an_unfinished_run_continues_with_other_settings_and_says_so(tmp_path):
    config = debug_config(tmp_path, steps=20)
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    config.optimizer.update(learning_rate=0.01, schedule="linear", ema=0.5, weight_decay=0.1)
    config.train.steps = 15
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 16))
    schedule = assemble(config).schedule
    assert [line["learning_rate"] for line in lines[10:]] == pytest.approx(
        [float(schedule(step)) for step in range(10, 15)]
    )
    (change,) = load(tmp_path / "run").protocol["config_changes"]
    assert change["step"] == 10 and change["changed"]["optimizer.ema"] == [0.99, 0.5]
    assert "config_changes" not in load(tmp_path / "run", step=10).protocol
    assert Workdir.read(tmp_path / "run")[1].optimizer.learning_rate == 0.01
