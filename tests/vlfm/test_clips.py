"""VLFM runs from config to clips: sampling at any frame rate, evaluation, and baselines."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from einops import rearrange

from jvflow import commands
from jvflow.assembly import Latents
from jvflow.data import pipeline, video
from jvflow.experiment import assemble
from jvflow.flow.solver import SolveError, Solver
from jvflow.load import load, run_dataset
from jvflow.networks import as_field
from jvflow.parallel import processes
from jvflow.run import Run
from jvflow.training.loop import train
from jvflow.vlfm import evaluate, hippo
from jvflow.vlfm.exact import exact_field
from jvflow.vlfm.sample import generate_videos

pytestmark = pytest.mark.slow


def debug(folder, **changes):
    config = load_config("vlfm/procedural.py", "debug")
    config.data.cache = str(folder / "data")
    config.run.update(progress=False, tensorboard=False)
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    train(debug(folder, train=dict(steps=1)), folder / "run")  # no test needs more
    return folder / "run"


@pytest.fixture(scope="module")
def trained(workdir):
    return load(workdir)


@pytest.fixture(scope="module")
def data(trained):
    return run_dataset(trained)


@pytest.fixture(scope="module")
def exact(trained, data):
    """Returns the run with an exact field instead of a network; a caption selects the field of its own clip."""
    captions, real = pipeline.captions(data, "train"), pipeline.clips(data, "train")
    sampler, window = trained.experiment.sampler, trained.experiment.window
    path = sampler.path
    latents = trained.experiment.codec.encode(None, jnp.asarray(real[:, : window.span : window.every])).mean
    grouped = lambda tokens: rearrange(jnp.asarray(tokens, jnp.float32), "b (n group) -> b n group", group=4)
    tokens = grouped(trained.experiment.text.tokenize(captions)[0])

    def apply(params, x, s, condition):
        own = jnp.argmin(jnp.abs(tokens[None] - condition.text[:, None]).sum((2, 3)), axis=1)
        one = lambda x, t, i: tuple(v[0] for v in exact_field(path, latents[i][None])(x[None], (t[None],)))
        return jax.vmap(one)(x, s[0], own)

    network = trained.experiment.network._replace(apply=apply)
    encoder = dataclasses.replace(trained.experiment.text, init=None, apply=lambda params, tokens: grouped(tokens))
    sampler = dataclasses.replace(sampler, options=sampler.options | dict(solver=Solver(method="heun", steps=300)))
    experiment = dataclasses.replace(trained.experiment, network=network, text=encoder, sampler=sampler)
    return dataclasses.replace(trained, experiment=experiment)


@pytest.mark.integration
def test_the_exact_field_of_a_run_gives_the_mean_path(exact, data):
    """Checks from config to decoded frames that a perfect network is as good as mu, at frames and between them."""
    figures = commands.evaluate_run(exact, data)
    for part in ("frames", "between"):
        table = figures[part]
        assert table["generated"]["against_real"] == pytest.approx(table["mean"]["against_real"], abs=0.5)
    assert figures["frames"]["mean"]["against_codec"] > 40
    assert figures["between"]["mean"]["against_codec"] > figures["between"]["repeat_last"]["against_codec"] + 3
    text = figures["text"]
    assert text["clips"] == text["different_captions"] == text["nearest_guidance_1"] == text["swapped_guidance_1"] == 4


@pytest.mark.integration
def test_an_untrained_run_is_not_taken_for_a_good_one(trained, data):
    figures = commands.evaluate_run(trained, data)
    assert figures["frames"]["generated"]["against_codec"] < 25
    assert figures["text"]["nearest_guidance_1"] < 4
    assert set(figures["beyond"]) == {"second_1"}  # data has 24 frames at 48 fps, 11 of them inside the clip


def test_a_clip_counts_if_it_is_nearest_to_any_real_clip_of_its_caption(trained, monkeypatch):
    window = trained.experiment.window
    real = np.stack([np.full((window.span, 2, 2, 3), level, np.uint8) for level in (0, 80, 160)])
    shown = {"a walk": 1, "a swim": 0}
    made = lambda captions: real[[shown[caption] for caption in captions], : window.span : window.every]
    monkeypatch.setattr(evaluate, "generate_videos", lambda run, times, captions, **options: (made(captions), 0, 0))
    figures = evaluate.text_figures(trained, real, ["a walk", "a walk", "a swim"])
    assert figures["different_captions"] == 2 and figures["nearest_guidance_1"] == figures["swapped_guidance_1"] == 2


def test_baselines_without_training_are_their_formulas(trained):
    window, position = trained.experiment.window, trained.experiment.sampler.path.position
    frames = np.random.default_rng(0).normal(size=(2, 24, 3, 4, 1)).astype(np.float32)
    known, made = frames[:, :11:2], evaluate._untrained_baselines(trained, frames)
    np.testing.assert_allclose(made["blend_latents"][:, 3], (known[:, 1] + known[:, 2]) / 2, atol=1e-6)
    np.testing.assert_allclose(made["blend_latents"][:, 4], known[:, 2], atol=1e-6)
    np.testing.assert_array_equal(made["repeat_last"][:, 3], known[:, 1])
    np.testing.assert_array_equal(made["repeat_last"][:, 23], known[:, 5])
    H = hippo.project(np.moveaxis(known, 1, 0), position.order)
    np.testing.assert_allclose(made["mean"][:, 7], hippo.reconstruct(H, np.array([4.5 / window.frames]))[0], atol=1e-3)
    np.testing.assert_allclose(np.diff(made["line"], 2, axis=1), 0, atol=1e-4)
    assert np.abs(made["mean"]).max() <= evaluate.FAR and np.isfinite(made["mean"]).all()


def test_clips_are_read_at_any_rate_from_their_first_frame_on(trained):
    rate, read_times = 24.0, trained.experiment.sampler.read_times
    np.testing.assert_allclose(read_times(), np.arange(1, 7) / rate)
    np.testing.assert_allclose(read_times(fps=48.0), np.arange(2, 13) / 48)
    np.testing.assert_allclose(read_times(fps=8.0), [1 / rate, 4 / rate])
    assert len(read_times(length=20, extrapolate=True)) == 20
    with pytest.raises(ValueError, match="use 6 or fewer, or extrapolate"):
        read_times(length=20)
    with pytest.raises(ValueError, match="above 0, got -1"):
        read_times(fps=-1.0)


@pytest.mark.integration
def test_sample_writes_a_clip_for_each_caption(workdir, data, tmp_path):
    record = commands.sample(
        workdir, tmp_path, captions=["a disc", "a square"], fps=48.0, count=1, seed=3, sampling=dict(guidance=2.0)
    )
    assert record == json.loads((tmp_path / "samples.json").read_text())
    assert [s["caption"] for s in record["samples"]] == ["a disc", "a square"]
    for entry in record["samples"]:
        frames = [frame for _, frame in video.frames(tmp_path / entry["file"])]
        assert (
            len(frames) == entry["frames"] == 11 and video.native_fps(tmp_path / entry["file"]) == entry["fps"] == 48.0
        )
        assert entry["nfe_per_frame"] > 1
    assert record["protocol"]["guidance"] == 2.0 and record["protocol"]["order"] == hippo.default_order(6) == 8
    of_training = commands.sample(workdir, tmp_path / "more", count=3)
    assert len(of_training["samples"]) == 3
    assert [s["caption"] for s in of_training["samples"]] == pipeline.captions(data, "train", count=3)


def test_a_caption_with_words_that_the_run_has_not_learned_is_warned_of(trained, data, caplog):
    warn = commands._warn_of_new_words
    known = pipeline.captions(data, "train")[0]
    pretrained = dataclasses.replace(trained.experiment, text=dataclasses.replace(trained.experiment.text, init=None))
    with caplog.at_level(logging.WARNING, "jvflow"):
        warn(trained, [])
        warn(trained, [known.upper()])
        warn(dataclasses.replace(trained, experiment=pretrained), ["a zebra"])
        assert not caplog.messages
        warn(trained, [known, "a zebra", "a yak"])
    (message,) = caplog.messages
    assert message.startswith("warning: no caption of training has 'zebra' of 'a zebra': the nearest one is '")


@pytest.mark.integration
def test_count_makes_several_videos_of_each_caption(workdir, tmp_path):
    record = commands.sample(workdir, tmp_path, captions=["a disc", "a square"], count=2)
    assert [s["caption"] for s in record["samples"]] == ["a disc", "a disc", "a square", "a square"]
    first, second = ([frame for _, frame in video.frames(tmp_path / s["file"])] for s in record["samples"][:2])
    assert np.abs(np.float32(first) - np.float32(second)).max() > 0


def test_a_first_frame_and_times_after_the_clip_are_refused(workdir, tmp_path):
    with pytest.raises(ValueError, match="starts from noise and takes no first frame"):
        commands.sample(workdir, tmp_path, first_frame="first.png")
    with pytest.raises(ValueError, match="use 6 or fewer"):
        commands.sample(workdir, tmp_path, length=9)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def failing(trained, monkeypatch):
    """Returns the run with a solver whose max_steps is too small."""
    sampler = trained.experiment.sampler
    options = sampler.options | dict(solver=Solver(rtol=1e-4, atol=1e-4, max_steps=40))
    experiment = dataclasses.replace(trained.experiment, sampler=dataclasses.replace(sampler, options=options))
    run = dataclasses.replace(trained, experiment=experiment)
    monkeypatch.setattr("jvflow.load.load", lambda *args, **options: run)
    return run


FAILED = (
    r"videos 0 to 1: a clip: the solve failed for 2 of 2 samples. max_steps was reached by row 0 at t = 0\.\d+ after"
)


@pytest.mark.integration
def test_a_failed_solve_is_not_shown(failing, workdir, data, tmp_path, monkeypatch):
    with pytest.raises(SolveError, match=FAILED):
        commands.sample(workdir, tmp_path / "out", captions=["a disc", "a square"])
    with pytest.raises(SolveError, match=FAILED):
        commands.evaluate(workdir, overrides=dict(clips=2))
    with pytest.raises(SolveError, match="videos 0 to 3"):
        failing.experiment.method.preview(failing, data)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(processes, "distributed_map", lambda count, make, what="": [make(count - 1)])
    with pytest.raises(SolveError, match="videos 2 to 2: a clip: the solve failed for 1 of 1 samples"):
        generate_videos(failing, failing.experiment.sampler.read_times(), ["a", "b", "c"], batch=2)


@pytest.mark.integration
def test_the_ablation_trains_and_is_read_without_a_solve(tmp_path):
    train(debug(tmp_path, objective="direct"), tmp_path / "run")
    figures = commands.evaluate(tmp_path / "run", overrides=dict(text_guidance=(1.0,)))
    assert figures["nfe_per_frame"] == 1.0 and "frames" in figures and "solver" not in figures["protocol"]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(prediction="noise"), "unknown prediction 'noise': use one of scaled_velocity, clean, velocity"),
        (dict(prediction="scaled_velocity"), "needs prediction 'clean', and the prediction is 'scaled_velocity'"),
        (dict(path=dict(velocity_scale=0.0)), "needs config.path.velocity_scale above 0, got 0.0"),
        (dict(path=dict(rule="forward_euler", order=8)), "diverges at order 8"),
        (dict(optimizer=dict(name="sgd")), "unknown optimizer 'sgd': use one of adamw, grams"),
        (dict(window=dict(frames=0)), "at least 1 frame"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        assemble(debug(tmp_path, **change))


def test_clips_from_anywhere_are_not_compared_frame_by_frame(workdir, tmp_path):
    config = debug(tmp_path, window=dict(anywhere=True))
    other = Run(config, assemble(config), load(workdir).params, Path(), 0)
    with pytest.raises(ValueError, match="config.window.anywhere"):
        commands.evaluate_run(other, Path())


@pytest.mark.parametrize("objective", ["vlfm", pytest.param("direct", marks=pytest.mark.integration)])
def test_captions_that_are_dropped_teach_nothing(tmp_path, objective):
    def gradient(dropout):
        config = debug(tmp_path, objective=objective, caption_dropout=dropout)
        experiment = assemble(config)
        rng = np.random.default_rng(0)  # adaLN-zero starts as the zero field
        shapes = jax.eval_shape(experiment.network.init, jax.random.key(0))
        params = jax.tree.map(lambda a: jnp.asarray(0.2 * rng.normal(size=a.shape), a.dtype), shapes)
        frames = jax.random.normal(jax.random.key(2), (4, 6, 16, 16, 3))
        tokens = experiment.text.tokenize(["one", "two", "three", "four"])

        def loss(params):
            condition = experiment.condition(params, *tokens, experiment.encoder_params)
            field, keys = as_field(experiment.network, params), jax.random.split(jax.random.key(3), 4)
            return experiment.loss(field, Latents(frames), condition, keys, jax.random.key(4))[0].mean()

        return float(jnp.abs(jax.jit(jax.grad(loss))(params)["text"]["embed"]["embedding"]).max())

    assert gradient(1.0) == 0 and gradient(0.0) > 0
