"""Writes results with the date, the machine and the versions of packages."""

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from jvflow.files import write_text

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "flax", "optax", "diffrax", "grain", "numpy", "torch")


def write(name: str, figures: dict) -> None:
    """Writes figures into `results/NAME.json`, with the date, the machine and the versions."""
    record = figures | dict(date=datetime.date.today().isoformat(), machine=_machine(), versions=_versions())
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / f"{name}.json", json.dumps(record, indent=1) + "\n")


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
