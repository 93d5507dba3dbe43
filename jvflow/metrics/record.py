"""The origin of a measured value: jvflow's revision, versions of packages, devices."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = ("jvflow", "jax", "jaxlib", "flax", "numpy", "scipy")
CHANGED = "with changes"
"""The mark of a revision whose package differs from what is committed."""
TIMEOUT = 30.0
"""Seconds that git may take."""


def revision(package: Path = PACKAGE) -> str:
    """Returns the git revision of jvflow, "with changes" if its files differ from it; its version where it has none.

    Only a checkout has a revision: git tracks the package, and its repository begins in the folder of the package. In
    all other cases, also where git is missing, the result is the version. An installed package never starts git.
    """
    root = package.parent
    if (root / ".git").exists():
        tracked = _git(root, "ls-files", "--", f"{package.name}/__init__.py")
        commit = tracked and _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", package.name)
        if commit and changes is not None:
            return f"{commit} {CHANGED}" if changes else commit
    return _version("jvflow")


def _git(root: Path, *arguments: str) -> str | None:
    """Returns what git prints; None if it is missing, fails or hangs. It writes nothing, not even its index."""
    # without variables such as GIT_DIR, which a hook sets and which name another repository
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=own, timeout=TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str | int]:
    """Returns the versions of jvflow and the packages that compute its metrics, and the devices of the job."""
    found = {name: _version(name) for name in PACKAGES}
    return found | dict(device=jax.devices()[0].device_kind, devices=jax.device_count(), processes=jax.process_count())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # a checkout that is not installed
