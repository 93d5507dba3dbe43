"""Settings of every test: reproducible, strict where the stack allows it, compiled fast and kept between runs."""

import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CACHE = ROOT / ".cache" / "xla"
SLOW = (
    "ltx_flowframes", "solver", "inversion", "dryrun", "config", "clips", "train", "dit", "wan_flowframes", "prediction", "stable_diffusion", "wan_vae", "sample",
    "mesh", "compare", "demo",
)

# in the environment, so that the processes that tests start compile and round as the tests do
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # of machine code alone: programs are small and compiling them is most of the time
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # hundreds of small programs are the same in many tests

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_collection_modifyitems(items):
    """Files that take longest come first: none of them is begun when the other processes have nothing left."""
    order = {f"test_{name}": i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


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
