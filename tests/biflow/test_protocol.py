"""Tests of the paper's protocol of an evaluation: random starts, a search on other draws, windows by themselves."""

import json

import numpy as np
import pytest
from conftest import debug_config
from legends import unexplained

from jvflow import commands
from jvflow.biflow import protocol
from jvflow.data import pipeline
from jvflow.load import load, run_dataset
from jvflow.training.loop import train

SMALL_SIZE = dict(videos=4, frames=24, window=8, stride=8, pooled=1, batch=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for objective in ("flow", "biflow"):
        config = debug_config(root, steps=2)
        config.objective = objective
        train(config, root / objective)
    return root


def test_the_paper_preset_is_the_papers():
    paper = protocol.PRESETS["paper"]
    assert paper.entries == dict(videos=128, frames=512, window=32, stride=16, pooled=1)
    assert paper.starts == "random" and paper.epsilons == (0.0, 0.1, 0.2, 0.3)
    assert paper.solvers["equal_accuracy"]["controller"] == "torchode" and paper.solvers["equal_budget"]["steps"] == 20


@pytest.mark.integration
def test_an_evaluation_has_both_solvers_and_a_trend(runs):
    record = commands.evaluate(runs / "flow", overrides=SMALL_SIZE, preset="paper", fvd="")
    assert unexplained(record) == []
    assert record["protocol"]["preset"] == "paper" and record["protocol"]["starts"] == "random"
    assert record["protocol"]["changed"]["videos"] == [128, 4] and record["protocol"]["adapted"] == {}
    assert "epsilon" not in record["protocol"]
    budget, accuracy = record["equal_budget"], record["equal_accuracy"]
    assert budget["nfe_per_frame"] == budget["nfe_batch"] == 20
    assert accuracy["nfe_batch"] >= accuracy["nfe_per_frame"] >= 4  # two of them choose the first step
    for figures in (budget, accuracy):
        assert [start for start, _ in figures["distance"]] == [0, 8, 16]
        assert figures["epsilon"] == 0.0 and figures["search"] == []
    assert record["controls"].keys() == {"real_vs_real", "frozen", "noise"}
    json.dumps(record)


@pytest.mark.integration
def test_each_solver_has_its_own_best_level_of_another_draw(runs, monkeypatch):
    measured = []

    def fake(run, reference, data, draw, scorer=None):
        sampler = run.experiment.sampler
        measured.append((sampler.solver.method, sampler.epsilon, draw))
        best = 0.3 if sampler.solver.method == "heun" else 0.1
        distance = abs(sampler.epsilon - best) + 5 * (draw == protocol.REPORTED)
        return dict(nfe_batch=8.0, distance_mean=distance, trend=dict(slope=0.0))

    monkeypatch.setattr(protocol, "measure", fake)
    monkeypatch.setattr(protocol, "controls", lambda *rest: {})
    record = commands.evaluate(runs / "biflow", overrides=SMALL_SIZE, preset="paper", fvd="")
    levels = [0.0, 0.1, 0.2, 0.3]
    expected = [("heun", level, protocol.SEARCH) for level in levels] + [("heun", 0.3, protocol.REPORTED)]
    expected += [("euler", level, protocol.SEARCH) for level in levels] + [("euler", 0.1, protocol.REPORTED)]
    assert measured == expected
    assert (record["equal_accuracy"]["epsilon"], record["equal_budget"]["epsilon"]) == (0.3, 0.1)
    assert record["equal_accuracy"]["distance_mean"] == 5.0  # not the lower one of the search
    assert [each["epsilon"] for each in record["equal_budget"]["search"]] == levels


@pytest.mark.integration
def test_starts_are_frames_of_the_test_set_and_differ_between_draws(runs):
    data = run_dataset(load(runs / "biflow"))
    clips = pipeline.clips(data, "test")
    starts, again, other = (protocol.random_starts(data, "test", 12, 2, seed) for seed in ((0, 0), (0, 0), (0, 1)))
    np.testing.assert_array_equal(starts, again)
    assert starts.shape[:2] == (12, 2) and not np.array_equal(starts, other)
    pairs = {clip[i : i + 2].tobytes(): i for clip in clips for i in range(clips.shape[1] - 1)}
    found = [pairs[start.tobytes()] for start in starts]
    assert len(set(found)) > 3  # more videos than clips, and not their first frames


def test_trend_is_a_line():
    line = protocol.trend([(16 * i, 3.0 + 0.5 * 16 * i) for i in range(5)])
    assert line == pytest.approx(dict(slope=0.5, first=3.0, last=35.0))
    assert protocol.trend([(0, 2.0)]) == dict(slope=0.0, first=2.0, last=2.0)


@pytest.mark.integration
def test_presets_are_named(runs):
    with pytest.raises(ValueError, match="--preset is 'papers': use one of small, paper"):
        commands.evaluate(runs / "biflow", preset="papers")
    with pytest.raises(ValueError, match="a window needs 400 frames"):
        commands.evaluate(runs / "biflow", preset="paper", overrides=dict(window=400, frames=512, pooled=1))
