"""LoRA files of other packages: a model with one gives what the package gives, merged or as matrices that train on."""

import json
import shutil
from functools import cache

import jax
import numpy as np
import pytest
from public_models import FIXTURES, assert_same, read_fixture
from safetensors.numpy import load_file, save_file

from jvflow import pretrained
from jvflow.pretrained import flatten_paths, lora, unflatten_paths
from jvflow.pretrained.single import ltx, wan
from jvflow.pretrained.single.origin import substitute
from jvflow.training import lora as tuning
from jvflow.training.lora import Tuning

FOLDER = FIXTURES / "lora"
MODELS = dict(ltx=("ltx_padded", "ltx_transformer"), wan=("wan_plain", "wan_transformer"))
FILES = dict(
    peft="peft",
    diffusers="diffusers.safetensors",
    comfyui="comfyui.safetensors",
    kohya="kohya.safetensors",
    trainer="trainer.safetensors",
)


@cache
def base(name):
    """Returns kind, config and tensors of a model, its parameters, `params -> output`, and its output."""
    fixture, kind = MODELS[name]
    config, tensors, io = read_fixture(FIXTURES / f"{fixture}.safetensors")
    sizes = dict(zip(("num_frames", "height", "width"), config.pop("shape", ())))
    inputs = {key: value for key, value in io.items() if key != "output"}
    network = pretrained.import_checkpoint(kind, config, tensors)
    apply = jax.jit(lambda params: network.apply(params, **inputs, **sizes))
    return kind, config, tensors, network.params, apply, np.asarray(apply(network.params))


@pytest.mark.parametrize("kind_of_file", FILES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_a_file_gives_what_the_package_gives(name, kind_of_file):
    """Covers ranks and alphas by pattern, rslora, authors' names, names without dots; merged, and as matrices."""
    kind, config, tensors, params, apply, plain = base(name)
    expected = load_file(FOLDER / f"{name}_outputs.safetensors")[kind_of_file]
    file = FOLDER / f"{name}_{FILES[kind_of_file]}"
    assert_same(np.asarray(apply(pretrained.import_checkpoint(kind, config, tensors, lora=file).params)), expected)
    assert np.abs(plain - expected).max() > 0.05 * np.abs(expected).max()
    changes = lora.read(file, kind, config)
    layers = {path.rpartition("/")[0] for path in changes}
    tuned = Tuning(tuple(f"^{layer}$" for layer in layers), rank=4, alpha=3.0)  # every rank of the files is smaller
    whole = tuned.add_lora(jax.random.key(0), tuning.add_file(params, changes, 4))
    assert_same(np.asarray(apply(whole)), expected)
    found = flatten_paths(whole)
    assert {path for path in found if path.endswith("lora_a")} == {f"{layer}/lora_a" for layer in layers}
    for layer in layers:  # ranks that the file does not have can train: A is not 0, B is
        assert found[f"{layer}/lora_a"].any(0).all() and not found[f"{layer}/lora_b"][3:].any()


# --- names ----------------------------------------------------------------------------------------

AUTHORS = {
    "wan": {
        "blocks.1.attn1.to_q": "blocks.1.self_attn.q",
        "blocks.0.attn1.to_out.0": "blocks.0.self_attn.o",
        "blocks.0.attn2.to_v": "blocks.0.cross_attn.v",
        "blocks.1.ffn.net.0.proj": "blocks.1.ffn.0",
        "blocks.1.ffn.net.2": "blocks.1.ffn.2",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_proj": "time_projection.1",
        "proj_out": "head.head",
    },
    "ltx": {
        "proj_in": "patchify_proj",
        "time_embed.emb.timestep_embedder.linear_1": "adaln_single.emb.timestep_embedder.linear_1",
        "transformer_blocks.0.ff.net.0.proj": "transformer_blocks.0.ff.net.0.proj",
    },
}


def write(name, file, modules, *, rank=2, prefix="", pair=("lora_A", "lora_B"), seed=0):
    """Writes random matrices for modules by the names that they get in the file; returns the tensors."""
    rng, tensors = np.random.default_rng(seed), base(name)[2]
    draw = lambda *shape: (0.1 * rng.normal(size=shape)).astype(np.float32)
    written = {}
    for module, spelled in modules.items():
        out, *inputs = tensors[f"{module}.weight"].shape
        written[f"{prefix}{spelled}.{pair[0]}.weight"] = draw(rank, *inputs)
        written[f"{prefix}{spelled}.{pair[1]}.weight"] = draw(out, rank, *[1] * (len(inputs) - 1))
    save_file(written, file)
    return written


def merged(name, file):
    kind, config, tensors = base(name)[:3]
    return flatten_paths(pretrained.import_checkpoint(kind, config, tensors, lora=file).params)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "prefix", ["", "transformer.", "diffusion_model.", "base_model.model.", "pipe.dit.", "model.diffusion_model."]
)
def test_names_of_the_authors_and_prefixes(name, prefix, tmp_path):
    names = AUTHORS[name]
    write(name, tmp_path / "plain.safetensors", {module: module for module in names})
    expected = merged(name, tmp_path / "plain.safetensors")
    unchanged = flatten_paths(base(name)[3])
    assert sum(not np.array_equal(expected[path], unchanged[path]) for path in expected) == len(names)
    spelled = {"authors": names, "kohya": {module: authors.replace(".", "_") for module, authors in names.items()}}
    spelled["kohya, diffusers"] = {module: module.replace(".", "_") for module in names}
    for what, modules in spelled.items():
        pair = ("lora_A", "lora_B") if what == "authors" else ("lora_down", "lora_up")
        file = tmp_path / f"{what}.safetensors"
        write(name, file, modules, prefix=prefix if what == "authors" else "lora_unet_", pair=pair)
        found = merged(name, file)
        assert all(np.array_equal(found[path], expected[path]) for path in expected), what


def test_every_layer_has_one_name_of_each_kind():
    for name in MODELS:
        kind, _, tensors = base(name)[:3]
        modules = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
        table = lora.module_names(kind, modules)
        assert set(table.values()) == set(modules) and len({m.replace(".", "_") for m in modules}) == len(modules)
        renames = dict(wan=wan, ltx=ltx)[name].TRANSFORMER  # of files with the names of the authors, the other way
        assert all(substitute(f"{spelled}.", renames) == f"{m}." for spelled, m in table.items() if "." in spelled)


# --- what is refused ------------------------------------------------------------------------------

A, B = "transformer_blocks.0.attn1.to_q.lora_A.weight", "transformer_blocks.0.attn1.to_q.lora_B.weight"
ONE = np.ones(1, np.float32)
REFUSED = {
    "dora": ({"transformer_blocks.0.attn1.to_q.dora_scale": ONE}, "holds DoRA: .*to_q.dora_scale: jvflow reads plain"),
    "magnitude": ({"transformer.transformer_blocks.0.attn1.to_q.lora_magnitude_vector": ONE}, "holds DoRA"),
    "loha": ({"lora_unet_transformer_blocks_0_attn1_to_q.hada_w1_a": ONE}, "holds LoHa: lora_unet_.*hada_w1_a"),
    "lokr": ({"lora_unet_transformer_blocks_0_attn1_to_q.lokr_w1": ONE}, "holds LoKr"),
    "mid": ({"transformer_blocks.0.attn1.to_q.lora_mid.weight": ONE}, "holds a third matrix .lora_mid."),
    "oft": ({"transformer_blocks.0.attn1.to_q.oft_blocks": ONE}, "holds OFT"),
    "diff": ({"diffusion_model.transformer_blocks.0.attn1.to_q.diff": ONE}, "holds whole differences"),
    "diff_b": ({"diffusion_model.transformer_blocks.0.attn1.to_q.diff_b": ONE}, "holds whole differences"),
    "bias": ({"transformer_blocks.0.attn1.to_q.lora_B.bias": ONE}, "holds LoRA of biases: .*lora_B.bias"),
    "bias of an adapter": ({"transformer_blocks.0.attn1.to_q.lora_B.default.bias": ONE}, "holds LoRA of biases"),
    "embedding": ({"base_model.model.x.lora_embedding_A": ONE}, "holds LoRA of embeddings"),
    "image": ({"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": ONE}, "holds layers for images of Wan"),
    "added": ({"transformer.blocks.0.attn2.add_k_proj.lora_A.weight": ONE}, "holds layers for images of Wan"),
    "text": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": ONE}, "holds layers of a text encoder"),
    "text encoder": ({"text_encoder.layers.0.lora_A.weight": ONE}, "holds layers of a text encoder"),
    "another layer": (
        {"transformer.transformer_blocks.7.attn1.to_q.lora_A.weight": ONE},
        "is no LoRA of this ltx_transformer: 1 of its 3 tensors belong to no layer of the model: transformer.transf",
    ),
    "another model": ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": ONE}, "1 of its 3 tensors belong to no"),
    "anything else": ({"iteration": ONE}, "1 of its 3 tensors belong to no layer of the model: iteration"),
    "no B": ({B: None}, "has no matrix B for transformer_blocks.0.attn1.to_q, only .*lora_A.weight"),
    "alpha alone": ({A: None, B: None, "proj_in.alpha": ONE}, "has no matrix A for proj_in, only proj_in.alpha"),
    "nothing": ({A: None, B: None}, "holds no tensors"),
    "rank": (
        {A: np.ones((3, 16), np.float32)},
        r"lora_A.weight \(3, 16\) and .*\(16, 2\) do not fit .*weight \(16, 16\)",
    ),
    "width": ({A: np.ones((2, 17), np.float32)}, r"do not fit .*: it needs \(r, 16\) and \(16, r\)"),
    "axes": ({A: np.ones(16, np.float32)}, "do not fit"),
    "twice": ({f"diffusion_model.{A}": np.ones((2, 16), np.float32)}, "for one layer under two names: .*lora_A"),
    "adapters": ({A.replace("lora_A", "lora_A.other"): np.ones((2, 16), np.float32)}, "for one layer under two names"),
    "alpha": ({"transformer_blocks.0.attn1.to_q.alpha": np.ones(2, np.float32)}, "alpha is not one finite number"),
    "alpha nan": ({"transformer_blocks.0.attn1.to_q.alpha": np.float32(np.nan)}, "alpha is not one finite number"),
    "values": ({A: np.full((2, 16), np.inf, np.float32)}, "values that are not finite: the LoRA file is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_by_name(case, tmp_path):
    changed, message = REFUSED[case]
    tensors = write("ltx", tmp_path / "lora.safetensors", {A.partition(".lora")[0]: A.partition(".lora")[0]}) | changed
    save_file({key: np.asarray(a) for key, a in tensors.items() if a is not None}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=message):
        merged("ltx", tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(use_dora=True), "has use_dora=True: jvflow reads plain LoRA alone"),
        (dict(peft_type="LOHA"), "has peft_type=LOHA"),
        (dict(init_lora_weights="pissa_niter_4"), "has init_lora_weights=pissa_niter_4"),
        (dict(modules_to_save=["proj_out"]), "has modules_to_save="),
        (dict(r=5), "have rank 2, and its settings say 5: the settings belong to another file"),
        (dict(lora_alpha="3"), "ranks and alphas must be finite numbers"),
        (dict(alpha_pattern={"(": 3}), "a pattern is no regular expression"),
        (dict(rank_pattern=[3]), "must map patterns to numbers"),
    ],
)
def test_settings_of_peft_that_are_no_plain_lora(change, message, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(FOLDER / "ltx_peft", folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=message):
        merged("ltx", folder)
    with pytest.raises(ValueError, match=message):
        merged("ltx", folder / "adapter_model.safetensors")  # the settings in the same folder count too


def test_paths_that_are_no_lora(tmp_path):
    for content, message in (("{", "it is not JSON"), ("[3]", "it holds an array, not an object")):
        shutil.copytree(FOLDER / "ltx_peft", tmp_path / "broken", dirs_exist_ok=True)
        (tmp_path / "broken" / "adapter_config.json").write_text(content)
        with pytest.raises(ValueError, match=f"adapter_config.json is damaged: {message}"):
            merged("ltx", tmp_path / "broken")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "adapter_model.bin").write_bytes(b"\x80\x02")
    shutil.copytree(FOLDER, tmp_path / "many")
    for path, message in {
        "nowhere": "there is no LoRA file or folder .*nowhere",
        "empty": "holds nothing: give one safetensors file",
        "pickle": "holds adapter_model.bin: give one safetensors file",
        "pickle/adapter_model.bin": "is no safetensors file: convert the LoRA file to safetensors",
        "many": "holds ltx_comfyui.safetensors, .*: give one safetensors file",
    }.items():
        with pytest.raises(ValueError, match=message):
            merged("ltx", tmp_path / path)


# --- matrices that train on ------------------------------------------------------------------------


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: (0.2 * rng.standard_normal(a.shape)).astype(np.float32), tree)


ROUND_TRIPS = {
    "dit": ("dit_two_layers", "dit", dict(scan=False), ("qkv", "proj", "patch_in", "patch_out", "modulation")),
    "scanned dit": ("dit_two_layers", "dit", dict(scan=True), ("qkv", "mlp", "patch_in")),
    "ltx": ("ltx_tokens", "ltx_transformer", dict(scan=True), ("attn1", "ff/", "proj_in", "caption_projection")),
    "wan": ("wan_plain", "wan_transformer", dict(scan=False), ("attn2", "ffn")),
    "unet": ("unet_biflow", "unet2d", {}, ("attentions", "time_emb_proj")),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_our_own_export_reads_back_to_the_same_parameters(case, tmp_path):
    name, kind, options, layers = ROUND_TRIPS[case]
    config, tensors, _ = read_fixture(FIXTURES / f"{name}.safetensors")
    params = pretrained.import_checkpoint(kind, config, tensors, **options).params
    tuned = Tuning(layers, rank=2, alpha=4.0)
    trained, frozen = tuned.split(jax.eval_shape(tuned.add_lora, jax.random.key(0), params))
    scale = lambda a: np.full(a.shape, 2.0, np.float32)
    scales = {path: scale(a) for path, a in flatten_paths(frozen).items() if path.endswith("lora_scale")}
    whole = unflatten_paths(flatten_paths(params) | scales | flatten_paths(drawn(trained)))
    file = pretrained.export_lora(kind, config, whole, tmp_path, **options)
    back = tuned.add_lora(jax.random.key(1), tuning.add_file(params, lora.read(file, kind, config, **options), 2))
    have, want = flatten_paths(back), flatten_paths(whole)
    assert have.keys() == want.keys() and all(np.array_equal(have[path], want[path]) for path in want)
    merged = flatten_paths(pretrained.import_checkpoint(kind, config, tensors, lora=tmp_path, **options).params)
    for path, array in flatten_paths(tuning.merge_lora(whole)).items():
        np.testing.assert_allclose(merged[path], array, atol=1e-6)


@pytest.mark.parametrize("scan", [False, True])
def test_ranks_that_differ_and_arrays_of_several_tensors(scan, tmp_path):
    """Checks q, k and v with matrices of their own, in layers of unequal ranks: merged and as matrices they agree."""
    config, tensors, _ = read_fixture(FIXTURES / "dit_two_layers.safetensors")
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    written = {}
    for module, rank in {"0.attn1.to_q": 2, "0.attn1.to_v": 1, "1.attn1.to_k": 2, "1.attn1.to_out.0": 3}.items():
        written |= {f"transformer_blocks.{module}.lora_A.weight": draw(rank, 24)}
        written |= {f"transformer_blocks.{module}.lora_B.weight": draw(24, rank)}
    for part in "qk":  # layer 1: q and k share A
        name = f"transformer_blocks.1.attn1.to_{part}"
        written |= {f"{name}.lora_A.weight": written["transformer_blocks.1.attn1.to_k.lora_A.weight"]}
        written |= {f"{name}.lora_B.weight": draw(24, 2), f"{name}.alpha": np.array(3.0, np.float32)}
    save_file(written, tmp_path / "lora.safetensors")
    changes = lora.read(tmp_path / "lora.safetensors", "dit", config, scan=scan)
    plain = flatten_paths(pretrained.import_checkpoint("dit", config, tensors, scan=scan).params)
    ranks = {}
    for path, change in changes.items():
        a, b = change.factors()
        np.testing.assert_allclose(plain[path] + a @ b, change.added_to(np.asarray(plain[path])), atol=1e-5)
        ranks[path] = a.shape[-1]
    expected = {"blocks/qkv/kernel": 3, "blocks/proj/kernel": 3}
    if not scan:
        expected = {"blocks/0/qkv/kernel": 3, "blocks/1/qkv/kernel": 2, "blocks/1/proj/kernel": 3}
    assert ranks == expected
    start = Tuning(tuple(path.rpartition("/")[0] for path in changes), rank=3, alpha=3.0)
    whole = start.add_lora(jax.random.key(0), tuning.add_file(unflatten_paths(plain), changes, 3))
    found, merged = flatten_paths(whole), flatten_paths(tuning.merge_lora(whole))
    for path, change in changes.items():  # ranks that a layer lacks can train: A is not 0
        assert np.asarray(found[path.replace("kernel", "lora_a")]).any(-2).all()
        np.testing.assert_allclose(merged[path], change.added_to(np.asarray(plain[path])), atol=1e-5)
    with pytest.raises(ValueError, match="config.tune.rank=2 is below the rank 3 of blocks/.*: use 3 or more, or 0 to"):
        tuning.add_file(unflatten_paths(plain), changes, 2)


def test_convolutions_are_merged_and_do_not_train(tmp_path):
    write("wan", tmp_path / "lora.safetensors", {"patch_embedding": "patch_embedding"})
    found, plain = merged("wan", tmp_path / "lora.safetensors"), flatten_paths(base("wan")[3])
    matrices = load_file(tmp_path / "lora.safetensors")
    a, b = (matrices[f"patch_embedding.lora_{part}.weight"] for part in "AB")
    added = np.einsum("or,rifhw->fhwio", b[:, :, 0, 0, 0], a)
    np.testing.assert_allclose(found["patch_embedding/kernel"], plain["patch_embedding/kernel"] + added, atol=1e-6)
    kind, config = base("wan")[:2]
    with pytest.raises(ValueError, match="patch_embedding/kernel is not the kernel of a linear layer.*tune.rank=0"):
        tuning.add_file(base("wan")[3], lora.read(tmp_path / "lora.safetensors", kind, config), 4)
