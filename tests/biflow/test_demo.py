"""Tests of `jvflow demo`: one report of three methods, and a restart that repeats no work."""

import json

import numpy as np
import pytest
from conftest import debug_config
from legends import unexplained

from jvflow import commands
from jvflow.biflow import demo
from jvflow.load import load, run_dataset
from jvflow.report import run_page
from jvflow.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def test_a_demo_that_was_stopped_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    config = debug_config(tmp_path, steps=2)
    config.evaluate.update(videos=2, frames=80, batch=2)
    config.sample.update(method="euler", steps=2)
    calls, stop_after = [], [2]
    real = demo.evaluate_streams

    def counted(run, *rest):
        if len(calls) == stop_after[0]:
            raise KeyboardInterrupt
        calls.append(run.config.objective)
        return real(run, *rest)

    monkeypatch.setattr(demo, "evaluate_streams", counted)
    with pytest.raises(KeyboardInterrupt):
        commands.demo(config, tmp_path / "out", command="one", shown=())
    stop_after[0] = None
    record = commands.demo(config, tmp_path / "out", command="one", shown=())
    assert calls == ["flow", "biflow", "condiff"]
    page = (tmp_path / "out" / "report.html").read_text()
    again = commands.demo(config, tmp_path / "out", command="one", shown=())
    assert len(calls) == 3 and json.dumps(again) == json.dumps(record) == json.dumps(
        json.loads((tmp_path / "out" / "metrics.json").read_text())
    )
    assert (tmp_path / "out" / "report.html").read_text() == page and not unexplained(record)

    def load_with_data(workdir, sampling, overrides):
        run = load(workdir, sampling=sampling)
        return run, run_dataset(run)

    runs = dict(configs={"biflow": config}, titles=demo.TITLES, heading="again", command="one")
    runs |= dict(train=train, load=load_with_data)
    other = demo.side_by_side(out=tmp_path / "out", sampling=dict(epsilon=0.7), **runs)
    assert other["protocol"]["biflow"]["epsilon"] == 0.7 and len(calls) == 4
    (tmp_path / "out").rename(tmp_path / "moved")
    commands.demo(config, tmp_path / "moved", command="one", shown=())
    assert calls[4:] == ["biflow"]  # nothing else is trained or measured again
    config.seed = 3
    with pytest.raises(ValueError, match="holds a run of another config"):
        commands.demo(config, tmp_path / "moved", command="two", shown=())


@pytest.mark.parametrize("content", [b"", b"PK cut", bytes(300), None])
def test_measures_that_cannot_be_read_are_made_again(tmp_path, caplog, content):
    file, videos = tmp_path / "measured.npz", np.zeros((1, 2))
    np.savez(file, protocol="one", figures=json.dumps(dict(distance=1.0)), videos=videos)
    assert demo._read_measured(file, "one")[0] == dict(distance=1.0) and demo._read_measured(file, "two") is None
    assert not caplog.text
    if content is None:
        np.savez(file, protocol="one")  # without figures
    else:
        file.write_bytes(content)
    assert demo._read_measured(file, "one") is None and "measured.npz is damaged" in caplog.text


def test_a_loss_that_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "loss": 0.5}\n' + bytes(30) + b'\n7\n{"step": 2}\n{"step": 3, "lo'
    )
    assert run_page.losses(tmp_path / "metrics.jsonl") == [(1, 0.5)]


def test_the_protocol_of_several_runs_lists_the_settings_that_differ():
    protocols = dict(one=dict(epsilon=0.0, step=3), two=dict(epsilon=0.3, step=3, gain=1.0))
    assert demo._shared(protocols) == dict(epsilon=dict(one=0.0, two=0.3), step=3, gain=dict(one=None, two=1.0))
