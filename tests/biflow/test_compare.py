"""Tests of `jvflow compare`: its evaluations, how it resumes, and the runs that it refuses to compare."""

import json

import numpy as np
import pytest
from conftest import debug_config
from legends import unexplained

from jvflow import commands
from jvflow.biflow import compare, evaluate
from jvflow.biflow.sample import CURVES
from jvflow.data import pipeline
from jvflow.load import load, run_dataset
from jvflow.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for objective in ("flow", "biflow"):
        config = debug_config(root, steps=2)
        config.objective = objective
        config.evaluate.update(videos=2, frames=80, batch=2)
        train(config, root / objective)
    return [root / "flow", root / "biflow"]


def test_compare_evaluates_each_protocol_once(runs, tmp_path, monkeypatch):
    calls, stop_after = [], [4]
    real = compare.evaluate_streams

    def counted(run, *rest):
        if len(calls) == stop_after[0]:
            raise KeyboardInterrupt
        calls.append(run.workdir.name)
        figures = dict(
            nfe_per_frame=3.5,
            distance_first_window=1.0,
            distance_last_window=3.0,
            distance_mean=2.0,
            motion_last_window=1.0,
        )
        return real(run, *rest) if run.config.sample.steps else (figures, None)  # streams only at equal budget

    monkeypatch.setattr(compare, "evaluate_streams", counted)
    with pytest.raises(KeyboardInterrupt):
        commands.compare(runs, tmp_path, epsilons=(0.0, 0.2), gains=(2.0,))
    assert len(json.loads((tmp_path / "compare.json").read_text())["results"]) == 4
    stop_after[0] = None
    record = commands.compare(runs, tmp_path, epsilons=(0.0, 0.2), gains=(2.0,))
    assert calls == ["flow", "biflow"] * 2 + ["biflow"] * 4
    epsilon = debug_config(None).sample.epsilon
    ways = [
        (r["method"], r["kind"], r["protocol"]["curve"], r["protocol"]["epsilon"], r["protocol"]["gain"])
        for r in record["results"]
    ]
    assert ways == [
        ("flow", "equal accuracy", "plain", 0.0, 0.0),
        ("biflow", "equal accuracy", "joint", epsilon, 0.0),
        ("flow", "equal budget", "plain", 0.0, 0.0),
        ("biflow", "equal budget", "joint", epsilon, 0.0),
        ("biflow", "epsilon", "joint", 0.0, 0.0),
        ("biflow", "epsilon", "joint", 0.2, 0.0),
        ("biflow", "gain", "joint", 0.2, 2.0),
        ("biflow", "backward", "backward", epsilon, 0.0),
    ]
    assert [r["nfe_per_frame"] for r in record["results"][2:4]] == [20, 20]
    assert all("truth" in r for r in record["results"][2:4])
    assert record == json.loads((tmp_path / "compare.json").read_text())
    assert not unexplained(record | dict(results=dict(enumerate(record["results"]))))
    assert (tmp_path / "pareto.png").stat().st_size > 5000
    commands.compare(runs, tmp_path, epsilons=(0.0, 0.1), gains=())
    assert len(calls) == 9  # evaluates only the new noise level
    commands.compare(runs[1:], tmp_path, epsilons=(), overrides={"videos": 1})
    assert len(calls) == 12  # evaluates all again under another protocol


def test_runs_of_other_data_do_not_compare(runs, tmp_path):
    config = debug_config(tmp_path, steps=1)
    config.data.fps = 4.0
    train(config, tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"figures of .*flow and .*other are not comparable: config.data.fps is 8.0 and 4.0"
    ):
        commands.compare([runs[0], tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_backwards_is_compared_with_the_frames_before(runs, monkeypatch):
    """Checks that a sampler of the true past has no frame error, and that its windows run forward in time."""
    run = load(runs[1], sampling={"curve": "backward"})
    data = run_dataset(run)
    reference = evaluate.Reference.from_dataset(run.config.evaluate, data)
    real = pipeline.clips(data, "test", count=2)
    started = []

    def true_past(run, start, *, length, **rest):
        started.append(start)
        return real[:, ::-1][:, :length], np.ones((2, length - 1)), 0.0

    monkeypatch.setattr(evaluate, "generate", true_past)
    figures, _ = evaluate.evaluate_streams(run, reference, data)
    np.testing.assert_array_equal(started[0], real[:, -1:])
    assert min(figures["truth"]["psnr"].values()) > 90
    forward = reference.drift(real)
    assert figures["distance_mean"] == pytest.approx(forward["distance_mean"], rel=0.05)
    assert abs(reference.drift(real[:, ::-1])["distance_mean"] / forward["distance_mean"] - 1) > 0.2
    assert run.experiment.sampler.curve is CURVES["backward"]
