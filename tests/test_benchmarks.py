"""Benchmarks: no run of one overwrites a record that git tracks, unless --record asks for it."""

import ast
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from benchmarks import record

FILES = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("asked, folder", [(False, "out/benchmarks"), (True, "tracked")])
def test_a_result_is_tracked_only_if_asked(tmp_path, monkeypatch, capsys, asked, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "RECORD", SimpleNamespace(value=asked))
    monkeypatch.setattr(record, "RESULTS", tmp_path / "tracked")
    written = record.write("solver", dict(ratio=1.5))
    assert [file.resolve() for file in tmp_path.rglob("*.json")] == [tmp_path / folder / "solver.json"]
    assert json.loads(written.read_text())["ratio"] == 1.5
    assert capsys.readouterr().out == f"wrote {written}\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_benchmark_names_the_folder_of_records_itself(file):
    """`record.file` and `record.write` say where a result goes."""
    tree = ast.parse(file.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert file.stem == "record" or "RESULTS" not in names


@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments, text", [(["--help"], "--[no]record"), (["none"], "give the name of one benchmark")]
)
def test_the_common_benchmarks_have_the_flag_and_name_what_they_know(arguments, text):
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and text in done.stdout + done.stderr and "Traceback" not in done.stderr
