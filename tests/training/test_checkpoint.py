"""Checkpoints: a damaged one is never restored; a warning names it and the one before it is restored."""

import logging
import shutil
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import debug_config
from jax.sharding import NamedSharding, PartitionSpec

from jvflow.load import load
from jvflow.parallel import checksums
from jvflow.parallel import mesh as meshes
from jvflow.parallel.checksums import field_checksums
from jvflow.training.checkpoint import Checkpoints, abstract_like
from jvflow.training.loop import train

# a read that orbax aborts leaves coroutines behind
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STATE = {"params": {"a": jnp.arange(4096.0).reshape(64, 64) ** 0.5}, "step": jnp.int32(7)}


def damages():
    yield "delete", lambda file, content: file.unlink()
    yield "truncate", lambda file, content: file.write_bytes(content[: len(content) // 2])
    yield "zero", lambda file, content: file.write_bytes(bytes(len(content)))
    middle = lambda content: len(content) // 2
    yield (
        "flip",
        lambda file, content: file.write_bytes(
            content[: middle(content)] + bytes([content[middle(content)] ^ 1]) + content[middle(content) + 1 :]
        ),
    )


def test_whatever_file_is_damaged_a_whole_state_comes_back(tmp_path, caplog):
    """Damages each file of the newest checkpoint in four ways; the state of this step or the one before comes back."""
    checkpoints = Checkpoints(tmp_path)
    older = jax.tree.map(lambda a: a + 1, STATE)
    checkpoints.save(1, older, {"next_index": 1})
    checkpoints.save(2, STATE, {"next_index": 2})
    checkpoints.close()
    abstract = abstract_like(jax.eval_shape(lambda: STATE), meshes.replicated(meshes.make_mesh()))
    back = 0
    for file in sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file()):
        content = file.read_bytes()
        for name, damage in damages():
            damage(file, content)
            with caplog.at_level(logging.WARNING):
                caplog.clear()
                checkpoints = Checkpoints(tmp_path)
                state, position = checkpoints.restore(abstract)
                checkpoints.close()
                checkpoints = Checkpoints(tmp_path)
                params, step = checkpoints.restore_only({"params": abstract["params"]})
                checkpoints.close()
            saved = {1: older, 2: STATE}
            jax.tree.map(np.testing.assert_array_equal, state, saved[position["next_index"]])
            jax.tree.map(np.testing.assert_array_equal, params["params"], saved[step]["params"])
            if position["next_index"] == 1:
                back += 1
                assert "the checkpoint of step 2" in caplog.text and "is damaged" in caplog.text, (file, name)
            file.write_bytes(content)
    assert back > 10


def test_a_step_that_is_asked_for_is_that_step_or_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, STATE, {"next_index": step})
    (tmp_path / "2" / "state" / "manifest.ocdbt").unlink()
    abstract = abstract_like(jax.eval_shape(lambda: STATE), meshes.replicated(meshes.make_mesh()))
    with pytest.raises(ValueError, match="manifest|zarr"):
        checkpoints.restore(abstract, 2)
    (tmp_path / "1" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(ValueError, match="no checkpoint in .* can be read; the error for the oldest one"):
        checkpoints.restore(abstract)
    checkpoints.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_checksums_see_one_bit_and_the_order_and_no_sharding(dtype):
    array = np.asarray(jax.random.normal(jax.random.key(0), (8, 12)) * 9).astype(jnp.dtype(dtype))
    whole = field_checksums({"x": jnp.asarray(array)})
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec("data")))
    assert field_checksums({"x": sharded}) == whole == {"x": int(checksums._array_sum_on_devices(sharded))}
    view = array.copy()
    view.view(np.uint8).flat[17] ^= 1
    assert field_checksums({"x": jnp.asarray(view)}) != whole
    assert field_checksums({"x": jnp.asarray(array[:, ::-1].copy())}) != whole


def shapes(state):
    return abstract_like(jax.eval_shape(lambda: state), meshes.replicated(meshes.make_mesh()))


def wide():
    """Returns `STATE` as JAX makes it with 64 bits: float64 arrays."""
    return {"params": {"a": jnp.arange(4096.0).reshape(64, 64) ** 0.5}, "step": jnp.int32(7)}


def test_checksums_of_earlier_checkpoints_stay_valid():
    assert field_checksums(STATE) == {"params": 1814239219, "step": 7}


@pytest.mark.parametrize("saved, restored", [(False, False), (False, True), (True, False), (True, True)])
def test_a_good_checkpoint_is_good_with_any_number_of_bits(tmp_path, caplog, saved, restored):
    """Saves with or without x64 and restores with or without it: checksums are those of the arrays on disk."""
    with jax.enable_x64(saved):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, wide(), {"next_index": 1})
        checkpoints.close()
    with jax.enable_x64(restored):
        checkpoints = Checkpoints(tmp_path, write=False)
        state, _ = checkpoints.restore(shapes(wide()))
        kept, _ = checkpoints.restore(shapes(wide()), keep_dtypes=True)
        only, _ = checkpoints.restore_only({"params": shapes(wide())["params"]})
        checkpoints.close()
        assert "damaged" not in caplog.text and ("float64, which JAX casts" in caplog.text) == (saved > restored)
        assert state["params"]["a"].dtype == only["params"]["a"].dtype == ("float64" if restored else "float32")
        assert kept["params"]["a"].dtype == ("float64" if saved and restored else "float32")
        for params in (state, kept, only):
            np.testing.assert_allclose(params["params"]["a"], np.arange(4096).reshape(64, 64) ** 0.5, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_parameters_are_checked_before_they_are_cast(tmp_path, dtype):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, STATE, {"next_index": 1})
    abstract = jax.tree.map(lambda a: a.update(dtype=jnp.dtype(dtype)), shapes(STATE)["params"])
    params, _ = checkpoints.restore_only({"params": abstract})
    assert params["params"]["a"].dtype == dtype and params["params"]["a"].sharding == abstract["a"].sharding
    np.testing.assert_array_equal(params["params"]["a"], STATE["params"]["a"].astype(dtype))
    whole, _ = checkpoints.restore({"params": abstract, "step": shapes(STATE)["step"]})
    np.testing.assert_array_equal(whole["params"]["a"], params["params"]["a"])
    checkpoints.save(2, STATE, {"next_index": 2})  # the same manager still saves
    saved = Checkpoints(tmp_path / "wrong")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jvflow.training.checkpoint.field_checksums", lambda state: dict(params=1, step=2))
        saved.save(1, STATE, {"next_index": 1})
    with pytest.raises(
        ValueError, match="the checksum of params at step 1 is 6c2317f3, but the checkpoint stores 00000001"
    ):
        saved.restore_only({"params": abstract}, 1)


def test_reading_creates_no_folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", write=False)
    with pytest.raises(ValueError, match="no complete checkpoint in .*: run `jvflow train`"):
        checkpoints.restore_only({"params": shapes(STATE)["params"]})
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_run_goes_back_to_the_whole_checkpoint_and_ends_the_same(tmp_path, caplog):
    config = debug_config(tmp_path)
    train(config, tmp_path / "whole")
    config.run.checkpoint_every = 5
    train(config, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "20" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(bytes(file.stat().st_size))
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path / "run").step == 15
        train(config, tmp_path / "run")
    assert "the checkpoint of step 20" in caplog.text
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    ends = [jax.tree.leaves(load(tmp_path / name, step=20).params) for name in ("run", "whole")]
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk, left):
    """Fills a disk until `left` bytes are free."""
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - left))


BIG = {"params": {"a": jax.random.normal(jax.random.key(0), (256, 256))}, "step": jnp.int32(7)}  # 256 KiB


@pytest.mark.parametrize("left", [0, 20_000, 150_000, 280_000, None])
def test_a_full_disk_leaves_the_last_checkpoint(small_disk, monkeypatch, left):
    """Covers an error before anything is written, and an error while writing, when another user fills the disk."""
    checkpoints = Checkpoints(small_disk / "run")
    checkpoints.save(1, BIG, {"next_index": 1})
    fill(small_disk, left or 100_000)
    if left is not None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    later = jax.tree.map(lambda a: a + 1, BIG)
    said = r"checkpoint of step 2 cannot be written to .*run .*free.*: it continues from step 1, which is complete"
    with pytest.raises(OSError, match=said) as caught:
        checkpoints.save(2, later, {"next_index": 2})
    assert ("it needs 1.3 MiB; 0.1 MiB are free" in str(caught.value)) == (left is None)
    monkeypatch.undo()
    assert [path.name for path in (small_disk / "run").iterdir()] == ["1"]
    checkpoints = Checkpoints(small_disk / "run")
    abstract = abstract_like(jax.eval_shape(lambda: BIG), meshes.replicated(meshes.make_mesh()))
    state, position = checkpoints.restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, state, BIG)
    (small_disk / "filler").unlink()
    checkpoints.save(2, later, {"next_index": 2})
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(abstract)[0], later)


@pytest.mark.integration
def test_a_run_on_a_full_disk_ends_with_one_line_and_continues(small_disk, tmp_path):
    config = debug_config(tmp_path, steps=20)
    config.run.update(checkpoint_every=10, tensorboard=False)
    train(config, tmp_path / "whole")
    real = Checkpoints.save

    def save(self, step, *rest):
        if step == 20:
            fill(small_disk, 300_000)
        return real(self, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(OSError, match="checkpoint of step 20 cannot be written"):
            train(config, small_disk / "run")
    assert Checkpoints(small_disk / "run" / "checkpoints").latest() == 10
    (small_disk / "filler").unlink()
    train(config, small_disk / "run")
    raw = [Checkpoints(folder / "checkpoints").restore_raw() for folder in (tmp_path / "whole", small_disk / "run")]
    jax.tree.map(np.testing.assert_array_equal, *raw)
