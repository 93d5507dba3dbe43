"""Tests of the models that the package ships, of their names, and of the demo's first act."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import debug_config, load_config

from jvflow import commands, files, models
from jvflow.data import records
from jvflow.load import load, run_dataset
from jvflow.training.export import pack
from jvflow.training.loop import train

CARD = dict(
    title="Comets",
    text="Two <comets>.",
    made={"command": "jvflow train"},
    metrics={"distance": 1.5},
    protocol={"videos": 2},
    licence="Apache-2.0",
    real=["test", 1.0],
    shows=[dict(title="Forwards", options=dict(length=4)), dict(title="Backwards", sampling=dict(curve="backward"))],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the workdir of a debug run."""
    folder = tmp_path_factory.mktemp("models")
    train(debug_config(folder, steps=2), folder / "run")
    return folder / "run"


@pytest.fixture
def shipped(run, tmp_path, monkeypatch):
    """Returns the folder of a model that takes the place of the shipped ones."""
    monkeypatch.setattr(files, "MODELS", tmp_path / "models")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack(run, tmp_path / "models" / "comets", clips=3)
    (tmp_path / "models" / "comets" / models.CARD).write_text(json.dumps(CARD))
    return tmp_path / "models" / "comets"


def test_models_have_names(run, shipped):
    assert models.names() == ["comets"] and models.path("comets") == shipped
    here, there = load("jvflow:comets").params, load(run).params
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), here, there))
    with pytest.raises(ValueError, match="no such model; the package ships jvflow:comets"):
        load("jvflow:mase")


def test_training_starts_from_a_model(shipped, tmp_path):
    config = debug_config(tmp_path, steps=0)
    config.pretrained = "jvflow:comets"
    train(config, tmp_path / "next")
    here, there = load(tmp_path / "next", ema=False).params, load(shipped).params
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), here, there))


def test_a_packed_run_keeps_the_first_clips_of_its_data(run, shipped):
    whole, few = run_dataset(load(run)), run_dataset(load(shipped))
    assert records.manifest(few)["splits"] == dict(train=3, test=3)
    from jvflow.data.pipeline import clips

    for split in ("train", "test"):
        np.testing.assert_array_equal(clips(few, split), clips(whole, split)[:3])


def test_the_data_of_others_cannot_be_shortened(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["path"] = str(run_dataset(load(run)))
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="--clips=3 is for procedural data"):
        pack(tmp_path / "run", tmp_path / "small", clips=3)
    with pytest.raises(ValueError, match="--clips"):
        pack(run, tmp_path / "small", clips=0)
    assert not (tmp_path / "small").exists()


@pytest.mark.integration
def test_the_first_act_shows_each_model(shipped, tmp_path):
    opened = []
    config = debug_config(tmp_path)
    commands.demo(config, tmp_path / "out", command="jvflow demo <quick>", quick=True, show=opened.append)
    page = (tmp_path / "out" / "report.html").read_text()
    assert opened == [tmp_path / "out" / "report.html"]
    assert page.count("<video ") == 3 * 3  # three clips, real, forwards and backwards
    assert "Two &lt;comets&gt;." in page and "demo &lt;quick&gt;" in page
    assert "4 frames at" in page and "64 frames at" in page
    assert "src=" in page and "://" not in page
    assert not (tmp_path / "out" / "biflow").exists()


@pytest.mark.parametrize("name", models.names())
def test_a_shipped_model_says_what_it_is(name):
    card = models.card(name)
    load_config(card.made["config"].removeprefix("configs/"))  # skips the test if its paper was removed
    assert {"data", "config", "command", "seed", "steps", "cost"} <= card.made.keys()
    assert card.metrics and card.protocol and card.licence == "Apache-2.0" and card.shows
    assert load(f"jvflow:{name}").config.data.cache == ""


def test_the_shipped_models_are_small():
    size = sum(file.stat().st_size for name in models.names() for file in models.path(name).iterdir())
    assert size <= 25e6
