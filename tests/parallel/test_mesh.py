"""Meshes: valid sizes, the rows that a process reads, and equal training on one device and on eight."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, config_flag, load_config
from jax import P

from jvflow.data.pipeline import Batch
from jvflow.experiment import assemble
from jvflow.parallel import mesh as meshes
from jvflow.training.sharded import check_mesh, init_and_abstract_state
from jvflow.training.step import split_microbatches, train_step


@pytest.mark.integration
def test_eight_devices_equal_one_in_microbatches_with_split_tokens():
    """Compares losses of AdamW and parameters of SGD; `make check-meshes` checks all meshes and papers."""
    config_flag("biflow/procedural.py")  # skips the test without this paper
    command = [sys.executable, "tests/slow/equal_meshes.py", "biflow", "--steps=3", "--meshes=microbatches"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "sizes, expected",
    [
        (None, (4, 1, 1, 1)),
        (dict(fsdp=-1), (1, 4, 1, 1)),
        (dict(data=-1, tensor=2), (2, 1, 1, 2)),
        (dict(data=2, sequence=2), (2, 1, 2, 1)),
    ],
)
def test_one_axis_takes_the_devices_that_are_left(sizes, expected):
    assert tuple(meshes.make_mesh(sizes).shape.values()) == expected


@pytest.mark.parametrize(
    "sizes, message",
    [
        (
            dict(data=-1, fsdp=3),
            "fsdp=3, sequence=1, tensor=1. does not multiply to the 4 devices.*"
            "--config.run.mesh.fsdp=2 --config.run.mesh.data=2",
        ),
        (dict(data=8), "does not multiply to the 4 devices.*--config.run.mesh.data=4"),
        (dict(data=-1, fsdp=-1), "at most one"),
        (dict(data=0), "1 or more"),
        (dict(rows=4), "axes data, fsdp, sequence, tensor"),
    ],
)
def test_wrong_meshes_name_one_that_works(sizes, message):
    with pytest.raises(ValueError, match=message):
        meshes.make_mesh(sizes)


def test_rows_are_those_that_the_devices_of_this_process_hold():
    assert meshes.local_rows(8, meshes.make_mesh(dict(data=2, fsdp=2))) == list(range(8))
    batch = meshes.put_batch({"a": np.arange(8)}, meshes.make_mesh(dict(fsdp=4)), 8)["a"]
    assert [np.asarray(s.data).tolist() for s in batch.addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_split_arrays_are_gathered_on_every_device_of_this_process():
    mesh = meshes.make_mesh(dict(fsdp=4))
    tree = jax.device_put(
        {"a": np.arange(8.0), "b": np.ones(3)}, {"a": jax.NamedSharding(mesh, P("fsdp")), "b": meshes.replicated(mesh)}
    )
    whole = meshes.to_local_devices(tree)
    assert {name: array.devices() for name, array in whole.items()} == dict.fromkeys("ab", set(jax.devices()))
    np.testing.assert_array_equal(whole["a"], np.arange(8.0))
    assert meshes.to_local_devices(whole | {"c": tree["b"]})["c"].sharding.is_fully_replicated


def test_microbatches_take_their_rows_from_every_device():
    parts = split_microbatches(jnp.arange(8), 2)
    assert parts.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    "size, sizes, microbatches, message",
    [
        (6, None, 1, r"batch_size 6 is not a multiple of the 4 devices \(data 4 x fsdp 1\): use 8"),
        (4, dict(data=2, fsdp=2), 2, "in 2 microbatches: use 8"),
        (4, None, 0, "microbatches must be 1 or more, got 0"),
    ],
)
def test_wrong_batches(size, sizes, microbatches, message):
    with pytest.raises(ValueError, match=message):
        meshes.check_batch(size, meshes.make_mesh(sizes), microbatches)


def test_heads_and_tokens_that_do_not_divide_raise_with_sizes_that_do():
    config = load_config("biflow/procedural.py", "debug")
    config.network.update(width=96, heads=3)
    with pytest.raises(
        ValueError,
        match="tensor=2 does not divide the 3 heads: use --config.run.mesh.tensor=1 --config.run.mesh.sequence=2",
    ):
        check_mesh(assemble(config), meshes.make_mesh(dict(tensor=2, data=2)))
    config.data.size = (14, 14)  # 49 tokens
    with pytest.raises(
        ValueError, match="sequence=4 does not divide the 49 tokens of a video .*--config.run.mesh.sequence=1"
    ):
        check_mesh(assemble(config), meshes.make_mesh(dict(sequence=4)))


@pytest.mark.integration
def test_microbatches_need_less_memory():
    config = load_config("biflow/procedural.py", "debug")
    config.network.update(width=64, heads=2)
    experiment = assemble(config)
    _, abstract = init_and_abstract_state(experiment, config, meshes.make_mesh(devices=jax.devices()[:1]))
    rows = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((32, *sizes), dtype)
    batch = Batch(rows(2, 16, 16, 3, dtype=jnp.uint8), rows(), rows())
    step = lambda n: jax.jit(
        lambda s, b: train_step(s, b, jax.random.key(0), experiment=experiment, ema=0.9, microbatches=n)
    )
    temporaries = lambda n: step(n).lower(abstract, batch).compile().memory_analysis().temp_size_in_bytes
    assert temporaries(4) < 0.6 * temporaries(1)


@pytest.mark.parametrize(
    "count, platform, kind, text",
    [
        (1, "cpu", "cpu", "1 CPU device"),
        (8, "tpu", "TPU v5 lite", "8 TPU v5 lite devices"),
        (2, "gpu", "NVIDIA H200", "2 GPU NVIDIA H200 devices"),
    ],
)
def test_devices_have_a_platform_and_a_kind(count, platform, kind, text):
    assert meshes.name_devices(count, platform, kind) == text


def test_a_mesh_is_described_with_its_devices_and_split_axes():
    assert meshes.describe(meshes.make_mesh(devices=jax.devices()[:1])) == "1 CPU device"
    assert meshes.describe(meshes.make_mesh(dict(data=2, fsdp=2))) == "4 CPU devices, data 2, fsdp 2"
