"""Which files of a folder are read, and what the error says for everything that is no folder of a model."""

import hashlib
import json
import os
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import torch_files
from conftest import load_config
from public_models import SINGLE, export_random
from safetensors.numpy import load_file, save_file

from jvflow import pretrained
from jvflow.data import latents
from jvflow.pretrained import folder as folders
from jvflow.pretrained.public import folders as public_folders
from jvflow.training import loop as train

SIZES = dict(num_attention_heads=2, attention_head_dim=4, in_channels=3, out_channels=3, num_layers=1)
SIZES |= dict(caption_channels=5, cross_attention_dim=8)
STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_random("ltx_transformer", SIZES, tmp_path_factory.mktemp("ltx") / "transformer", size=4.0)


@pytest.fixture
def here(model, tmp_path):
    """Returns a copy of a model with another name of its file, so that no file has the usual name."""
    shutil.copytree(model, tmp_path / "here")
    (tmp_path / "here" / SINGLE).rename(tmp_path / "right.safetensors")
    return tmp_path / "here"


@pytest.fixture
def right(here):
    return load_file(here.parent / "right.safetensors")


def write(path, tensors, *, dtype=np.float32, add=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: (a + np.float32(add)).astype(dtype) for name, a in tensors.items()}, path)


def write_shards(folder, tensors, pattern, index=None, count=2, **options):
    """Writes shards named by a pattern such as NAME-{:05d}-of-{:05d}.safetensors, and an index if it has a name."""
    names = [pattern.format(i + 1, count) for i in range(count)]
    parts = {name: {key: tensors[key] for key in sorted(tensors)[i::count]} for i, name in enumerate(names)}
    for name, part in parts.items():
        write(folder / name, part, **options)
    if index:
        mapped = {key: name for name, part in parts.items() for key in part}
        (folder / index).write_text(json.dumps(dict(metadata={}, weight_map=mapped)))
    return names


def read(source, **options):
    """Returns the tensors that are chosen, as float32."""
    files = pretrained.open_folder(source, **options)[2]
    return {name: np.asarray(files[name], np.float32) for name in files}


def assert_right(source, right, places=6, **options):
    found = read(source, **options)
    assert found.keys() == right.keys()
    for name in right:
        np.testing.assert_allclose(found[name], right[name], atol=10.0**-places, err_msg=name)


# --- choice ---------------------------------------------------------------------------------------

WRONG = (f"{STEM}_old.safetensors", f"{STEM}.fp16.safetensors", f"{STEM}.non_ema.safetensors", "model.safetensors")
WRONG += (
    "taesd_encoder.safetensors",
    f"{STEM}.bin",
    "zzz.safetensors",
    "optimizer.bin",
    "pytorch_lora_weights.safetensors",
)


def test_the_file_of_the_kind_is_read_and_no_other(here, right):
    write(here / SINGLE, right)
    for name in WRONG:
        write(here / name, right, add=1.0)
    assert_right(here, right)


def test_the_index_of_the_kind_is_read_and_no_other(here, right):
    names = write_shards(here, right, STEM + "-{:05d}-of-{:05d}.safetensors", f"{SINGLE}.index.json")
    write_shards(
        here, right, STEM + ".fp16-{:05d}-of-{:05d}.safetensors", f"{STEM}.fp16.safetensors.index.json", add=1.0
    )
    for name in WRONG:
        write(here / name, right, add=1.0)
    assert_right(here, right)
    write(here / SINGLE, right, add=1.0)  # diffusers looks for the index first
    assert_right(here, right)
    (here / names[1]).unlink()
    with pytest.raises(
        ValueError, match=f"{names[1]} does not exist, and the index of the model names it: download it again"
    ):
        read(here)


@pytest.mark.parametrize(
    "pattern, index",
    [
        (f"{STEM}.fp16.safetensors", None),
        (STEM + ".fp16-{:05d}-of-{:05d}.safetensors", f"{STEM}.fp16.safetensors.index.json"),
        (STEM + ".fp16-{:05d}-of-{:05d}.safetensors", f"{SINGLE}.index.fp16.json"),
        (STEM + "-{:05d}-of-{:05d}.fp16.safetensors", f"{SINGLE}.index.fp16.json"),
        (STEM + ".bf16-{:05d}-of-{:05d}.safetensors", None),
        (STEM + "-{:05d}-of-{:05d}.safetensors", None),
        ("any name.v0.9.safetensors", None),
        ("any-{:05d}-of-{:05d}.safetensors", None),
    ],
)
def test_the_only_variant_or_else_the_only_other_set_is_read(here, right, pattern, index):
    if "{" in pattern:
        write_shards(here, right, pattern, index, dtype=np.float16)
    else:
        write(here / pattern, right, dtype=np.float16)
    for name in (
        f"{STEM}.non_ema.safetensors",
        f"{STEM}_old.safetensors",
        "ema_model.safetensors",
        "adapter_model.safetensors",
    ):
        write(here / name, right, add=1.0)
    assert_right(here, right, places=2)


def test_a_person_is_asked_where_the_rule_does_not_choose(here, right):
    write(here / f"{STEM}.fp16.safetensors", right, dtype=np.float16)
    write(here / f"{STEM}.bf16.safetensors", right, dtype=ml_dtypes.bfloat16)
    message = f"here holds {STEM}.bf16.safetensors, {STEM}.fp16.safetensors, and none has the usual name: give the path"
    with pytest.raises(ValueError, match=message):
        read(here)
    assert_right(here / f"{STEM}.fp16.safetensors", right, places=2)  # with the config.json next to it
    for path in here.glob("*.safetensors"):
        path.unlink()
    for name in ("a.safetensors", "b.safetensors"):
        write(here / name, right)
    with pytest.raises(ValueError, match="here holds a.safetensors, b.safetensors, and none has the usual name"):
        read(here)


@pytest.mark.parametrize("name", [f"{STEM}_old", f"{STEM}.non_ema", "ema", f"{STEM}.bak", "backup-3", "adapter_model"])
def test_a_backup_is_not_read_even_if_it_is_alone(here, right, name):
    write(here / f"{name}.safetensors", right)
    with pytest.raises(ValueError, match=f"here holds only {name}.safetensors, which by its name is not the model"):
        read(here)
    assert_right(here / f"{name}.safetensors", right)


def test_one_tensor_in_two_files(here, right):
    names = write_shards(here, right, STEM + "-{:05d}-of-{:05d}.safetensors")
    write(here / names[1], right, add=1.0)
    with pytest.raises(ValueError, match=f"the tensor .* is in .*{names[0]} and in .*{names[1]}, which may differ"):
        read(here)


def test_incomplete_shards(here, right):
    names = write_shards(here, right, STEM + "-{:05d}-of-{:05d}.safetensors", count=3)
    (here / names[1]).unlink()
    with pytest.raises(ValueError, match="here holds 2 files .* of 3, number 2 is missing: download it again"):
        read(here)
    with pytest.raises(ValueError, match=f"{names[0]} is one of several files of a model: give the folder"):
        read(here / names[0])
    write_shards(here, right, STEM + "-{:05d}-of-{:05d}.safetensors", count=2)
    with pytest.raises(ValueError, match="of two downloads: keep one of them|is missing"):
        read(here)


def test_files_of_pytorch_are_read_where_there_is_nothing_else(here, right):
    torch_files.write(here / f"{STEM}.bin", right)
    torch_files.write(here / "optimizer.bin", {"state": {}})
    assert_right(here, right)
    write(here / SINGLE, {name: a + 1 for name, a in right.items()})
    assert np.abs(read(here)["proj_in.weight"] - right["proj_in.weight"]).min() > 0.5


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"a": "../right.safetensors"}, "names '../right.safetensors', and shards are files in the same folder"),
        ({"a": "/etc/passwd"}, "names '/etc/passwd'"),
        ({"a": "sub/model.safetensors"}, "names 'sub/model.safetensors'"),
        ({"a": "..\\\\right.safetensors"}, "names "),
        ({"a": "config.json"}, "names 'config.json'"),
        ({"a": 3}, "has no weight_map from tensors to files: download it again"),
        ([], "is damaged: weight_map is not an object: download it again"),
        ({}, "has no weight_map from tensors to files"),
    ],
)
def test_an_index_names_files_of_its_folder(here, right, entries, message):
    (here / f"{SINGLE}.index.json").write_text(json.dumps(dict(weight_map=entries)))
    with pytest.raises(ValueError, match=message):
        read(here)


def test_links_stay_in_the_folder_or_in_the_cache_of_the_hub(here, right, model, tmp_path):
    (here / SINGLE).symlink_to(tmp_path / "right.safetensors")
    with pytest.raises(ValueError, match=f"{SINGLE} is a link to .*right.safetensors, outside of its folder: copy"):
        read(here)
    (here / SINGLE).unlink()
    write(here / "stored.safetensors", right)
    (here / SINGLE).symlink_to("stored.safetensors")
    assert_right(here, right)
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "abc123" / "transformer"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for i, name in enumerate(("config.json", SINGLE)):
        shutil.copy(model / name, cache / "blobs" / f"hash{i}")
        (snapshot / name).symlink_to(os.path.relpath(cache / "blobs" / f"hash{i}", snapshot))
    assert_right(snapshot, right)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(model / "config.json")
    with pytest.raises(ValueError, match="config.json is a link to .*, outside of its folder"):
        read(snapshot)
    os.mkfifo(here / "pipe.safetensors")
    assert_right(here, right)  # and no reader waits for the pipe


def test_sets_of_names():
    """Compares the choice among names alone with the rules of the libraries, which differ between the two."""
    choose = lambda file, *names: folders.choose_names(names, file, "F")
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "model.safetensors.index.json"
    assert choose("model.safetensors", *shards, index) == [index]
    assert choose("model.safetensors", *shards, index, "model.safetensors") == ["model.safetensors"]
    diffusers = [name.replace("model", STEM) for name in (*shards, index, "model.safetensors")]
    assert choose(SINGLE, *diffusers) == [diffusers[2]]
    assert choose("model.safetensors", "pytorch_model.bin", "model.fp16.safetensors") == ["model.fp16.safetensors"]
    assert choose("model.safetensors", "pytorch_model.bin", "training_args.bin", "x.bin") == ["pytorch_model.bin"]
    assert choose("model.safetensors", "README.md", "model.onnx") == []


def test_the_identity_of_a_model_covers_what_is_read(here, right):
    """Checks which files change the key of a data set, and that folders of safetensors keep the key they have."""
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    identity = lambda source, name="ltx_vae", **options: latents.model_fingerprint(
        name, checkpoint=(source,), **options
    )
    write(here / SINGLE, right)
    (here / "README.md").write_text("changes nothing")
    torch_files.write(here / f"{STEM}.bin", right)
    expected = [digest(here / "config.json"), digest(here / SINGLE)]
    assert identity(str(here), scale=2.0, tile=64, piece=3) == dict(
        name="ltx_vae", weights=expected, scale=2.0, tile=64
    )
    assert identity(here / SINGLE)["weights"] == expected[::-1]
    assert identity(here / SINGLE, "tiny")["weights"] == expected[1:]
    (here / SINGLE).unlink()
    assert identity(here)["weights"] == [expected[0], digest(here / f"{STEM}.bin")]
    whole = digest(here / f"{STEM}.bin")
    parts = [identity(here / f"{STEM}.bin" / part)["weights"][0] for part in ("generator", "critic")]
    assert parts == [f"{whole}generator.", f"{whole}critic."]
    with pytest.raises(ValueError, match="there is no file or folder .*nowhere"):
        identity(here / "nowhere")


# --- what is no model -----------------------------------------------------------------------------


def pipeline(folder, model):
    for name, kind in (
        ("transformer", "LTXVideoTransformer3DModel"),
        ("vae", "AutoencoderKLLTXVideo"),
        ("other", "Unknown"),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(dict(_class_name=kind)))
    (folder / "model_index.json").write_text(json.dumps(dict(_class_name="LTXPipeline")))
    return folder


def test_folders_that_are_no_model(model, tmp_path):
    whole = pipeline(tmp_path / "LTX", model)
    message = "LTX is a whole pipeline: give one of its models, .*/transformer .ltx_transformer., .*/vae .ltx_vae.$"
    with pytest.raises(ValueError, match=message):
        read(whole)
    cache = tmp_path / "models--a--b"
    for commit in ("1111", "2222"):
        (cache / "snapshots" / commit).mkdir(parents=True)
    with pytest.raises(
        ValueError, match="is the cache of the hub: give .*snapshots/1111, or the folder of a model in it"
    ):
        read(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("2222")
    with pytest.raises(ValueError, match="give .*snapshots/2222"):
        read(cache)
    (tmp_path / "group" / "small").mkdir(parents=True)
    shutil.copy(model / "config.json", tmp_path / "group" / "small")
    with pytest.raises(ValueError, match="group holds no config.json and no file of tensors: .* such as .*group/small"):
        read(tmp_path / "group")
    (tmp_path / "group" / "model.Q4.gguf").write_bytes(b"GGUF1234")
    with pytest.raises(ValueError, match="group holds no safetensors but model.Q4.gguf, which is not read"):
        read(tmp_path / "group")
    with pytest.raises(
        ValueError, match="group/small holds config.json and no file of tensors: download the safetensors"
    ):
        read(tmp_path / "group" / "small")
    with pytest.raises(
        ValueError, match="there is no file or folder .*transformr; .*LTX holds model_index.json, other, tr"
    ):
        read(whole / "transformr")
    with pytest.raises(
        ValueError, match="there is no folder Lightricks/LTX-Video; .* download it, or write hf://Lightricks"
    ):
        read("Lightricks/LTX-Video")
    with pytest.raises(ValueError, match="config.json is no model: give its folder, or the file of its tensors"):
        read(model / "config.json")
    assert public_folders(str(model)) == [str(model)] and not public_folders(str(whole))


@pytest.mark.parametrize(
    "content, message",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "is a Git LFS pointer .*: run git lfs pull",
        ),
        (b"", "is empty: download it again"),
        (b"<!DOCTYPE html><html>", "is a web page in place of the file: download it again"),
        (b"\n <html>", "is a web page"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file, which is not read: use a safetensors file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a bare pickle, which is not read"),
        (b"PK\x03\x04 a zip that is cut", "is cut off: download it again"),
        (b"12345678901234567890", "is not a safetensors file, nor one of PyTorch: download it again"),
        ((100).to_bytes(8, "little") + b'{"a": ', "is cut off in its header: download it again"),
        ((6).to_bytes(8, "little") + b'{"a":}', "is damaged: it has no valid header"),
    ],
)
def test_files_that_are_no_tensors(here, content, message):
    (here / SINGLE).write_bytes(content)
    for source in (here, here / SINGLE):
        with pytest.raises(ValueError, match=f"here/{SINGLE} {message}"):
            read(source)


def test_a_wrong_model_is_found_before_data_are_built(model, tmp_path):
    config = load_config("biflow/unet.py", "debug")
    config.run.update(progress=False)
    for source, message in (
        (model, "transformer holds a ltx_transformer"),
        ("org/name", "there is no folder org/name"),
    ):
        config.pretrained = f"{source},{source}"
        with pytest.raises(ValueError, match=message):
            train.train(config, tmp_path / "run")
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("data"))


def header(**tensors):
    text = json.dumps({name: dict(dtype="F32", shape=shape, data_offsets=at) for name, (shape, at) in tensors.items()})
    return len(text).to_bytes(8, "little") + text.encode() + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        header(a=([4], [0, 16]), b=([4], [8, 24])),
        header(a=([4], [0, 16]), b=([4], [16, 64]), c=([1], [60, 64])),
        header(a=([4], [4, 20])),
        header(a=([1000], [0, 64])),
        header(a=([2**62, 8], [0, 64])),
        header(a=([-4], [0, 64])),
        header(a=([16], [64, 0])),
    ],
    ids=["overlap", "overlap at the end", "a hole", "a large shape", "an overflow", "a negative size", "reversed"],
)
def test_safetensors_whose_tensors_overlap_or_lie_outside(here, content):
    (here / SINGLE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{SINGLE} (is not a complete safetensors file|is damaged)"):
        read(here)


def test_the_length_of_a_header_is_not_taken_for_the_begin_of_another_file(here, right):
    """Makes headers whose length begins with the bytes of a pickle or of a web page."""
    write(here / SINGLE, right)
    whole = (here / SINGLE).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for wanted in (0x0180, 0x0480, 0x3C20, 0x3C3C):
        more = wanted - length if wanted > length else wanted + 2**16 - length
        (here / SINGLE).write_bytes(
            (length + more).to_bytes(8, "little") + whole[8 : 8 + length] + b" " * more + whole[8 + length :]
        )
        assert_right(here, right)


def test_a_file_that_is_cut_off(here, right):
    write(here / SINGLE, right)
    whole = (here / SINGLE).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 300, 9):
        (here / SINGLE).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{SINGLE} .*download it again"):
            read(here)


@pytest.mark.parametrize("text", ["{", "", "[1]", '{"a": NaN', "\xff\xfe", '{"a":' * 30000])
def test_a_broken_config_is_named(here, right, text):
    write(here / SINGLE, right)
    (here / "config.json").write_text(text, "latin-1")
    for use in (read, pretrained.is_public, public_folders):
        with pytest.raises(ValueError, match="here/config.json .*: download it again"):
            use(str(here))


def test_float8_is_read(here, right):
    dtypes = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
    half = {name: a.astype(dtypes[i % 2]) for i, (name, a) in enumerate(sorted(right.items()))}
    write_float8(here / SINGLE, half)
    found = read(here)
    for name, a in half.items():
        np.testing.assert_array_equal(found[name], a.astype(np.float32))
    network = pretrained.load(here, dtype=np.float32)
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(network.params))


def write_float8(path, tensors):
    """Writes tensors in dtypes that the package safetensors does not take as arrays."""
    names = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
    entries, data = {}, b""
    for name, a in tensors.items():
        entries[name] = dict(dtype=names[a.dtype.name], shape=a.shape, data_offsets=[len(data), len(data) + a.nbytes])
        data += a.tobytes()
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
