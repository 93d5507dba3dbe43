"""LoRA for any linear layer, and training of chosen layers. Frozen parameters stay, are not saved, and are checked."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import debug_config, load_config
from public_models import FIXTURES, export_random, read_fixture
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow import networks, pretrained
from jvflow.experiment import assemble
from jvflow.flow.field import Condition
from jvflow.load import load, load_pretrained
from jvflow.parallel import mesh as meshes
from jvflow.parallel import sharding
from jvflow.parallel.checksums import tree_checksum
from jvflow.pretrained import flatten_paths, public
from jvflow.training import lora
from jvflow.training.checkpoint import Checkpoints
from jvflow.training.export import export
from jvflow.training.format_version import VERSION
from jvflow.training.loop import train
from jvflow.training.lora import Tuning
from jvflow.training.step import create, merge
from jvflow.training.workdir import Workdir

pytestmark = pytest.mark.slow

WAN = dict(channels=4, text_width=8, depth=2, heads=2, head=12, hidden=16, patch=(1, 2, 2))
CASES = {
    "dit": (
        dict(width=16, depth=2, heads=2, patch=(1, 2, 2), channels=4, scan=False),
        ("qkv", "mlp_in", "embedders/0/hidden"),
    ),
    "scanned": (dict(WAN, scan=True), ("attn1/to_q", "ffn/net/2", "time_proj")),
    "unet": (
        dict(width=8, levels=(1, 2), attends=(False, True), channels=4, blocks=1, groups=4, head=4, velocities=2),
        ("attentions/0/to_k", "time_emb_proj"),
    ),
}


def drawn(tree, size=0.1):
    """Returns random arrays with the shapes of a tree."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: (size * rng.standard_normal(a.shape)).astype(np.float32), tree)


def built(case):
    sizes, layers = CASES[case]
    network = networks.build(dict(scanned="wan").get(case, case), **sizes)
    return network, drawn(jax.eval_shape(network.init, jax.random.key(0))), layers


def said(network, params):
    """Returns all velocities of a network for one input."""
    frames = 1 if network.config.__class__.__name__ == "UNetFieldConfig" else 2
    x = jnp.asarray(drawn(jax.ShapeDtypeStruct((2, frames, 4, 4, 4), np.float32), 1.0))
    text = Condition(
        text=jnp.asarray(drawn(jax.ShapeDtypeStruct((2, 3, 8), np.float32), 1.0)), text_mask=jnp.ones((2, 3), bool)
    )
    apply = jax.jit(
        lambda params: network.apply(
            params, x, (jnp.asarray([0.2, 0.7]),), text if "patch_embedding" in params else None
        )
    )
    return np.asarray(jnp.stack(apply(params)))


@pytest.mark.parametrize("case", ["dit", "scanned", pytest.param("unet", marks=pytest.mark.integration)])
def test_lora_agrees_with_the_merged_kernels(case):
    """Checks equation (1): new LoRA matrices change nothing, and trained ones give the output of merged kernels."""
    network, params, layers = built(case)
    tuned = Tuning(layers, rank=3, alpha=6.0)
    started = tuned.add_lora(jax.random.key(1), params)
    before = said(network, params)
    np.testing.assert_array_equal(said(network, started), before)
    trained, frozen = tuned.split(started)
    assert flatten_paths(trained) and all(
        name.endswith(("lora_a", "lora_b")) and any(layer in name for layer in layers)
        for name in flatten_paths(trained)
    )
    assert all(any(layer in name for name in flatten_paths(trained)) for layer in layers)
    original = lora.remove_lora(started)
    assert flatten_paths(original).keys() == flatten_paths(params).keys() and all(
        np.array_equal(flatten_paths(original)[name], a) for name, a in flatten_paths(params).items()
    )
    whole = merge(frozen, drawn(trained, 0.3))
    beside, added = said(network, whole), said(network, lora.merge_lora(whole))
    assert np.abs(beside - before).max() > 1e-2 * np.abs(before).max()
    np.testing.assert_allclose(beside, added, rtol=0, atol=2e-5 * np.abs(before).max())


def test_rules_choose_layers():
    network, params, _ = built("dit")
    trained, frozen = Tuning((r"blocks/1/", "patch_out")).split(params)
    assert flatten_paths(trained).keys() == {
        name for name in flatten_paths(params) if name.startswith(("blocks/1/", "patch_out/"))
    }
    assert flatten_paths(trained).keys() | flatten_paths(frozen).keys() == flatten_paths(
        params
    ).keys() and jax.tree.structure(merge(frozen, trained)) == jax.tree.structure(params)
    assert Tuning().split(params) == (params, {})
    everywhere = Tuning(rank=1).add_lora(jax.random.key(0), params)
    linear = {name.removesuffix("/kernel") for name in flatten_paths(params) if name.endswith("kernel")}
    tuned = lambda started: {name.removesuffix("/lora_a") for name in flatten_paths(started) if name.endswith("lora_a")}
    assert tuned(everywhere) == linear and linear - tuned(Tuning(rank=16).add_lora(jax.random.key(0), params)) >= {
        "blocks/0/qkv",
        "patch_in",
    }


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(layers=("qkw", "qkv"), rank=2), r"'qkw' matches none of the \d+ linear layers, such as blocks/0/"),
        (dict(layers=("blocks/7",)), r"'blocks/7' matches none of the \d+ layers"),
        (
            dict(layers=("qkv",), rank=17),
            "config.tune.rank=17 is above the rank of blocks/0/qkv, a matrix 16 x 48: use 16 or less",
        ),
        (dict(layers=("(",), rank=2), "'[(]' is no regular expression"),
        (dict(rank=-1), "config.tune.rank must be 0 or more and config.tune.alpha above 0, got -1"),
        (dict(rank=2, alpha=0.0), "config.tune.alpha above 0, got 2 and 0.0"),
    ],
)
def test_rules_that_do_not_fit(settings, message):
    _, params, _ = built("dit")
    with pytest.raises(ValueError, match=message):
        tuned = Tuning(**settings)
        tuned.split(tuned.add_lora(jax.random.key(0), params))


def test_low_rank_is_split_as_its_kernel(monkeypatch):
    """Checks that LoRA matrices are split along the axes that they share with their kernel, over fsdp and tensor."""
    monkeypatch.setattr(sharding, "MIN_ELEMENTS", 2)
    network, params, _ = built("scanned")
    tuned = Tuning(("attn1", "time_proj"), rank=4)
    mesh = meshes.make_mesh(dict(data=1, fsdp=2, sequence=1, tensor=2), jax.devices()[:4])
    spec = {
        decision.path: tuple(decision.spec)
        for decision in sharding.decide(tuned.add_lora(jax.random.key(0), params), network.rules, mesh)
    }
    assert spec["blocks/attn1/to_q/kernel"] == (None, "fsdp", "tensor")
    assert spec["blocks/attn1/to_q/lora_a"] == (None, "fsdp") and spec["blocks/attn1/to_q/lora_b"] == (
        None,
        "fsdp",
        "tensor",
    )
    assert spec["blocks/attn1/to_out/0/kernel"] == (None, "tensor", "fsdp")
    assert spec["blocks/attn1/to_out/0/lora_a"] == (None, "tensor", "fsdp") and spec[
        "blocks/attn1/to_out/0/lora_b"
    ] == (None, None, "fsdp")


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Trains the run that fine-tuning starts from."""
    folder = tmp_path_factory.mktemp("before")
    train(debug_config(folder, steps=2), folder / "run")
    return folder / "run"


def tuned_config(before, **tune):
    config = debug_config(before.parent)
    config.pretrained = str(before)
    config.tune.update(tune)
    config.optimizer.update(learning_rate=1e-2, ema=0.9)
    config.run.update(validate_every=10)
    return config


@pytest.fixture(scope="module")
def tuned(before, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    train(tuned_config(before, rank=2, alpha=4.0, layers=("qkv", "modulation", "patch_out")), folder)
    return folder


def test_frozen_parameters_stay_and_are_not_saved(before, tuned):
    """Checks that frozen parameters stay bit-equal, and that checkpoints and the optimizer hold LoRA matrices alone."""
    was, now = load(before).params, load(tuned, ema=False).params
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(was), jax.tree.leaves(lora.remove_lora(now)), strict=True)
    )
    assert (
        float(flatten_paths(now)["blocks/0/qkv/lora_scale"]) == 2.0
        and np.abs(flatten_paths(now)["blocks/0/qkv/lora_b"]).max() > 0
    )
    saved = Checkpoints(tuned / "checkpoints").restore_raw()
    arrays = {name for name, a in flatten_paths(saved).items() if np.ndim(a)}
    assert arrays and all(name.endswith(("lora_a", "lora_b")) for name in arrays) and not saved.get("frozen")
    assert {name.split("/")[0] for name in arrays} == {"params", "ema", "opt_state"}
    lines = [json.loads(line) for line in (tuned / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 10, 20] and lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["loss"] == lines[0]["loss_of_average"] != lines[2]["loss_of_average"]


def test_it_continues_exactly(before, tuned, tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_and_die(self, *rest):
        save(self, *rest)
        raise KeyboardInterrupt

    config = tuned_config(before, rank=2, alpha=4.0, layers=("qkv", "modulation", "patch_out"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "validation.jsonl").write_text('{"step": 0, "loss": 9.0}\n')  # of a run without a checkpoint
    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    train(config, tmp_path / "run")
    here, there = (Checkpoints(folder / "checkpoints").restore_raw() for folder in (tmp_path / "run", tuned))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True))
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tuned / name).read_bytes()


def test_another_model_under_the_same_name(before, tuned, tmp_path):
    """Checks that sampling and resuming refuse frozen parameters that have changed."""
    moved = tmp_path / "moved"
    shutil.copytree(tuned, moved)
    config = tuned_config(before, rank=2, alpha=4.0, layers=("qkv", "modulation", "patch_out"))
    other = debug_config(before.parent, steps=4)
    train(other, tmp_path / "other")
    file = moved / "config.json"
    file.write_text(file.read_text().replace(str(before), str(tmp_path / "other")))
    message = "the frozen parameters of .* come from .* and had checksum .{8} when the run began; now they have .{8}: "
    with pytest.raises(ValueError, match=message):
        load(moved)
    config.pretrained = str(tmp_path / "other")
    with pytest.raises(ValueError, match="restore that model"):
        train(config, moved)


def test_the_same_model_at_another_place_is_accepted(before, tuned, tmp_path):
    """Moves the model that a tuned run starts from: the run is refused with a cure, and takes the new place."""
    shutil.copytree(tuned, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace(str(before), str(tmp_path / "before")))
    message = (
        "needs models that are not where its config.json names them .config.pretrained: .*before.: .* training comm"
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "run")
    shutil.copytree(before, tmp_path / "elsewhere")
    config = tuned_config(before, rank=2, alpha=4.0, layers=("qkv", "modulation", "patch_out"))
    config.pretrained = str(tmp_path / "elsewhere")
    train(config, tmp_path / "run")
    here, there = load(tmp_path / "run"), load(tuned)
    assert here.config.pretrained == config.pretrained
    assert here.protocol["parameters"] == there.protocol["parameters"]
    with jax.enable_x64(True):  # the frozen parameters keep their checksum
        assert load(tmp_path / "run").protocol["parameters"] == there.protocol["parameters"]


def test_layers_by_rule_train_and_others_do_not(before, tmp_path):
    config = tuned_config(before, layers=("patch_out",))
    config.train.steps = 2
    train(config, tmp_path / "run")
    was, now = (
        flatten_paths(load(folder, ema=False if folder != before else None).params)
        for folder in (before, tmp_path / "run")
    )
    assert {name for name in was if not np.array_equal(was[name], now[name])} == {"patch_out/kernel", "patch_out/bias"}
    config.optimizer.learning_rate = 1e-30  # too small to change a parameter
    config.run.validate_every = 1
    train(config, tmp_path / "still")
    said = {json.loads(line)["loss"] for line in (tmp_path / "still" / "validation.jsonl").read_text().splitlines()}
    assert len(said) == 1  # every validation uses the same clips, times and noise
    config.tune.layers = ("patch_uot",)
    with pytest.raises(ValueError, match="'patch_uot' matches none of"):
        train(config, tmp_path / "none")
    config.pretrained = f"{before},{tmp_path / 'nowhere'}"
    with pytest.raises(
        ValueError, match="config.pretrained names .*nowhere, where there is no run and no public model"
    ):
        train(config, tmp_path / "none")
    config.pretrained = ""
    with pytest.raises(ValueError, match="freezes parameters, which would stay random without config.pretrained"):
        train(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


# --- public models --------------------------------------------------------------------------------

PUBLIC = {
    "dit": ("dit_two_layers", "dit", True, ("qkv", "proj", "patch_in", "patch_out", "mlp", "modulation")),
    "apart": ("dit_two_layers", "dit", False, ("qkv",)),
    "ltx": ("ltx_tokens", "ltx_transformer", True, ("attn1", "ff/", "proj_in", "caption_projection")),
    "wan": ("wan_plain", "wan_transformer", False, ("attn2", "ffn")),
    "unet": ("unet_biflow", "unet2d", None, ("attentions", "time_emb_proj")),
}


@pytest.mark.parametrize("case", PUBLIC)
def test_matrices_are_exported_under_public_names(case, tmp_path):
    """Checks that each public tensor plus B A equals the tensor of the merged model.

    The names are diffusers' names, for scanned layers and fused ones.
    """
    name, kind, scan, layers = PUBLIC[case]
    config, tensors, _ = read_fixture(FIXTURES / f"{name}.safetensors")
    options = {} if scan is None else dict(scan=scan)
    params = pretrained.import_checkpoint(kind, config, tensors, **options).params
    tuned = Tuning(layers, rank=2, alpha=3.0)
    trained, frozen = tuned.split(tuned.add_lora(jax.random.key(0), params))
    whole = merge(frozen, drawn(trained, 0.3))
    file = pretrained.export_lora(kind, config, whole, tmp_path / "lora", **options)
    pretrained.export(kind, config, lora.merge_lora(whole), tmp_path / "whole", **options)
    added, given = load_file(tmp_path / "whole" / pretrained.KINDS[kind].file), load_file(file)
    prefix = "unet." if kind == "unet2d" else "transformer."
    modules = {key.removeprefix(prefix).rpartition(".lora_")[0] for key in given}
    assert (
        len(given) == 2 * len(modules)
        and file.name == "pytorch_lora_weights.safetensors"
        and file.stat().st_mode & 0o044
    )
    for key, tensor in tensors.items():
        module = key.removesuffix(".weight")
        expected = tensor
        if module in modules and key != module:
            a, b = (given[f"{prefix}{module}.lora_{part}.weight"] for part in "AB")
            expected = tensor + np.einsum("or,r...->o...", b.reshape(len(b), -1), a)
            assert np.abs(expected - tensor).max() > 1e-2
        if key in added:
            np.testing.assert_allclose(added[key], expected, atol=1e-6)
    with pytest.raises(ValueError, match="hold no low-rank matrices: train with config.tune.rank above 0"):
        pretrained.export_lora(kind, config, params, tmp_path / "none", **options)


def as_trained(config, folder):
    """Writes a run with random LoRA matrices, instead of training them."""
    experiment = assemble(config)
    start = load_pretrained(config, experiment).params
    network, optimizer, tuning = experiment.network, experiment.optimizer, experiment.tuning
    now = create(jax.random.key(0), network, optimizer, ema=False, params=start, tuning=tuning)
    workdir = Workdir(folder)
    workdir.begin(config)
    workdir.note_frozen(config.pretrained, tree_checksum(now.frozen))
    Checkpoints(workdir.checkpoints).save(1, now.replace(params=drawn(now.params), frozen={}), {"next_index": 1})


@pytest.mark.integration
def test_from_a_public_model_and_back(tmp_path):
    """Imports both U-Nets of Bi-flow from folders, adds random LoRA matrices, and exports two models again."""
    plain = read_fixture(FIXTURES / "unet_biflow.safetensors")[0]
    folders = [
        export_random("unet2d", plain, tmp_path / name, seed=number) for number, name in enumerate(("video", "noise"))
    ]
    config = load_config("biflow/unet.py", "debug")
    config.pretrained = ",".join(map(str, folders))
    config.data.size, config.data.cache = (16, 16), str(tmp_path / "data")
    channels = plain["block_out_channels"]
    config.network.update(
        width=dict(flow=8, biflow=channels[0], condiff=8),
        levels=tuple(n // channels[0] for n in channels),
        groups=plain["norm_num_groups"],
        attends=tuple(kind.startswith("Attn") for kind in plain["down_block_types"]),
        head=plain["attention_head_dim"],
        blocks=plain["layers_per_block"],
        dtype="float32",
    )
    config.tune.update(rank=2, layers=("attentions",))
    as_trained(config, tmp_path / "run")
    files = export(tmp_path / "run", tmp_path / "whole")
    assert [file.parent.name for file in files] == ["video", "noise"]
    trained = load(tmp_path / "run").params
    for number, folder in enumerate(("video", "noise")):
        back = pretrained.load(tmp_path / "whole" / folder).params
        expected = lora.merge_lora(trained)["velocities"][number]
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(expected), strict=True))
    matrices = export(tmp_path / "run", tmp_path / "lora", lora=True)
    with safe_open(matrices[1], "np") as opened:
        assert all(name.startswith("unet.") and "attentions" in name for name in opened.keys())
    exported = json.loads((tmp_path / "lora" / "jvflow.json").read_text())
    assert exported["lora"] is True and exported["format_version"] == VERSION
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(tmp_path / "run", tmp_path / "lora", lora=True)
    dit = export_random("dit", read_fixture(FIXTURES / "dit_two_layers.safetensors")[0], tmp_path / "dit")
    for wrong, message in (
        (str(folders[0]), "1 folders, and biflow on the network unet takes VIDEO,NOISE"),
        (f"{folders[0]},{dit}", "holds a dit, and the network is unet, which starts from a unet2d"),
    ):
        config.pretrained = wrong
        with pytest.raises(ValueError, match=message):
            train(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_runs_without_a_matching_public_model_are_not_exported(before, tmp_path):
    message = "holds 1 public models, and the config.json of 0 is known: give --like=FOLDER"
    with pytest.raises(ValueError, match=message):
        export(before, tmp_path / "out")
    unlike = export_random("unet2d", read_fixture(FIXTURES / "unet_plain.safetensors")[0], tmp_path / "unet")
    with pytest.raises(ValueError, match="holds a unet2d: the network dit is a dit"):
        export(before, tmp_path / "out", like=[unlike])
    assert not (tmp_path / "out").exists() and public.folders("") == []
