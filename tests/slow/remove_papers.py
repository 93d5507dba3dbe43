"""Removes each paper in turn from a copy of the project, and checks that the rest still works.

    python tests/slow/remove_papers.py [--papers=vlfm] [--whole]

In each copy every module imports, the remaining tests collect, and each other paper trains and samples in debug mode.
With --whole the remaining tests run too.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ("biflow", "vlfm", "flowframes")
IMPORT_ALL = """
import importlib, pkgutil, jvflow
assert jvflow.__path__[0].startswith({root!r}), jvflow.__path__
for module in pkgutil.walk_packages(jvflow.__path__, "jvflow."):
    if not module.name.startswith("jvflow.cli."):  # commands are programs: they share names of flags
        importlib.import_module(module.name)
"""


def copy_without(paper: str, to: Path) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith(
            tuple(f"{top}/{paper}/" for top in ("jvflow", "configs", "tests"))
        ):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def check(paper: str, whole: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkout"
        copy_without(paper, root)
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
        environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}

        def run(*arguments: str, show: bool = False) -> str:
            command = [sys.executable, *arguments]
            done = subprocess.run(command, cwd=root, env=environment, capture_output=not show, text=True)
            if done.returncode:
                sys.exit(f"without {paper}: {' '.join(arguments)[:200]} failed\n{done.stdout or ''}{done.stderr or ''}")
            return done.stdout or ""

        run("-c", IMPORT_ALL.format(root=str(root)))
        lines = run("-m", "pytest", "tests", "--collect-only", "-q").splitlines()
        collected = sum(int(line.rpartition(" ")[2]) for line in lines if re.fullmatch(r"tests/\S+\.py: \d+", line))
        assert collected, lines[-5:]
        print(f"without {paper}: imports; {collected} tests collect", flush=True)
        for other in (name for name in PAPERS if name != paper):
            options = ["--config.run.progress=False", "--config.train.steps=4", f"--config.data.cache={folder}/data"]
            options += ["--config.inversion.rho=0.0"] if other == "flowframes" else []
            config = f"--config=configs/{other}/procedural.py:debug"
            run("-m", "launch.train", config, f"--workdir={folder}/{other}", *options)
            run("-m", "launch.sample", f"--workdir={folder}/{other}", f"--out={folder}/{other}/out", "--count=2")
            print(f"without {paper}: {other} trains and samples", flush=True)
        if whole:
            began = time.time()
            run("-m", "pytest", "tests", "-m", "", "-n", "2", "--dist", "loadfile", "-q", show=True)
            print(f"without {paper}: the remaining tests pass, {time.time() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--papers", default=",".join(PAPERS))
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    for paper in arguments.papers.split(","):
        check(paper, arguments.whole)


if __name__ == "__main__":
    main()
