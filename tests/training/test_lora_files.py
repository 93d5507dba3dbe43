"""Runs that start from a public model with a LoRA file: merged, or with its matrices as those that train."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import load_config
from public_models import export_random
from safetensors.numpy import load_file, save_file

from jvflow import pretrained
from jvflow.experiment import assemble
from jvflow.load import load, load_model, load_pretrained
from jvflow.pretrained import flatten_paths, unflatten_paths
from jvflow.training import lora as tuning
from jvflow.training.export import export
from jvflow.training.loop import train
from jvflow.training.workdir import recorded

PUBLIC = dict(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=16,
    out_channels=16,
    caption_channels=16,
    cross_attention_dim=24,
)
MODULES = {"transformer_blocks.0.attn1.to_q": 2, "transformer_blocks.1.attn2.to_k": 3, "proj_out": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes a small random LTX-Video, and a LoRA file for it."""
    folder = tmp_path_factory.mktemp("lora")
    export_random("ltx_transformer", PUBLIC, folder / "transformer")
    rng, tensors = np.random.default_rng(0), load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    written = {}
    for module, rank in MODULES.items():
        out, inputs = tensors[f"{module}.weight"].shape
        name = f"diffusion_model.{module}"
        written[f"{name}.lora_A.weight"] = rng.normal(size=(rank, inputs)).astype(np.float32)
        written[f"{name}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32)
    save_file(written, folder / "lora.safetensors")
    return folder


def config_of(folder: Path, **tune):
    config = load_config("flowframes/ltx_2b.py", "debug")
    config.update(objective="text_to_video", pretrained=str(folder / "transformer"))
    config.inversion.rho = 0.0
    config.data.cache = str(folder / "data")
    config.train.steps = 0
    config.run.update(progress=False, tensorboard=False)
    config.tune.update(dict(lora=str(folder / "lora.safetensors")) | tune)
    return config


def without_text(params):
    return {path: np.asarray(a) for path, a in flatten_paths(params).items() if not path.startswith("text/")}


@pytest.mark.integration
def test_a_file_is_merged(folder, tmp_path):
    """Checks a run of no steps: it can be loaded and sampled, and is the public model with the file."""
    expected = pretrained.load(folder / "transformer", lora=folder / "lora.safetensors", scan=True).params
    config = config_of(folder)
    train(config, tmp_path / "run")
    found, expected = without_text(load(tmp_path / "run").params), flatten_paths(expected)
    assert found.keys() == expected.keys() and all(np.array_equal(found[path], expected[path]) for path in found)
    plain = flatten_paths(pretrained.load(folder / "transformer", scan=True).params)
    changed = {path for path in plain if not np.array_equal(plain[path], found[path])}
    assert changed == {
        "transformer_blocks/attn1/to_q/kernel",
        "transformer_blocks/attn2/to_k/kernel",
        "proj_out/kernel",
    }
    assert train(config, tmp_path / "run").path == tmp_path / "run"  # the run is finished


@pytest.mark.integration
def test_its_matrices_train_on(folder, tmp_path):
    """Checks that they are what trains, in the layers of the file, and that they are exported with its effect."""
    config = config_of(folder, rank=4, alpha=2.0)
    train(config, tmp_path / "run")
    run = load(tmp_path / "run")
    found, plain = without_text(run.params), flatten_paths(pretrained.load(folder / "transformer", scan=True).params)
    assert all(np.array_equal(found[path], plain[path]) for path in plain)
    added = {path.rpartition("/")[0] for path in found.keys() - plain.keys()}
    assert added == {"transformer_blocks/attn1/to_q", "transformer_blocks/attn2/to_k", "proj_out"}
    merged = without_text(tuning.merge_lora(run.params))
    for path, array in without_text(load_model(config).params).items():
        np.testing.assert_allclose(merged[path], array, atol=1e-5)
    export(tmp_path / "run", tmp_path / "matrices", lora=True)
    again = pretrained.load(folder / "transformer", lora=tmp_path / "matrices", scan=True)
    for path, array in flatten_paths(again.params).items():
        np.testing.assert_allclose(array, merged[path], atol=1e-5)
    record = json.loads((tmp_path / "run" / "config.json").read_text())["tune"]
    assert record == dict(layers=[], rank=4, alpha=2.0, lora=str(folder / "lora.safetensors"))


def test_matrices_of_a_file_beside_new_ones(folder):
    config = config_of(folder, rank=4, alpha=2.0, layers=("attn1", "attn2", "proj_out"))
    experiment = assemble(config)
    start = load_pretrained(config, experiment).params
    whole = flatten_paths(experiment.tuning.add_lora(jax.random.key(0), start))
    layers = {path.rpartition("/")[0] for path in whole if path.endswith("lora_a")}
    assert len(layers) == 9 and "transformer_blocks/attn1/to_v" in layers
    assert not whole["transformer_blocks/attn1/to_v/lora_b"].any()
    merged = without_text(tuning.merge_lora(unflatten_paths(whole)))
    for path, array in without_text(load_model(config).params).items():
        np.testing.assert_allclose(merged[path], array, atol=1e-5)


def test_records_without_a_file_stay_as_they_were():
    config = load_config("flowframes/ltx_2b.py", "debug")
    assert recorded(config).tune.to_dict() == dict(layers=(), rank=0) and "dtype" not in recorded(config).codec
    config.pretrained, config.tune.rank = "run", 2
    assert recorded(config).tune.to_dict() == dict(layers=(), rank=2, alpha=16.0)
    config.tune.dtype = "bfloat16"
    assert recorded(config).tune.dtype == "bfloat16"
    experiment = assemble(recorded(config))
    assert experiment.tuning.dtype == "bfloat16" and assemble(recorded(load_config("flowframes/ltx_2b.py", "debug")))


@pytest.mark.parametrize(
    "tune, change, message",
    [
        (
            dict(rank=2),
            {},
            "config.tune.rank=2 is below the rank 3 of transformer_blocks/attn2/to_k in config.tune.lora",
        ),
        (dict(rank=4, layers=("attn1",)), {}, "config.tune.layers leaves out 2 layers that .*lora.safetensors changes"),
        (dict(lora="nowhere.safetensors"), {}, "there is no LoRA file or folder nowhere.safetensors"),
        (dict(lora="nowhere.safetensors", rank=4), {}, "there is no LoRA file or folder nowhere.safetensors"),
        (dict(lora="a,b"), {}, "config.tune.lora names 2 files, and config.pretrained 1 models"),
        ({}, dict(pretrained=""), "config.tune freezes parameters or reads a LoRA file .* config.pretrained is empty"),
        ({}, dict(pretrained="{run}"), "changes layers of a public model, and config.pretrained=.*run is none"),
        (
            dict(rank=4),
            dict(pretrained="{run}"),
            "changes layers of a public model, and config.pretrained=.*run is none",
        ),
        (dict(rank=4, dtype="half"), {}, "config.tune.dtype is 'half': use one of float32, bfloat16"),
    ],
)
def test_mistakes(folder, tmp_path, tune, change, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(recorded(config_of(folder, lora="")).to_json())
    config = config_of(folder, **tune)
    config.update({key: value.format(run=tmp_path / "run") for key, value in change.items()})
    config.train.steps = 0 if config.pretrained else 1
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_model(folder, tmp_path):
    save_file({"blocks.0.self_attn.q.lora_A.weight": np.ones((1, 4), np.float32)}, tmp_path / "wan.safetensors")
    for rank in (0, 2):
        config = config_of(folder, lora=str(tmp_path / "wan.safetensors"), rank=rank)
        with pytest.raises(
            ValueError, match="is no LoRA of this ltx_transformer: 1 of its 1 tensors belong to no layer"
        ):
            train(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
