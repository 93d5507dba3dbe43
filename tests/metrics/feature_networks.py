"""Helpers of the tests of feature networks: inputs, small videos, a small network, random parameters of Inception."""

import hashlib
import importlib.util

import numpy as np
import pytest
from PIL import Image

from jvflow.metrics import extractor as extractors


def needs(package: str) -> None:
    """Skips the test if a package that carries weights is not installed; it is not imported."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package} (extra `metrics`)")


def samples(array) -> np.ndarray:
    """Returns 256 values of an array, as the reference files choose them."""
    flat = np.asarray(array).ravel()
    return flat[np.linspace(0, flat.size - 1, 256).astype(np.int64)]


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns random parameters of a layer of Inception that keep the scale of its input; the name is the seed."""
    random = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8]))
    values = random.normal(size=shape).astype(np.float32)
    if name.endswith("conv.weight"):
        return values * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    if name.endswith("running_var") or name.endswith("bn.weight"):
        return np.float32(0.5) + np.abs(values)
    return values * np.float32(0.1)


def random_images() -> np.ndarray:
    """Returns an image (1, 299, 299, 3) in [-1, 1]."""
    return np.random.default_rng(5).uniform(-1, 1, (1, 299, 299, 3)).astype(np.float32)


def write_video(folder, frames: int, size=(40, 48), seed: int = 0):
    """Writes a folder of images, which is a video."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    base = random.integers(0, 255, (*size, 3))
    for number in range(frames):
        Image.fromarray(np.uint8((base + 5 * number) % 256)).save(folder / f"{number:03}.png")


class SmallNetwork(extractors.Extractor):
    """Stands in for an extractor with I3D: twelve features of a prepared clip."""

    width = 12

    def __init__(self, protocol, file=None, batch=4):
        self.protocol, self.batch = protocol, batch
        self.network = type("Network", (), dict(name="small", sha256="0", source=str(file)))

    def __call__(self, clips):
        parts = np.stack([clips.mean((1, 2, 3)), clips.std((1, 2, 3)), clips[:, 0].mean((1, 2)), clips.max((1, 2, 3))])
        return parts.transpose(1, 0, 2).reshape(len(clips), -1)
