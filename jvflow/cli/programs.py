"""Compiled programs on disk: a command that runs again, or a similar one, does not compile them again."""

import hashlib
import os
import platform
from pathlib import Path

from jvflow.files import user_cache

OWN_FOLDER = "JAX_COMPILATION_CACHE_DIR"
"""The environment variable of JAX that names another folder, or none if it is empty."""
MOST_BYTES = 4 * 2**30
"""Bytes on disk; JAX removes the programs that were not used for the longest time."""
LEAST_SECONDS = 0.2
"""Programs that compile faster are not kept."""


def keep() -> None:
    """Keeps the programs of this process in the user's cache. Call it before the first import of equinox.

    Leaves the folder as it is where the environment names one; keeps nothing where the user's cache cannot be written.
    Turns off equinox's checks at run time, unless EQX_ON_ERROR is set.
    """
    # equinox's checks inside of programs call the host, and JAX keeps no such program; jvflow checks before it compiles
    os.environ.setdefault("EQX_ON_ERROR", "off")
    if OWN_FOLDER in os.environ:
        return
    folder = user_cache() / "programs" / processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def processor() -> str:
    """Returns a name for the kind of processor: machines that share a home do not run one another's CPU programs."""
    described = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        described += "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
