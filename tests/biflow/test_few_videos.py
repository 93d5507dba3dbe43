"""The commands on folders of few, short videos: they adapt what nobody asked for, and say what they changed."""

import json

import numpy as np
import pytest
from conftest import load_config

from jvflow import commands
from jvflow.biflow import evaluate
from jvflow.data import dataset, records
from jvflow.load import load, run_dataset
from jvflow.report import videos
from jvflow.training.loop import train

pytestmark = pytest.mark.slow


def write(folder, count, frames=14):
    """Writes videos of one second and more, each with a texture of its own that moves."""
    folder.mkdir()
    for seed in range(count):
        picture = np.random.default_rng(seed).integers(0, 255, (4, 6, 3))
        picture = np.kron(picture, np.ones((8, 8, 1))).astype(np.uint8)
        moving = np.stack([np.roll(picture, (seed + 1) * k, axis=1) for k in range(frames + seed)])
        videos.write(folder / f"{seed}.mp4", moving, 12)


def config_of(folder, cache, **settings):
    config = load_config("biflow/video_folder.py", "debug")
    config.data.update(path=str(folder), size=(16, 16), cache=str(cache))
    config.train.steps = 2
    config.run.update(progress=False, tensorboard=False, sample_every=2, validate_every=1, sample_frames=3)
    config.evaluate.update(dict(videos=8, frames=96, dimensions=12) | settings)
    return config


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    write(folder / "in", 1)
    train(config_of(folder / "in", folder / "cache"), folder / "run")
    return folder


@pytest.mark.integration
def test_a_run_on_one_clip_ends_with_a_checkpoint_a_sheet_and_samples(single):
    run = load(single / "run")
    assert run.step == 2 and records.manifest(run_dataset(run))["splits"] == {"train": 1}
    assert list((single / "run" / "samples").glob("*.png"))
    lines = (single / "run" / "validation.jsonl").read_text().splitlines()
    assert {json.loads(line)["split"] for line in lines} == {"train"}
    made = commands.sample(single / "run", single / "out", length=4)
    assert len(made["samples"]) == 1 and made["protocol"]["first_frame"] == "split train"
    with pytest.raises(ValueError, match="2 streams need as many held-out clips, there are 1: use --count=1"):
        commands.sample(single / "run", single / "out", length=4, count=2)


@pytest.mark.integration
def test_an_evaluation_of_one_clip_adapts_and_records_it(single):
    record = commands.evaluate(single / "run")
    protocol = record["protocol"]
    assert protocol["split"] == "train" and set(protocol["adapted"]) == {"window", "stride", "dimensions", "videos"}
    assert all(protocol[name] == used for name, (_, used) in protocol["adapted"].items())
    assert protocol["reference_windows"] >= 5
    for overrides, message in (
        (dict(videos=3), "3 videos need as many clips, split 'train' of .* has 1: use config.evaluate.videos=1"),
        (dict(window=32), "a window needs 32 frames, the video has 14"),
    ):
        with pytest.raises(ValueError, match=message):
            commands.evaluate(single / "run", overrides=overrides)


def test_enough_clips_are_evaluated_as_the_config_says(tmp_path):
    """Checks that nothing is adapted with 14 training windows, and that one dimension goes with each window less."""
    config = config_of(tmp_path, tmp_path / "cache", videos=2, window=8, stride=4)
    config.data.update(path="procedural:comets", frames=8, clips=dict(train=14, test=2))
    data = dataset.prepare(config.data, tmp_path)
    assert evaluate.fit_settings(config.evaluate, data) == (config.evaluate, {})
    config.data.clips.train = 13
    fewer = dataset.prepare(config.data, tmp_path)
    settings, adapted = evaluate.fit_settings(config.evaluate, fewer)
    assert adapted == dict(dimensions=[12, 11]) and settings.dimensions == 11 and config.evaluate.dimensions == 12
    assert evaluate.fit_settings(config.evaluate, fewer, asked=["dimensions"])[1] == {}
