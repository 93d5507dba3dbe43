"""Tests of packed runs: a run as config.json and model.safetensors, which every command reads."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import debug_config
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jvflow import files
from jvflow.commands import evaluate, sample
from jvflow.load import load, load_model
from jvflow.training import packed
from jvflow.training.export import pack
from jvflow.training.loop import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns (workdir, packed run) of one debug run."""
    folder = tmp_path_factory.mktemp("packed")
    config = debug_config(folder, steps=2)
    train(config, folder / "run")
    pack(folder / "run", folder / "small")
    return folder / "run", folder / "small"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jvflow" / "data"


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), a, b))


def test_a_packed_run_loads_with_the_same_parameters_and_protocol(runs):
    run, small = runs
    before, after = load(run), load(small)
    assert equal(before.params, after.params)
    assert before.step == after.step == 2 and before.protocol == after.protocol
    assert sorted(path.name for path in small.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_rounds_the_parameters(runs, tmp_path):
    run, small = runs
    pack(run, tmp_path / "half", dtype="float16")
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(np.float16).astype(np.float32), load(run).params)
    assert equal(load(tmp_path / "half").params, rounded)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", small)]
    assert sizes[0] < 0.6 * sizes[1]
    pack(tmp_path / "half", tmp_path / "again", dtype="float16")
    assert equal(load(tmp_path / "again").params, rounded)
    with pytest.raises(ValueError, match="--dtype"):
        pack(run, tmp_path / "other", dtype="int8")
    large = dict(kernel=np.array([7e4], np.float32))
    with pytest.raises(ValueError, match="kernel has parameters above 65504: use --dtype=float32"):
        packed.write(tmp_path / "other", load(run).config, large, step=1, ema=False, key=None, dtype="float16")
    assert not (tmp_path / "other").exists()


@pytest.mark.integration
def test_it_samples_and_evaluates_as_the_run_does(runs, own_cache, tmp_path):
    run, small = runs
    for folder in (run, small):
        sample(folder, tmp_path / folder.name, count=2, length=3)
    a, b = (json.loads((tmp_path / name / "samples.json").read_text())["samples"] for name in ("run", "small"))
    assert [s["nfe_per_frame"] for s in a] == [s["nfe_per_frame"] for s in b]
    assert (tmp_path / "run" / "sheet.png").read_bytes() == (tmp_path / "small" / "sheet.png").read_bytes()
    figures = [evaluate(folder, overrides=dict(frames=96)) for folder in (run, small)]
    assert figures[0]["distance_mean"] == figures[1]["distance_mean"]
    assert [path.name for path in own_cache.iterdir()]  # nothing is built next to the packed files
    assert sorted(path.name for path in small.iterdir()) == ["config.json", "model.safetensors"]


def test_training_starts_from_it_but_not_in_it(runs, tmp_path):
    small = runs[1]
    config = debug_config(tmp_path, steps=0)
    config.pretrained = str(small)
    train(config, tmp_path / "next")
    assert equal(load_model(config).params, load(tmp_path / "next", ema=False).params)
    with pytest.raises(ValueError, match="packed run, in which nothing trains.*config.pretrained="):
        train(debug_config(tmp_path, steps=3), small)


@pytest.mark.parametrize(
    "options, message", [(dict(step=7), "step 2, and --step is 7"), (dict(ema=False), "only the moving average")]
)
def test_other_parameters_than_the_packed_ones_are_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        load(runs[1], **options)


def changed(small, folder, change):
    """Copies a packed run, and applies `change` to its tensors and its header."""
    shutil.copytree(small, folder)
    file = folder / files.PACKED
    with safe_open(file, framework="np") as opened:
        metadata = opened.metadata()
    tensors, header = load_file(file), json.loads(metadata["jvflow"])
    change(tensors, header)
    save_file(tensors, file, metadata=dict(jvflow=json.dumps(header)))
    return folder


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors, header: tensors.popitem(), "does not fit its config.json: 1 parameters"),
        (lambda tensors, header: next(iter(tensors.values())).flat.__setitem__(0, 9.0), "another checksum"),
        (lambda tensors, header: header.update(format_version=99), "format version 99, .* install a later jvflow"),
        (lambda tensors, header: header.pop("step"), "lacks jvflow or one of its entries"),
    ],
)
def test_a_damaged_or_later_packed_run_is_refused(runs, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load(changed(runs[1], tmp_path / "copy", change))


def test_a_file_that_is_no_packed_run_is_refused(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "copy")
    (tmp_path / "copy" / files.PACKED).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="safetensors"):
        load(tmp_path / "copy")
    save_file(dict(a=np.zeros(2)), tmp_path / "copy" / files.PACKED)
    with pytest.raises(ValueError, match="is no packed run"):
        load(tmp_path / "copy")


def test_models_of_the_package_have_names(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MODELS", tmp_path)
    shutil.copytree(runs[1], tmp_path / "comets")
    assert files.shipped_models() == ["comets"]
    assert equal(load("jvflow:comets").params, load(runs[1]).params)
    with pytest.raises(ValueError, match="no such model; the package ships jvflow:comets"):
        load("jvflow:mase")


def test_a_folder_in_the_way_is_refused(runs):
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        pack(runs[0], runs[1])
