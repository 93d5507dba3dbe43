"""Work that several processes share: each item is made once, in order, and errors reach all processes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import CACHE, ROOT

from jvflow.parallel import processes

WORK = """
import sys
import numpy as np
from jvflow.parallel import mesh as meshes
from jvflow.parallel import processes
processes.start()
import jax
me = jax.process_index()
def make(i):
    return dict(latent=np.full((i + 1, 2), i, np.float32), name=f"clip {i}", number=np.float32(i / 2), by=np.int32(me))
show = lambda m: (m["latent"].shape, m["name"], type(m["name"]).__name__, float(m["number"]), int(m["by"]))
print("map", [show(m) for m in processes.distributed_map(5, make)], flush=True)
pairs = processes.distributed_map(3, lambda i: (np.arange(i), np.float64(i)))
print("tuple", [float(a.sum()) + float(b) for a, b in pairs], flush=True)

calls = []
from collections.abc import Sequence
class Lazy(Sequence):
    def __len__(self): return 7
    def __getitem__(self, i): calls.append(i); return dict(value=np.arange(i))
seen = []
def use(sources):
    seen.extend([len(sources["b"][i]["value"]) for i in range(7)] + [len(sources["a"][3]["value"])])
processes.serve_items(dict(a=Lazy(), b=Lazy()), use)
print("served", seen if me == 0 else "nothing", "mine", calls, flush=True)
try:
    processes.on_primary(lambda: 1 / 0)
except Exception as error:
    print("primary", type(error).__name__, error, flush=True)
parts = processes.from_each(dict(rows=np.full((100_000 * me, 1), me / 3), name=f"process {me}"))
print("each", [(p["rows"].shape, str(p["rows"].dtype), float(p["rows"].sum()), p["name"]) for p in parts], flush=True)
any_process = processes.AnyProcess(meshes.make_mesh())
print("any", [any_process(me == 1 and step == 2) for step in range(5)], flush=True)
rows = processes.local_rows(5)
stream = ((rows * 10 + frame, np.float32(rows)) for frame in range(100))
taken = []
processes.gather_stream(stream, 5, lambda items: taken.extend([next(items) for _ in range(2)]))
print("gathered", rows.tolist(), [[part.tolist() for part in item] for item in taken], flush=True)
try:
    processes.gather_stream(stream, 5, lambda items: next(items) and 1 / 0)
except Exception as error:
    print("gathered", type(error).__name__, error, flush=True)
processes.barrier("the end")
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def job(count: int, code: str = WORK) -> list[list[str]]:
    """Returns the lines that each of `count` processes prints."""
    address = f"localhost:{free_port()}"

    def begin(index):
        environment = dict(
            os.environ,
            XLA_FLAGS="",
            JAX_PLATFORMS="cpu",
            JAX_COMPILATION_CACHE_DIR=str(CACHE),
            PYTHONPATH=str(ROOT),
            JVFLOW_COORDINATOR=address,
            JVFLOW_PROCESSES=str(count),
            JVFLOW_PROCESS=str(index),
        )
        return subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    running = [begin(index) for index in range(count)]
    outputs = [process.communicate(timeout=240) for process in running]
    assert not any(process.returncode for process in running), outputs
    return [[line for line in out.splitlines() if line and not line.startswith("[Gloo]")] for out, _ in outputs]


def test_work_is_divided_and_collected_in_order():
    first, second, third = job(3)
    expected = [((i + 1, 2), f"clip {i}", "str", i / 2, i % 3) for i in range(5)]
    for lines in (first, second, third):
        assert lines[0] == f"map {expected}"
        assert lines[1] == "tuple [0.0, 1.0, 3.0]"
        sums = [
            ((100_000 * i, 1), "float64", float(np.full(100_000 * i, i / 3).sum()), f"process {i}") for i in range(3)
        ]
        assert lines[4] == f"each {sums}"
        assert lines[5] == "any [False, False, False, True, False]"  # one call later, on every process at once
    assert first[2] == "served [0, 1, 2, 3, 4, 5, 6, 3] mine [0, 3, 6, 3]"
    assert (second[2], third[2]) == ("served nothing mine [1, 4, 4]", "served nothing mine [2, 5, 5]")
    whole = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert first[6] == f"gathered [0, 1] {[[[0, 10, 20, 30, 40], whole], [[1, 11, 21, 31, 41], whole]]}"
    assert (second[6], third[6]) == ("gathered [2, 3] []", "gathered [4, 4] []")
    assert first[7] == "gathered ZeroDivisionError division by zero"
    assert second[7] == third[7] == "gathered ValueError the primary process failed: see its error message"
    assert first[3] == "primary ZeroDivisionError division by zero"
    assert second[3] == third[3] == "primary ValueError the primary process failed: see its error message"


def test_one_process_calls_its_argument():
    assert processes.distributed_map(3, lambda i: i) == [0, 1, 2]
    sources, seen = dict(a=[1, 2]), []
    processes.serve_items(sources, seen.append)
    assert seen == [sources] and processes.is_primary()
    assert processes.primary_first(lambda: 5) == 5
    assert list(processes.from_each(dict(a=1))) == [dict(a=1)]
    with pytest.raises(ZeroDivisionError):
        processes.on_primary(lambda: 1 / 0)


def test_packed_items_are_unpacked_unchanged():
    item = dict(latent_mean=np.ones((2, 3), np.float32), caption="ä b", fps=np.float32(12.5), source="")
    back = processes._unpack(processes._pack(item))
    assert back["caption"] == "ä b" and back["source"] == "" and isinstance(back["caption"], str)
    assert back["fps"] == np.float32(12.5) and back["fps"].dtype == np.float32 and np.ndim(back["fps"]) == 0
    np.testing.assert_array_equal(back["latent_mean"], item["latent_mean"])
    with pytest.raises(ValueError):  # neither packing nor unpacking uses pickle
        processes._unpack(processes._pack(dict(a=np.array([object()], object))))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(JVFLOW_COORDINATOR="localhost:1234"), "JVFLOW_COORDINATOR without JVFLOW_PROCESS and JVFLOW_PROCESSES"),
        (dict(JVFLOW_COORDINATOR="localhost", JVFLOW_PROCESSES="2", JVFLOW_PROCESS="1"), "give HOST:PORT"),
        (
            dict(JVFLOW_COORDINATOR="localhost:1", JVFLOW_PROCESSES="2", JVFLOW_PROCESS="2"),
            "number of this process, counted from 0",
        ),
        (
            dict(JVFLOW_COORDINATOR="localhost:1", JVFLOW_PROCESSES="two", JVFLOW_PROCESS="0"),
            "JVFLOW_PROCESSES='two' is not a whole number",
        ),
        (
            dict(JVFLOW_COORDINATOR="localhost:1", JVFLOW_PROCESSES="2", JVFLOW_PROCESS="1", JVFLOW_TIMEOUT="1"),
            "localhost:1 does not answer within 1 s.*process 0 runs",
        ),
        (dict(JVFLOW_DISTRIBUTED="1"), "JVFLOW_DISTRIBUTED=1 needs a scheduler"),
    ],
)
def test_wrong_settings_of_a_job(monkeypatch, settings, message):
    for name in ("JVFLOW_COORDINATOR", "JVFLOW_PROCESSES", "JVFLOW_PROCESS", "JVFLOW_TIMEOUT", "JVFLOW_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        processes.start()
