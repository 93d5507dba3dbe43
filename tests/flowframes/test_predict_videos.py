"""Tests of `jvflow sample` and `jvflow evaluate` on runs of FlowFrames."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from conftest import load_config

from jvflow.commands import evaluate, sample
from jvflow.flow.solver import SolveError, Solver
from jvflow.flowframes.evaluate import pairs
from jvflow.flowframes.sample import ChunkSampler
from jvflow.load import load, run_dataset
from jvflow.method import SampleRequest
from jvflow.training.loop import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a function that trains a run of an objective when it is first called with it."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def make(objective="flowframes"):
        config = load_config("flowframes/procedural.py", "debug")
        config.data.cache, config.objective = str(folder / "data"), objective
        config.chunk.frames, config.inversion.rho, config.train.steps = (4, 8), 0.0, 4
        config.run.update(progress=False, tensorboard=False)
        train(config, folder / objective)
        return folder / objective

    return make


@pytest.mark.integration
@pytest.mark.parametrize("objective", ["flowframes", "conventional", "text_to_video"])
def test_samples_and_figures(objective, trained, tmp_path):
    trained = trained(objective)
    after = load(trained).experiment.sampler.follows
    record = sample(trained, tmp_path / "out", count=2)
    assert [entry["frames"] for entry in record["samples"]] == [8 * (1 + after)] * 2
    assert record["samples"][0]["nfe_per_frame"] == 5 / 8
    record = sample(trained, tmp_path / "long", count=2, observed=4, length=14)
    assert record["samples"][0]["frames"] == 14 and record["protocol"]["observed"] == 4
    assert [(tmp_path / "long" / f"sample_00{i}.mp4").exists() for i in (0, 1)] == [True, True]
    figures = evaluate(trained)
    (name,) = [key for key in figures if key not in ("protocol", "legend")]
    assert name == "frames_4" and set(figures[name]) == {"nfe_2", "controls", "straightness"}
    assert figures[name]["nfe_2"]["nfe"] == 2
    controls = figures[name]["controls"]
    assert controls["repeat_last"]["motion"] == 0 and abs(controls["repeat_observed"]["motion"] - 1) < 0.3


@pytest.mark.integration
def test_evaluating_at_other_lengths_and_chunks(trained):
    figures = evaluate(trained(), overrides=dict(frames=(4, 8), chunks=2, steps=(2,), starts=1))
    assert {key for key in figures if key not in ("protocol", "legend")} == {"frames_4", "frames_8"}
    assert figures["frames_8"]["nfe_2"]["nfe"] == 4  # two chunks
    with pytest.raises(ValueError, match="16 observed frames and 32 after them are longer than the clips, 32 frames"):
        evaluate(trained(), overrides=dict(frames=(16,), chunks=2))


@pytest.mark.integration
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(fps=48.0), "at the rate of its data, and chunks without end: leave out fps"),
        (dict(count=9), "4: use --count=4"),
        (dict(observed=64), "64 frames"),
    ],
)
def test_mistakes_of_a_sample(trained, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sample(trained(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class Failing(ChunkSampler):
    def solver_for(self, shape, steps=None):
        return Solver(max_steps=1)  # the first step only reaches t = 0.1


@pytest.mark.integration
def test_a_failed_solve_leaves_no_video(trained, tmp_path):
    run = load(trained())
    sampler = run.experiment.sampler
    failing = Failing(**{field.name: getattr(sampler, field.name) for field in fields(sampler)})
    run = replace(run, experiment=replace(run.experiment, sampler=failing))
    request = SampleRequest(data=lambda: run_dataset(run), count=2)
    with pytest.raises(
        SolveError, match=r"^chunk 1: .* for 2 of 2 .* max_steps was reached by row 0 at t = 0\.1 after 1 steps"
    ):
        run.experiment.method.sample(run, tmp_path / "out", request)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SolveError, match="^chunk 1: the solve failed"):
        run.experiment.method.preview(run, run_dataset(run))


def test_pairs_hold_observed_frames_and_the_frames_after_them():
    real = np.arange(2 * 20, dtype=np.uint8).reshape(2, 20, 1, 1, 1)
    observed, future, clip = pairs(real, 4, 8, 3)
    assert observed.shape[:2] == (6, 4) and future.shape[:2] == (6, 8) and clip.tolist() == [0, 1] * 3
    np.testing.assert_array_equal(future[:, 0] - observed[:, -1], 1)
    assert observed[:, 0, 0, 0, 0].tolist() == [0, 20, 4, 24, 8, 28]
