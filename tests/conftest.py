"""Settings of all tests: strict JAX checks, fast compilation, a cache of programs, and a limit of memory."""

import ctypes
import gc
import importlib.util
import os
import resource
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CACHE = ROOT / ".cache" / "xla"
MOST_MEMORY = 3 * 2**30
"""Bytes that one process of the tests may take."""

# set in the environment, so that processes that tests start compile and round as the tests do
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# fewer optimizations of machine code: programs are small, and compiling them takes most of the time
flags = "--xla_force_host_platform_device_count=4 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    flags += " --xla_cpu_use_fusion_emitters=false"  # a later XLA ends the process at a flag that it does not know
os.environ.setdefault("XLA_FLAGS", flags)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
# caches small programs too: many tests share hundreds of them
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# programs without the places of their source code: recording them costs time in every trace
os.environ["JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS"] = "false"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# traces make many objects and few cycles: look for these less often
gc.set_threshold(200_000, 50, 1_000)


def pytest_addoption(parser):
    """Adds --attention, which runs the tests of networks with the kernel of another device (`attention_kernels`)."""
    parser.addoption("--attention", choices=("splash", "cudnn"), help="compute attention of networks by this kernel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Computes the attention of networks by the kernel of --attention, but in tests of `own_attention`."""
    name = item.config.getoption("--attention")
    if not name or item.get_closest_marker("own_attention"):
        return (yield)
    from attention_kernels import attention_by

    jax.clear_caches()  # programs of other tests have another attention
    with attention_by(name) as shapes:
        try:
            return (yield)
        finally:
            item.user_properties.append(("attention", len(shapes)))
            jax.clear_caches()


def pytest_collection_modifyitems(items):
    """Puts slow tests first, so that none of them begins when the other processes have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Frees the compiled programs after each test file; later files load them from disk."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # otherwise glibc keeps the freed memory


@pytest.fixture(scope="session", autouse=True)
def unchecked_saves():
    """Saves checkpoints without the check of keys: it is slow for the many small slices that orbax takes."""
    from jvflow.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def unchecked(self, *args, **options):
        with jax.debug_key_reuse(False):
            return save(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", unchecked)
        yield


def pytest_sessionfinish(session):
    """Reports the peak memory of this worker to the main process."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["memory"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Records a worker's peak memory in the main process."""
    del error
    node.config.stash.setdefault(MEMORY, []).append(getattr(node, "workeroutput", {}).get("memory", 0))


MEMORY = pytest.StashKey[list]()


def pytest_terminal_summary(terminalreporter, config):
    """Prints the memory of the workers, and fails the run if one took too much."""
    if name := config.getoption("--attention"):
        properties = [of for report in terminalreporter.getreports("passed") for of in report.user_properties]
        used = [count for key, count in properties if key == "attention" and count]
        terminalreporter.write_line(f"{name} computed attention in {len(used)} tests, {sum(used)} times")
    memory = config.stash.get(MEMORY, [])
    if memory:
        terminalreporter.write_line(f"memory of the workers: {', '.join(f'{m / 2**30:.2f} GiB' for m in memory)}")
        if max(memory) > MOST_MEMORY:
            terminalreporter.write_line(f"ERROR: a worker took more than {MOST_MEMORY / 2**30:.0f} GiB", red=True)
            terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def shared() -> Path:
    """Returns the folder of real clips and reference outputs next to the checkout."""
    if not SHARED.exists():
        pytest.skip("needs the folder shared/ next to the checkout")
    return SHARED


def debug_config(folder, *, steps: int = 20):
    """Returns Bi-flow's procedural experiment in its debug mode, quiet, with its data in `folder`."""
    config = load_config("biflow/procedural.py", "debug")
    config.data.cache = str(Path(folder) / "data") if folder else ""
    config.train.steps = steps
    config.run.update(progress=False, tensorboard=False)
    return config


def config_flag(name: str, mode: str = "") -> str:
    """Returns `--config=FILE:MODE` for a command; skips the test if the paper of the config was removed."""
    if not (ROOT / "configs" / name).exists():
        pytest.skip(f"needs configs/{name}")
    return f"--config=configs/{name}" + (f":{mode}" if mode else "")


def load_config(name: str, mode: str = ""):
    """Returns the config of a file below `configs/`; skips the test if its paper was removed."""
    file = ROOT / "configs" / name
    if not file.exists():
        pytest.skip(f"needs configs/{name}")
    spec = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(mode)


@pytest.fixture
def feature_network(monkeypatch):
    """Replaces the networks of features in evaluations by a `SmallNetwork`."""
    from small_network import SmallNetwork

    from jvflow.data import pipeline
    from jvflow.metrics import evaluation_protocol, in_evaluation
    from jvflow.metrics.extractor import weights_of

    small = SmallNetwork()
    monkeypatch.setattr(weights_of, "load", small.load)
    for cached in (evaluation_protocol._network, in_evaluation._real, pipeline.warn_once):
        cached.cache_clear()
    yield small
    for cached in (evaluation_protocol._network, in_evaluation._real):
        cached.cache_clear()
