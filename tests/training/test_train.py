"""The training loop and its step: resuming, several devices, signals, and errors before a run begins."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import CACHE, ROOT, config_flag, debug_config
from dit_sizes import forward_flops

from jvflow.data.pipeline import Batch
from jvflow.experiment import assemble, method_of
from jvflow.flow.solver import SolveError
from jvflow.parallel import mesh as meshes
from jvflow.parallel import sharding
from jvflow.training import loop
from jvflow.training.checkpoint import Checkpoints
from jvflow.training.loop import train
from jvflow.training.step import create, merge, train_step
from jvflow.training.workdir import Metrics, Workdir

pytestmark = pytest.mark.slow


def final(workdir):
    """Returns the arrays of the last checkpoint, on the host."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore_raw()
    return jax.tree.map(np.asarray, state)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def steps_in(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(debug_config(folder), folder / "run")
    return folder / "run"


def test_loss_falls_and_every_step_is_written_once(tmp_path):
    config = debug_config(tmp_path, steps=60)
    config.optimizer.learning_rate = 3e-3
    losses = [loss for _, loss in train(config, tmp_path / "run").losses()]
    assert steps_in(tmp_path / "run") == list(range(1, 61))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    first, *arrays = (tmp_path / "run" / "sharding.txt").read_text().splitlines()
    assert (
        first == "4 CPU devices, data 4"
        and "params/blocks/0/qkv/kernel (32, 96): copied; fewer than 16384 elements" in arrays
    )


def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, monkeypatch):
    """Checks that a run that loses all steps after its first checkpoint ends bit-equal."""
    config = debug_config(uninterrupted.parent)
    save = Checkpoints.save

    def save_and_die(self, step, *rest):
        save(self, step, *rest)
        if step == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:  # steps without a checkpoint, and an incomplete line
        file.write('{"step": 11, "loss": 9.0}\n{"step": 12, "lo')
    train(config, tmp_path / "run")
    assert equal(final(tmp_path / "run"), final(uninterrupted))
    assert steps_in(tmp_path / "run") == list(range(1, 21))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


@pytest.mark.integration
def test_a_run_continues_on_another_mesh(tmp_path, uninterrupted, monkeypatch):
    """Trains with fsdp on four devices, stops after a checkpoint, and continues with data and tensor: equal losses."""
    monkeypatch.setattr(sharding, "MIN_ELEMENTS", 2**8)
    config = debug_config(uninterrupted.parent)
    config.run.update(sample_every=10, sample_frames=3)
    config.run.mesh.update(data=1, fsdp=4)
    save = Checkpoints.save

    def save_and_die(self, step, state, position):
        save(self, step, state, position)
        assert any(any(a.sharding.spec) for a in jax.tree.leaves(state.opt_state))
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    assert "qkv/kernel (32, 96): fsdp; rule" in (tmp_path / "run" / "sharding.txt").read_text()
    monkeypatch.setattr(Checkpoints, "save", save)
    config.run.mesh.update(data=2, fsdp=1, tensor=2)
    here = train(config, tmp_path / "run").losses()
    assert "qkv/kernel (32, 96): None, tensor; rule" in (tmp_path / "run" / "sharding.txt").read_text()
    there = Workdir(uninterrupted).losses()
    assert [step for step, _ in here] == list(range(1, 21))
    np.testing.assert_allclose([loss for _, loss in here], [loss for _, loss in there], rtol=1e-5)
    assert [p.name for p in sorted((tmp_path / "run" / "samples").iterdir())] == [
        "step_00000020.png",
        *(f"step_00000020_{i}.mp4" for i in range(4)),
    ]


def launch(config_flags, workdir):
    command = [sys.executable, "-m", "launch.train", f"--workdir={workdir}", *config_flags]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.integration
def test_sigterm_saves_and_the_same_command_continues(tmp_path):
    flags = [
        config_flag("biflow/procedural.py", "debug"),
        "--config.train.steps=4000",
        "--config.run.checkpoint_every=4000",
        f"--config.data.cache={tmp_path / 'data'}",
        "--config.run.progress=False",
    ]
    process = launch(flags, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    deadline = time.time() + 120
    while not (file.exists() and len(file.read_text().splitlines()) > 20):
        assert process.poll() is None and time.time() < deadline, "training ended or did not start"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    saved = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert steps_in(tmp_path / "run") == list(range(1, saved + 1))
    assert 20 < saved < 4000


def test_zero_means_never(tmp_path, uninterrupted, monkeypatch):
    """Checks that the run only saves at its end, logs nothing, and still writes its losses now and then."""
    config = debug_config(uninterrupted.parent, steps=5)
    config.run.update(log_every=0, checkpoint_every=0, sample_every=0, validate_every=0, evaluate_every=0)
    monkeypatch.setattr(loop, "UNLOGGED_STEPS", 2)
    saves, logs = [], []
    save, flush = Checkpoints.save, Metrics.flush

    def noted_save(self, step, *rest):
        saves.append(step)
        save(self, step, *rest)

    def noted_flush(self, *args, log, **options):
        logs.append(log)
        return flush(self, *args, log=log, **options)

    monkeypatch.setattr(Checkpoints, "save", noted_save)
    monkeypatch.setattr(Metrics, "flush", noted_flush)
    monkeypatch.setattr(Metrics, "scalar", lambda *args: pytest.fail(f"logs {args[1:]}"))
    folder = train(config, tmp_path / "run")
    assert saves == [5] and logs == [False, False, False] and steps_in(tmp_path / "run") == [1, 2, 3, 4, 5]
    assert not folder.validation.exists() and list(folder.samples.iterdir()) == []


@pytest.mark.parametrize("moment", ["add", "flush"])
def test_a_signal_at_any_moment_of_a_step_saves(tmp_path, monkeypatch, moment):
    """Sends SIGTERM before and after the loop checks for a stop: no step is lost in either case."""
    config = debug_config(tmp_path, steps=20)
    config.run.update(log_every=1, checkpoint_every=1000)
    call, calls = getattr(loop.Metrics, moment), []

    def signalled(self, *args, **options):
        calls.append(args)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGTERM)
        return call(self, *args, **options)

    monkeypatch.setattr(loop.Metrics, moment, signalled)
    with pytest.raises(loop.Stopped, match="saved"):
        train(config, tmp_path / "run")
    expected = 7 if moment == "add" else 8
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() == expected
    assert steps_in(tmp_path / "run") == list(range(1, expected + 1))


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path, uninterrupted):
    config = debug_config(uninterrupted.parent)
    config.optimizer.update(learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"at step \d+ .*learning_rate"):
        train(config, tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() is None


def test_what_defines_a_run_may_not_differ_on_resume(uninterrupted):
    config = debug_config(uninterrupted.parent)
    config.run.log_every = 1
    train(config, uninterrupted)
    config.seed = 5
    with pytest.raises(ValueError, match=r"config.seed: was 1, now 5"):
        train(config, uninterrupted)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(path="nowhere"), "nowhere is not a folder"),
        (dict(path="procedural:comet"), "comet is unknown: use one of procedural:maze"),
        (dict(frames=1), "config.data.frames is 1, this experiment needs 2"),
    ],
)
def test_a_mistake_in_the_data_begins_nothing(tmp_path, change, message):
    """Checks that no workdir is left, which would refuse the corrected command as another config."""
    config = debug_config(tmp_path / "cache")
    config.data.update(change)
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_the_data_that_it_began_with(uninterrupted, tmp_path):
    """Checks that a run is refused when the files of its data set have changed, although the path is equal."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "data.json").read_text())["key"]
    assert len(noted) == 12
    (tmp_path / "run" / "data.json").write_text('{"key": "another"}')
    config = debug_config(uninterrupted.parent)
    message = (
        f"was trained on data with key another, but config.data now has key {noted}: files or captions have changed"
    )
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")


def test_a_folder_with_checkpoints_but_no_config_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="no config.json"):
        Workdir.open(tmp_path, debug_config(tmp_path))


# --- the step -------------------------------------------------------------------------------------


def one_step(devices, batch_size=8):
    experiment = assemble(debug_config(None))
    mesh = meshes.make_mesh(devices=jax.devices()[:devices])
    video = np.random.default_rng(0).integers(0, 256, (batch_size, 2, 16, 16, 3), dtype=np.uint8)
    batch = meshes.put_batch(
        Batch(video, np.ones(batch_size, np.float32), np.zeros(batch_size, np.float32)), mesh, batch_size
    )
    state = create(jax.random.key(0), experiment.network, optax.sgd(1.0), ema=True)
    state = jax.device_put(state, meshes.replicated(mesh))
    experiment = dataclasses.replace(experiment, optimizer=optax.sgd(1.0))
    step = jax.jit(lambda s, b: train_step(s, b, jax.random.key(1), experiment=experiment, ema=0.9))
    return step(state, batch)


def test_four_devices_equal_one():
    (one, metrics_one), (four, metrics_four) = one_step(1), one_step(4)
    np.testing.assert_allclose(metrics_one["loss"], metrics_four["loss"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        jax.device_get(one.params),
        jax.device_get(four.params),
    )


def test_ema_follows_and_steps_count():
    state, _ = one_step(1)
    assert int(state.step) == 1
    moved = jax.tree.map(lambda e, p: np.abs(e - p).max(), state.ema, state.params)
    assert max(jax.tree.leaves(moved)) > 0


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match=r"batch_size 6 is not a multiple of the 4 devices \(data 4 x fsdp 1\): use 8"):
        meshes.check_batch(6, meshes.make_mesh())


def test_optimal_pairs_and_microbatches_do_not_go_together(tmp_path):
    config = debug_config(tmp_path)
    config.coupling, config.run.microbatches, config.train.batch_size = "minibatch_ot", 2, 8
    with pytest.raises(ValueError, match="pairs the rows of a whole batch, which config.run.microbatches=2 splits"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_parameters_are_merged_and_not_trained():
    merged = merge({"a": {"x": 1}}, {"a": {"y": 2}, "b": 3})
    assert merged == {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge({}, {"b": 3}) == {"b": 3}


@pytest.mark.parametrize(
    "objective", ["biflow", *(pytest.param(name, marks=pytest.mark.integration) for name in ("flow", "condiff"))]
)
def test_train_step_flops_within_three_percent_of_the_analytic_count(objective):
    """Counts a step as three forward passes of matrix products: one forward, two backward."""
    config = debug_config(None)
    config.objective = objective
    config.network.update(width=384, depth=4, heads=6, patch=(1, 2, 2))
    experiment = assemble(config)
    batch = 4
    state = jax.eval_shape(
        lambda key: create(key, experiment.network, experiment.optimizer, ema=False), jax.random.key(0)
    )
    arrays = Batch(
        jax.ShapeDtypeStruct((batch, 2, 32, 32, 3), jnp.uint8), *[jax.ShapeDtypeStruct((batch,), jnp.float32)] * 2
    )
    step = jax.jit(lambda s, b: train_step(s, b, jax.random.key(1), experiment=experiment, ema=0.0))
    counted = step.lower(state, arrays).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(3 * batch * forward_flops(experiment.network.config, (1, 32, 32)), rel=0.03)


def test_metrics_are_written_before_a_bad_step_is_reported(tmp_path):
    folder = Workdir(tmp_path)
    metrics = Metrics(folder, 0, tensorboard=False)
    for step, loss in ((1, 0.5), (2, float("nan")), (3, 0.1)):
        metrics.add(step, {"loss": jnp.float32(loss)})
    with pytest.raises(FloatingPointError, match="nan at step 2"):
        metrics.flush()
    assert steps_in(tmp_path) == [1]


def test_metrics_of_the_newest_steps_can_wait(tmp_path):
    metrics = Metrics(Workdir(tmp_path), 0, tensorboard=False)
    for step, loss in ((1, 0.5), (2, 0.25), (3, 0.125)):
        metrics.add(step, {"loss": jnp.float32(loss)})
    assert metrics.flush(behind=1) == 0.25 and metrics.flushed == 2 and steps_in(tmp_path) == [1, 2]
    assert metrics.flush(behind=1) == 0.25 and metrics.flushed == 0
    assert metrics.flush() == 0.125 and steps_in(tmp_path) == [1, 2, 3]


def test_a_failed_solve_of_a_preview_or_an_evaluation_does_not_end_training(tmp_path, monkeypatch, caplog):
    def fail(run, data):
        raise SolveError("frame 1: the solve failed")

    config = debug_config(tmp_path, steps=2)
    config.run.update(sample_every=1, evaluate_every=1)
    method = dataclasses.replace(method_of(config), preview=fail, evaluate=fail)
    experiment = dataclasses.replace(assemble(config), method=method)
    monkeypatch.setattr(loop, "assemble", lambda config: experiment)
    folder = loop.train(config, tmp_path / "run")
    assert [step for step, _ in folder.losses()] == [1, 2] and folder.has_checkpoint
    assert not list(folder.samples.iterdir())
    assert "no preview sheet after step 2" in caplog.text and "no evaluation after step 2" in caplog.text
