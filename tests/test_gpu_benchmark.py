"""The script that measures a GPU, at tiny sizes on a CPU: it shows that every case runs."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.integration
def test_every_case_runs(tmp_path):
    for needed in ("configs.biflow.unet", "jvflow.flowframes.sample"):
        pytest.importorskip(needed, reason="its cases run two papers")
    command = [sys.executable, "-m", "benchmarks.gpu", "--size=tiny"]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads((tmp_path / "out" / "benchmarks" / "gpu.json").read_text())["cases"]
    assert set(cases) == {"rates", "attention", "dit", "pytorch", "ltx", "wan", "unet", "memory"}
    assert not {name: case["failed"] for name, case in cases.items() if "failed" in case}
