"""Writes results with the date, the machine and the versions of packages.

Every benchmark has the flag --record of this file: without it, results go to `out/benchmarks`, and the records that git
tracks stay as they are.
"""

import datetime
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
from absl import flags

from jvflow.files import write_text

RECORD = flags.DEFINE_bool("record", False, "Write the result to benchmarks/results, and not to out/benchmarks.")
flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["record"])  # shown by --help of every benchmark
RESULTS, OUT = Path(__file__).parent / "results", Path("out/benchmarks")
PACKAGES = ("jax", "flax", "optax", "diffrax", "grain", "numpy", "torch")


def file(name: str) -> Path:
    """Returns where the file `name` of a result goes: into `RESULTS` with --record, otherwise into `OUT`."""
    return (RESULTS if RECORD.value else OUT) / name


def write(name: str, figures: dict) -> Path:
    """Writes figures into NAME.json with the date, the machine and the versions; prints and returns its path."""
    record = figures | dict(date=datetime.date.today().isoformat(), machine=_machine(), versions=_versions())
    path = file(f"{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}", flush=True)
    return path


def _machine() -> dict:
    return dict(platform=platform.platform(), devices=[d.device_kind for d in jax.devices()], cores=_cores())


def _cores() -> int:
    """Returns the number of processors that this process may use; the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _versions() -> dict:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found
