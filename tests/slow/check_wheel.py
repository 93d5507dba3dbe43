"""Builds the wheel, installs it into an empty environment, and runs commands there, outside of the checkout.

    python tests/slow/check_wheel.py

Passes when the wheel adds one top-level name, `jvflow demo --help` and a training run of two steps work from another
folder, and nothing of the checkout can be imported. Downloads the dependencies and takes a few minutes, so pytest does
not collect it.
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 40_000_000
"""Bytes of the wheel, with the trained models."""
TRAIN = [
    "train",
    "--config=configs/biflow/procedural.py:debug",
    "--config.train.steps=2",
    "--config.run.progress=False",
    "--workdir=run",
]


def build(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(ROOT), "-w", str(folder)], check=True
    )
    (wheel,) = folder.glob("jvflow-*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert top == {"jvflow", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}, top
    configs = {f"jvflow/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    models = {str(path.relative_to(ROOT)) for path in (ROOT / "jvflow" / "models").glob("*/*.[js]*")}
    missing = {"jvflow/py.typed", *configs, *models} - set(names)
    assert not missing, missing
    assert not [name for name in names if "__pycache__" in name]
    assert wheel.stat().st_size < LARGEST, wheel.stat().st_size


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        wheel = build(folder)
        check_content(wheel)
        venv.create(folder / "venv", with_pip=True)
        programs, elsewhere = folder / "venv" / "bin", folder / "elsewhere"
        elsewhere.mkdir()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "JAX_PLATFORMS": "cpu"
        }
        run = lambda *command, **options: subprocess.run(command, cwd=elsewhere, env=environment, **options)
        run(programs / "python", "-m", "pip", "install", "--quiet", str(wheel), check=True)
        shown = run(programs / "jvflow", "demo", "--help", check=True, capture_output=True, text=True).stdout
        assert "--out" in shown, shown
        run(programs / "jvflow", *TRAIN, check=True)
        if any((ROOT / "jvflow" / "models").glob("*/card.json")):
            run(programs / "jvflow", "demo", "--quick", "--noopen", "--out=demo", check=True)
            assert (elsewhere / "demo" / "report.html").stat().st_size > 1_000_000
        assert (elsewhere / "run" / "metrics.jsonl").is_file()
        for name in ("launch", "configs"):
            assert run(programs / "python", "-c", f"import {name}", stderr=subprocess.DEVNULL).returncode, name
    print(f"{wheel.name}: installs, trains from its own configs, and adds one top-level name")


if __name__ == "__main__":
    main()
