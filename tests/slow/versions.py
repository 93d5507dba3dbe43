"""Runs the tests and the demo's first act with another Python and another JAX, in an environment of their own.

    python tests/slow/versions.py --python=python3.13 --jax=0.12

Installs this checkout into out/versions/, which is made anew. pytest does not collect this file.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the program, such as python3.13")
    parser.add_argument("--jax", required=True, help="the release, such as 0.12")
    options = parser.parse_args()
    folder = ROOT / "out" / "versions" / f"{Path(options.python).name}_jax{options.jax}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    programs = folder / "bin"
    environment = os.environ | dict(JAX_PLATFORMS="cpu", XDG_CACHE_HOME=str(folder / "cache"))
    run = lambda *command: subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, check=True)
    run(options.python, "-m", "venv", folder)
    pip = [programs / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "--editable", ".[test]", f"jax=={options.jax}.*")
    run(programs / "python", "-c", "import jax, sys; print('Python', sys.version.split()[0], 'JAX', jax.__version__)")
    run(programs / "python", "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    run(programs / "jvflow", "demo", "--quick", "--noopen", f"--out={folder / 'demo'}")
    print("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
