"""Tests of `jvflow sample` and `jvflow evaluate` on runs of Bi-flow."""

import itertools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import debug_config
from legends import unexplained

from jvflow import commands
from jvflow.biflow import evaluate, sample
from jvflow.biflow.sample import stream, stream_frames
from jvflow.data import dataset, pipeline, video
from jvflow.experiment import assemble
from jvflow.flow.solver import SolveError, Solver
from jvflow.load import load, run_dataset
from jvflow.method import SampleRequest
from jvflow.networks import as_field
from jvflow.parallel import hlo
from jvflow.parallel import mesh as meshes
from jvflow.report import videos
from jvflow.training.loop import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    train(debug_config(folder), folder / "run")
    return folder / "run"


def first_frames(run, count, path=None):
    """Returns the frames that `count` streams of a run start from."""
    return pipeline.start_frames(run.config.data, lambda: run_dataset(run), count, run.experiment.start_frames, path)


def next_frames(run, first, key, **options):
    """Returns the frame after `first` in each stream, with the streams split over the devices."""
    with jax.set_mesh(meshes.local_mesh()):
        return next(stream_frames(run, first, key, **options))[0]


def test_sample_writes_videos_a_sheet_and_a_record(workdir, tmp_path):
    record = commands.sample(workdir, tmp_path, count=2, length=12, seed=5)
    assert record == json.loads((tmp_path / "samples.json").read_text())
    assert [s["file"] for s in record["samples"]] == ["sample_000.mp4", "sample_001.mp4"]
    for entry in record["samples"]:
        frames = [frame for _, frame in video.frames(tmp_path / entry["file"])]
        assert len(frames) == entry["frames"] == 12
        assert entry["nfe_per_frame"] >= 2 and entry["seconds_per_frame"] > 0
    assert record["protocol"]["curve"] == "joint" and record["protocol"]["step"] == 20
    assert video.read_image(tmp_path / "sheet.png").shape[0] > 2 * 96


@pytest.mark.integration
def test_streams_are_split_over_the_devices_and_equal_those_of_one(workdir, monkeypatch):
    """Checks that each of four devices computes only its row, and that one device gives the same rows."""
    run = load(workdir)
    first = first_frames(run, 4)
    split = next_frames(run, first, jax.random.key(0))
    field, settings = as_field(run.experiment.network, run.params), vars(run.experiment.sampler)
    with jax.set_mesh(meshes.local_mesh()):
        start = run.experiment.codec.encode(run.experiment.codec.params, first).mean
        frame = jax.jit(lambda field, start, key: next(stream(field, start, key, **settings))[0])
        made = frame(field, start, jax.random.key(0))
        text = frame.lower(field, start, jax.random.key(0)).compile().as_text()
    assert [shard.data.shape[0] for shard in made.addressable_shards] == [1] * 4
    width = run.config.network.width
    assert any(s[0] == 1 and width in s[1:] for s in hlo.shapes(text) if len(s) > 2)
    assert not [s for s in hlo.shapes(text) if len(s) > 2 and s[0] == 4 and width in s[1:]]
    monkeypatch.setattr(meshes, "local_mesh", lambda: meshes.make_mesh(devices=jax.devices()[:1]))
    alone = next_frames(load(workdir), first, jax.random.key(0))
    assert abs(split.astype(int) - alone).max() <= 1
    some = next_frames(load(workdir), first[2:], jax.random.key(0), rows=np.array([2, 3]))
    assert abs(alone[2:].astype(int) - some).max() <= 1


def test_streams_start_at_held_out_frames_or_at_the_given_one(workdir, tmp_path):
    run = load(workdir)
    held_out = pipeline.clips(run_dataset(run), "test", count=2, frames=1)
    np.testing.assert_array_equal(first_frames(run, 2), held_out)
    image = np.full((40, 60, 3), 200, np.uint8)
    videos.write_png(tmp_path / "first.png", image)
    given = first_frames(run, 3, tmp_path / "first.png")
    assert given.shape == (3, 1, 16, 16, 3) and np.all(given == 200)
    videos.write(tmp_path / "first.mp4", np.repeat(image[None], 4, 0), 8)
    assert abs(first_frames(run, 1, tmp_path / "first.mp4").astype(int) - 200).max() < 6
    (tmp_path / "images").mkdir()
    for number in (10, 9):
        videos.write_png(tmp_path / "images" / f"{number}.png", np.full((40, 60, 3), 20 * number, np.uint8))
    assert (first_frames(run, 1, tmp_path / "images") == 180).all()


@pytest.mark.integration
def test_the_seed_determines_the_stream_and_ema_differs_from_the_raw_parameters(workdir):
    take = lambda run, seed: next_frames(run, first_frames(run, 2), jax.random.key(seed))
    average, plain = load(workdir), load(workdir, ema=False)
    np.testing.assert_array_equal(take(average, 0), take(load(workdir, ema=True), 0))
    assert not np.array_equal(take(average, 0), take(average, 1))
    assert not np.array_equal(take(average, 0), take(plain, 0))
    np.testing.assert_array_equal(take(load(workdir, step=20), 0), take(average, 0))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(step=7), r"no checkpoint of step 7 .* use one of \[10, 20\]"),
        (dict(count=99), "--count=8"),
        (dict(count=0), "--count is 0: use a whole number of 1 or more"),
        (dict(length=0), "--frames is 0: use a whole number of 1 or more"),
        (dict(seed=2**32), "--seed is 4294967296: use a whole number from 0 to 4294967295"),
        (
            dict(sampling={"epsilom": 0.1}),
            "config.sample has no 'epsilom': use one of atol, context_noise, controller, curve, epsilon",
        ),
        (dict(sampling={"epsilon": "high"}), "config.sample.epsilon is 'high': use a number of 0 or more"),
        (
            dict(sampling={"curve": "forward"}),
            "config.sample.curve is 'forward': use one of plain, joint, backward, correcting",
        ),
        (dict(sampling={"epsilon": -0.1}), "config.sample.epsilon is -0.1: use a number of 0 or more"),
    ],
)
def test_errors_leave_nothing(workdir, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        commands.sample(workdir, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def with_solver(run, solver):
    experiment = run.experiment
    return replace(run, experiment=replace(experiment, sampler=replace(experiment.sampler, solver=solver)))


@pytest.mark.integration
def test_a_failed_solve_leaves_no_video(workdir, tmp_path):
    run = with_solver(load(workdir), Solver(max_steps=1))  # the first step only reaches t = 0.1
    request = SampleRequest(data=lambda: run_dataset(run), count=2, length=6)
    message = r"^frame 1 of the stream: .* max_steps was reached by row 0 at t = 0\.1 after 1 steps"
    with pytest.raises(SolveError, match=message):
        run.experiment.method.sample(run, tmp_path / "out", request)
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(SolveError, match=message):
        run.experiment.method.evaluate(run, run_dataset(run))


@pytest.mark.integration
def test_a_stream_that_fails_late_leaves_no_video(workdir, tmp_path, monkeypatch):
    """Fails after so many frames that part of the video is already on disk."""
    run = with_solver(load(workdir), Solver("euler", steps=1))
    real, number = sample.next_frame, itertools.count(1)

    def fails_late(*args, **options):
        solution = real(*args, **options)
        return solution._replace(ok=solution.ok & (next(number) < 100))

    monkeypatch.setattr(sample, "next_frame", fails_late)
    request = SampleRequest(data=lambda: run_dataset(run), count=1, length=200)
    with pytest.raises(SolveError, match="^frame 100 of the stream: the solve failed for 1 of 1 samples"):
        run.experiment.method.sample(run, tmp_path / "out", request)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.integration
def test_sampling_is_replaced_and_recorded(workdir, tmp_path):
    sampling = dict(curve="backward", epsilon=0.05, method="euler", steps=3)
    record = commands.sample(workdir, tmp_path, count=2, length=4, sampling=sampling)
    protocol = record["protocol"]
    assert tuple(protocol[k] for k in ("curve", "epsilon", "method", "fixed_steps")) == ("backward", 0.05, "euler", 3)
    assert [s["nfe_per_frame"] for s in record["samples"]] == [3, 3]
    assert "truth" in commands.evaluate(workdir, overrides={"videos": 2, "frames": 80}, sampling=sampling)
    assert "truth" not in commands.evaluate(
        workdir, overrides={"videos": 2, "frames": 80}, sampling=sampling | {"curve": "correcting"}
    )
    take = lambda run: next_frames(run, first_frames(run, 2), jax.random.key(0))
    assert not np.array_equal(take(load(workdir, sampling=sampling)), take(load(workdir)))


def test_flow_has_no_noise_level_to_replace(tmp_path):
    config = debug_config(tmp_path, steps=1)
    config.objective = "flow"
    train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="a run of flow has no noise level"):
        load(tmp_path / "run", sampling={"curve": "backward"})
    assert load(tmp_path / "run", sampling={"rtol": 1e-3}).experiment.sampler.solver.rtol == 1e-3


@pytest.mark.integration
def test_a_run_with_two_known_frames_starts_from_two(tmp_path):
    config = debug_config(tmp_path, steps=2)
    config.sample.update(method="euler", steps=2)
    config.context.update(frames=2, noise=0.3)
    config.sample.context_noise = 0.1
    config.run.update(sample_every=2, sample_frames=3)
    train(config, tmp_path / "run")
    run = load(tmp_path / "run")
    held_out = pipeline.clips(run_dataset(run), "test", count=2, frames=2)
    np.testing.assert_array_equal(first_frames(run, 2), held_out)
    record = commands.sample(tmp_path / "run", tmp_path / "out", count=2, length=12)
    assert len([1 for _ in video.frames(tmp_path / "out" / "sample_000.mp4")]) == record["samples"][0]["frames"] == 12
    assert (record["protocol"]["past_frames"], record["protocol"]["context_noise"]) == (2, 0.1)
    figures = commands.evaluate(tmp_path / "run", overrides={"videos": 2, "frames": 80})
    assert figures["truth"]["psnr"][1] < 60  # frame 1 is the first generated one, not a given one
    image = np.full((40, 60, 3), 200, np.uint8)
    videos.write_png(tmp_path / "first.png", image)
    with pytest.raises(
        ValueError, match=r"first.png has 1 frames at 8.0 fps, a stream of this run starts from 2: give a longer video"
    ):
        commands.sample(tmp_path / "run", tmp_path / "no", first_frame=tmp_path / "first.png")
    with pytest.raises(ValueError, match="frames is 1, and a stream of this run starts from 2"):
        commands.sample(tmp_path / "run", tmp_path / "no", length=1)
    assert not (tmp_path / "no").exists()
    videos.write(tmp_path / "first.mp4", np.stack([image, image // 2, image // 4]), config.data.fps)
    given = first_frames(run, 1, tmp_path / "first.mp4")
    assert given.shape == (1, 2, 16, 16, 3) and abs(given.mean((0, 2, 3, 4)) - [200, 100]).max() < 6


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="not a workdir"):
        load(tmp_path)


# --- evaluation -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(workdir):
    run = load(workdir)
    settings = run.config.evaluate.copy_and_resolve_references()
    settings.dimensions = 8
    return evaluate.Reference.from_dataset(settings, run_dataset(run))


def test_controls_are_in_order(workdir, reference):
    controls = evaluate.controls(reference, run_dataset(load(workdir)))
    assert controls["real_vs_real"] < controls["frozen"] < controls["noise"]


def test_clips_of_one_window_give_the_controls_too(tmp_path):
    """Checks clips that have the length of a window: the real-against-real control then takes more clips."""
    config = debug_config(tmp_path)
    config.data.update(frames=32, clips=dict(train=16, test=8))
    config.evaluate.update(videos=2, dimensions=4)
    data = dataset.prepare(config.data, tmp_path)
    reference = evaluate.Reference.from_dataset(config.evaluate, data)
    controls = evaluate.controls(reference, data)
    assert controls["real_vs_real"] < controls["frozen"] < controls["noise"]
    config.evaluate.frames = 64
    with pytest.raises(ValueError, match="4 windows need 80 frames, there are 64"):
        evaluate.Reference.from_dataset(config.evaluate, data)


def test_motion_is_relative_to_real_video(workdir, reference):
    real = pipeline.clips(run_dataset(load(workdir)), "test")
    assert reference.drift(real)["motion_first_window"] == pytest.approx(1.0, abs=0.05)
    frozen = np.repeat(real[:, :1], 80, axis=1)
    assert reference.drift(frozen)["motion_last_window"] == 0
    with pytest.raises(ValueError, match="4 windows need 80 frames, there are 64"):
        reference.drift(real[:, :64])


def test_a_stream_that_dies_late_shows_in_the_last_window(workdir, reference):
    real = pipeline.clips(run_dataset(load(workdir)), "test")
    dying = np.concatenate([real, np.repeat(real[:, -1:], 96, axis=1)], axis=1)
    drift = reference.drift(dying)
    assert drift["distance_last_window"] > 3 * drift["distance_first_window"]
    assert drift["motion_last_window"] < 0.2 < 0.9 < drift["motion_first_window"]
    assert len(drift["motion"]) == 10 and len(drift["distance"]) == 7


def test_truth_compares_frame_by_frame():
    real = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 3), dtype=np.uint8)
    generated = real.copy()
    generated[:, 4] = 255 - generated[:, 4]
    psnr = evaluate.frame_errors(generated, real)["psnr"]
    assert list(psnr) == [1, 2, 4] and psnr[1] == np.inf and psnr[4] < 10


@pytest.mark.integration
def test_evaluation_is_a_record_with_its_protocol(workdir):
    record = commands.evaluate(workdir, overrides={"videos": 2, "frames": 80})
    assert unexplained(record) == []
    assert record["protocol"]["videos"] == 2 and record["protocol"]["features"] == "window_pca"
    assert record["nfe_batch"] >= record["nfe_per_frame"] >= 2 and 1 in record["truth"]["psnr"]
    json.dumps(record)
    with pytest.raises(ValueError, match="config.evaluate has no 'video': use one of batch, dimensions"):
        commands.evaluate(workdir, overrides={"video": 2})


@pytest.mark.integration
def test_a_run_trained_in_bfloat16_is_sampled_in_float32(tmp_path):
    """Checks that `dtype` changes the computation alone: a float32 network gives the same with the run's parameters."""
    config = debug_config(tmp_path, steps=1)
    config.network.dtype = "bfloat16"
    train(config, tmp_path / "run")
    half, full = load(tmp_path / "run"), load(tmp_path / "run", dtype="float32")
    assert (half.experiment.network.config.dtype, full.experiment.network.config.dtype) == ("bfloat16", "float32")
    assert half.protocol["parameters"] == full.protocol["parameters"] and full.protocol["computed_in"] == "float32"
    config.network.dtype = "float32"
    params = jax.tree.map(lambda a: jax.random.normal(jax.random.key(1), a.shape), full.params)
    x, s = jax.random.normal(jax.random.key(0), (1, 1, 16, 16, 3)), (jnp.full(1, 0.3), jnp.full(1, 0.1))
    velocity = lambda experiment: np.asarray(as_field(experiment.network, params)(x, s)[0])
    np.testing.assert_array_equal(velocity(full.experiment), velocity(assemble(config)))
    assert np.abs(velocity(half.experiment) - velocity(full.experiment)).max() > 1e-3
    record = commands.sample(tmp_path / "run", tmp_path / "out", count=1, length=2, dtype="float32")
    assert record["protocol"]["computed_in"] == "float32"
    with pytest.raises(ValueError, match="config.network.dtype is 'float8': use one of float32, bfloat16"):
        load(tmp_path / "run", dtype="float8")
