"""Damaged JSON: each error names the file and the cure, and a damaged line of a log costs that line alone."""

import json
import logging

import numpy as np
import pytest
from conftest import debug_config
from public_models import FIXTURES, export_random, read_fixture

from jvflow import pretrained
from jvflow.biflow import compare
from jvflow.data import records
from jvflow.data.dataset_key import FileHashes
from jvflow.data.records import Clip
from jvflow.files import read_json, read_json_lines
from jvflow.training.workdir import Metrics, Workdir

DAMAGES = {
    "empty": b"",
    "cut": b'{"key": "ab',
    "zeros": bytes(300),
    "array": b"[1, 2]",
    "number": b"7",
    "not utf-8": b'{"key": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "missing": None,
}
MESSAGES = {
    "empty": "is empty",
    "cut": "is not JSON",
    "zeros": "is not JSON",
    "array": "holds an array, not an object",
    "number": "holds a whole number, not an object",
    "not utf-8": "is not UTF-8",
    "deep": "is not JSON",
    "missing": "does not exist",
}


def damage(file, name):
    if DAMAGES[name] is None:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(DAMAGES[name])


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_with_its_cure(tmp_path, name):
    file = tmp_path / "a.json"
    damage(file, name)
    with pytest.raises(ValueError, match=rf"{file} .*{MESSAGES[name]}.*: restore it$"):
        read_json(file, "restore it")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{}", "is incomplete: it has no key, splits: "),
        ('{"key": 1, "splits": {}}', "is damaged: key is not a string: "),
        ('{"key": "a", "splits": [1]}', "is damaged: splits is not an object: "),
    ],
)
def test_missing_and_wrong_entries_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=f"a.json {message}restore it"):
        read_json(tmp_path / "a.json", "restore it", keys=dict(key=str, splits=dict))


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"key": "é"}', "utf-8")
    assert read_json(tmp_path / "a.json", "") == {"key": "é"}


# --- everywhere -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Returns {name of a file: (the file, a function that reads it)} for the JSON files of runs, data and models."""
    root = tmp_path_factory.mktemp("places")
    config, run = debug_config(root), Workdir(root / "run")
    run.begin(config)
    run.note_data("abc", {})
    run.note_frozen("model", "0" * 8)
    (run.checkpoints / "1").mkdir(parents=True)
    clip = Clip(np.zeros((2, 8, 8, 3), np.uint8), 8.0, 0.0, "", "a.mp4")
    records.write(root / "data", {"train": [clip]}, settings=dict(kind="none"))
    fixture = read_fixture(FIXTURES / "dit_two_layers.safetensors")
    model = export_random("dit", fixture[0], root / "model")
    index = model / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps(dict(weight_map=dict(a="diffusion_pytorch_model.safetensors"))))
    (root / "compare.json").write_text('{"results": []}')
    return {
        "config.json of a run, resumed": (run.config_file, lambda: Workdir.open(run.path, config)),
        "config.json of a run, loaded": (run.config_file, lambda: Workdir.read(run.path)),
        "data.json": (run.path / "data.json", lambda: run.data_key),
        "frozen.json": (run.path / "frozen.json", lambda: run.check_frozen("model", "0" * 8)),
        "manifest.json": (root / "data" / "manifest.json", lambda: records.manifest(root / "data")),
        "report.json": (root / "data" / "report.json", lambda: records.report(root / "data")),
        "dataset_info.json": (root / "data" / "dataset_info.json", lambda: records.check_readable(root / "data")),
        "features.json": (root / "data" / "features.json", lambda: records.check_readable(root / "data")),
        "config.json of a model": (model / "config.json", lambda: pretrained.open_folder(model)),
        "config.json, asked for its kind": (model / "config.json", lambda: pretrained.is_public(model)),
        "index of safetensors": (index, lambda: pretrained.open_folder(model)),
        "compare.json": (root / "compare.json", lambda: compare._results(root / "compare.json")),
    }


PLACES = ["config.json of a run, resumed", "config.json of a run, loaded", "data.json", "frozen.json", "manifest.json"]
PLACES += ["report.json", "dataset_info.json", "features.json", "config.json of a model", "index of safetensors"]
PLACES += ["config.json, asked for its kind", "compare.json"]


@pytest.mark.parametrize("place", PLACES)
def test_each_json_file_is_named_when_it_is_damaged(places, place):
    file, read = places[place]
    content = file.read_bytes()
    read()
    try:
        for name in DAMAGES:
            if name != "missing":
                damage(file, name)
                with pytest.raises(ValueError, match=rf"{file} .*{MESSAGES[name]}.*: .{{10,}}"):
                    read()
    finally:
        file.write_bytes(content)


KEYED = ["config.json of a run, loaded", "frozen.json", "manifest.json", "index of safetensors", "compare.json"]


@pytest.mark.parametrize("place", [*KEYED, "features.json", "dataset_info.json"])
def test_lost_entries_are_no_key_error(places, place):
    file, read = places[place]
    content = file.read_bytes()
    try:
        for entries in ("{}", '{"a": 1}'):
            file.write_text(entries)
            reason = "is incomplete: it has no " if place in KEYED else "is damaged .*: restore it"
            with pytest.raises(ValueError, match=f"{file}.* {reason}"):
                read()
    finally:
        file.write_bytes(content)


def test_a_model_config_without_its_entries_is_named(tmp_path):
    """Removes and damages each entry of the config.json of a DiT: the model stays the same, or the error names it."""
    fixture = read_fixture(FIXTURES / "dit_two_layers.safetensors")
    file = export_random("dit", fixture[0], tmp_path / "model") / "config.json"
    config, failed = json.loads(file.read_text()), set()
    for key in config:
        for value in (None, "x", []):
            changed = config | {key: value}
            file.write_text(json.dumps(changed if value is not None else {k: v for k, v in config.items() if k != key}))
            try:
                pretrained.inspect(file.parent)
            except ValueError as error:
                failed.add(key)
                assert str(file) in str(error) or key in str(error) or "are not the 44 tensors" in str(error)
    assert {"num_layers", "num_attention_heads", "_class_name"} <= failed


def test_incomplete_results_of_a_comparison_are_made_again(tmp_path):
    whole = dict.fromkeys(compare.NEEDED, 1.0)
    results = [whole, {"method": "flow"}, 7, None]
    (tmp_path / "compare.json").write_text(json.dumps(dict(results=results)))
    assert compare._results(tmp_path / "compare.json") == [whole]


# --- logs -----------------------------------------------------------------------------------------

GOOD = [json.dumps({"step": step, "loss": step / 7}) for step in range(1, 7)]


def damaged_log() -> bytes:
    lines = [line.encode() for line in GOOD]
    lines[1] += b"\n" + bytes(300)  # a block of NUL in its own line
    lines[2] = bytes(20) + lines[2]  # a block of NUL before a good line
    lines[3] += b'\n{"step": 4, "lo'  # half a line in the middle
    lines[4] += b'\n\xff\xfe\n[1]\n7\n{"loss": 1.0}\n{"step": "5"}'
    return b"\n".join(lines) + b'\n{"step": 7, "lo'


def test_damaged_lines_are_told_from_good_ones(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(damaged_log())
    whole = [line for line, content in read_json_lines(tmp_path / "a.jsonl") if isinstance(content, dict)]
    assert [line for line in whole if line in GOOD] == GOOD


@pytest.mark.parametrize("name", ["metrics.jsonl", "validation.jsonl"])
def test_a_resumed_run_keeps_the_good_lines(tmp_path, caplog, name):
    (tmp_path / name).write_bytes(damaged_log())
    with caplog.at_level(logging.WARNING):
        Metrics(Workdir(tmp_path), 5, tensorboard=False)
    assert (tmp_path / name).read_text() == "".join(f"{line}\n" for line in GOOD[:5])
    assert f"{tmp_path / name} has 8 damaged lines, which are left out" in caplog.text


def test_losses_are_those_of_the_good_lines(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(damaged_log())
    assert Workdir(tmp_path).losses() == [(step, step / 7) for step in range(1, 7)]
    assert "damaged lines" in caplog.text


def test_the_log_is_replaced_as_a_whole(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_bytes(damaged_log())
    monkeypatch.setattr("pathlib.Path.replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        Metrics(Workdir(tmp_path), 5, tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == damaged_log()


def test_known_hashes_survive_damaged_lines(tmp_path):
    video, known = tmp_path / "a.mp4", tmp_path / "sha256.jsonl"
    video.write_bytes(b"video")
    digest = FileHashes(known)([video])
    line = known.read_bytes()
    known.write_bytes(b"\xff\n7\n[1]\n{}\n" + bytes(40) + b"\n" + line.replace(digest.encode(), b"0" * 64) + b'["cut')
    assert FileHashes(known)([video]) == "0" * 64  # the good line is used
