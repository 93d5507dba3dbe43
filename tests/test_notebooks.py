"""Notebooks, run as scripts, say what they check: quantities, values, and where the pictures are."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_each_cell_that_checks_prints_what_it_found(file):
    cells = file.read_text().split("\n# %%")
    checking = [cell for cell in cells if "\nassert " in cell or "\n    assert " in cell]
    assert checking and "get_fignums" in cells[-1]
    for cell in checking:
        assert "print(" in cell, cell


@pytest.mark.integration
def test_a_notebook_prints_its_figures_and_writes_its_pictures(tmp_path):
    environment = os.environ | dict(MPLBACKEND="Agg", PYTHONPATH=str(ROOT))
    command = [sys.executable, str(ROOT / "notebooks" / "coupling.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "share whose partner is of the same video: 0." in done.stdout
    line = done.stdout.splitlines()[-1]
    assert (tmp_path / line.removeprefix("picture: ").partition(",")[0]).stat().st_size > 1000
