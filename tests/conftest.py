"""Settings of every test: reproducible, strict where the stack allows it, compiled programs kept between runs."""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CACHE = ROOT / ".cache" / "xla"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def shared() -> Path:
    """The folder of real clips and reference outputs, beside the checkout."""
    if not SHARED.exists():
        pytest.skip("needs the folder shared/ beside the checkout")
    return SHARED


def debug_config(folder, *, steps: int = 20):
    """The procedural experiment in its debug mode, quiet, with its data in `folder`."""
    config = load_config("biflow/procedural.py", "debug")
    config.data.cache = str(Path(folder) / "data") if folder else ""
    config.train.steps = steps
    config.run.update(progress=False, tensorboard=False)
    return config


def load_config(name: str, mode: str = ""):
    """The config of a file below `configs/`."""
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(mode)
