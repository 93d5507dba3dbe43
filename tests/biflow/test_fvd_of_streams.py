"""FVD of Bi-flow's streams, in evaluations and by the paper's protocol. A small network replaces I3D."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import debug_config
from legends import unexplained

from jvflow import commands
from jvflow.biflow import evaluate as biflow
from jvflow.biflow import protocol as biflow_protocol
from jvflow.data import pipeline
from jvflow.load import load, run_dataset
from jvflow.metrics import evaluation_protocol, fvd, in_evaluation
from jvflow.metrics.evaluation_protocol import parse
from jvflow.metrics.protocol import PRESETS
from jvflow.run import scalars
from jvflow.training.loop import train

FVD = "original,size=32,frames=9"
SMALL = dict(videos=4, frames=32, window=8, stride=8, pooled=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(debug_config(folder, steps=2), folder / "run")
    return folder / "run"


@pytest.mark.integration
def test_the_value_is_that_of_the_videos_against_held_out_clips(run, feature_network):
    record = commands.evaluate(run, overrides=SMALL, fvd=FVD)
    loaded = load(run)
    settings = loaded.config.evaluate.copy_and_resolve_references()
    settings.update(SMALL)
    data = run_dataset(loaded)
    reference = biflow.Reference.from_dataset(settings, data, tuple(SMALL))
    _, made = biflow.evaluate_streams(loaded, reference, data)
    real = pipeline.clips(data, "test", frames=9)
    expected = fvd(real, made[:, :9], parse(FVD))
    found = record["fvd"]
    assert found["value"] == pytest.approx(expected.value, rel=1e-6) and found["metric"] == "fvd"
    assert found["interval"]["low"] < found["value"] < found["interval"]["high"]
    assert found["counts"] == dict(generated=dict(clips=4, videos=4), real=dict(clips=8, videos=8))
    assert found["protocol"]["name"] == "original (changed)" and found["extractor"]["sha256"] == "0"
    assert found["inputs"]["real"]["split"] == "test" and found["inputs"]["real"]["data"] == str(data)
    frozen = np.repeat(real[:, :1], 9, axis=1)
    assert found["controls"]["frozen"] == pytest.approx(fvd(real, frozen, parse(FVD)).value, rel=1e-6)
    noise = np.stack(
        [np.random.default_rng(number << 40).integers(0, 256, real.shape[1:], np.uint8) for number in range(8)]
    )
    assert found["controls"]["noise"] == pytest.approx(fvd(real, noise, parse(FVD)).value, rel=1e-6)
    assert found["controls"]["real_half"] == pytest.approx(fvd(real[1::2], real[::2], parse(FVD)).value, rel=1e-6)
    assert found["controls"]["frozen_half"] == pytest.approx(fvd(real[1::2], frozen[::2], parse(FVD)).value, rel=1e-6)
    # the record compares with another one only if the protocols of FVD agree, and other figures are as without it
    assert record["protocol"]["fvd"] == found["protocol"] | dict(extractor="0", real_clips=8, real_split="test")
    without = commands.evaluate(run, overrides=SMALL)
    assert "fvd" not in without and "fvd" not in without["protocol"]
    assert without["distance_mean"] == record["distance_mean"] and without["controls"] == record["controls"]
    assert "value" in scalars(record)["fvd"] and "versions" not in scalars(record)["fvd"]
    json.dumps(record)
    assert unexplained(record) == []


@pytest.mark.integration
def test_streams_into_the_past_are_turned(run, feature_network, monkeypatch):
    whole = lambda run, start, *, length, **options: (
        np.tile(np.arange(length, dtype=np.uint8)[None, :, None, None, None], (len(start), 1, *start.shape[2:])),
        np.ones((len(start), length - 1)),
        1.0,
    )
    monkeypatch.setattr(biflow, "generate", whole)
    seen = []
    features = in_evaluation._features
    keep = lambda network, clips: features(network, (seen.append(clip) or (p, g, clip) for p, g, clip in clips))
    monkeypatch.setattr(in_evaluation, "_features", keep)
    commands.evaluate(run, overrides=SMALL, sampling=dict(curve="backward"), fvd=FVD)
    assert [int(frame[0, 0, 0]) for frame in seen[-1]] == [8, 7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.integration
def test_the_paper_preset_of_streams(run, feature_network, monkeypatch):
    made = []

    def streams(run, first, key, length, **options):
        video = np.random.default_rng(len(made)).integers(0, 255, (len(first), length, *first.shape[2:]), np.uint8)
        made.append(video)
        return video, np.ones((len(first), length - 1)), np.array(1.0)

    monkeypatch.setattr(biflow_protocol, "stream_videos", streams)
    paper = biflow_protocol.PRESETS["paper"]
    assert paper.fvd == "windows_32"
    assert PRESETS[paper.fvd].frames == 32 and PRESETS[paper.fvd].window_stride == 16
    monkeypatch.setitem(biflow_protocol.PRESETS, "paper", replace(paper, epsilons=(), fvd="windows_32,size=32"))
    size = dict(videos=5, frames=48, window=8, stride=8, batch=2)
    record = commands.evaluate(run, overrides=size, preset="paper")
    for streams_of, name in ((made[:3], "equal_accuracy"), (made[3:], "equal_budget")):
        found, video = record[name]["fvd"], np.concatenate(streams_of)
        assert [start for start, _ in found["over_time"]] == [0, 16]
        assert found["counts"]["generated"] == dict(clips=10, videos=5)
        real = pipeline.clips(run_dataset(load(run)), "test")
        windows = np.concatenate([real[:, start : start + 32] for start in (0, 16, 32, 48)])
        alone = fvd(windows, video[:, 16:48], parse("windows_32,size=32"))
        assert found["over_time"][1][1] == pytest.approx(alone.value, rel=1e-6)
    assert record["protocol"]["fvd"]["window"] == "all"
    assert "fvd" not in commands.evaluate(run, overrides=size, preset="paper", fvd="")["equal_budget"]
    monkeypatch.setattr(evaluation_protocol, "is_installed", lambda text: False)
    assert "fvd" not in commands.evaluate(run, overrides=size, preset="paper")["equal_budget"]
