"""Helpers of the tests of feature networks: inputs of reference outputs, and random parameters of Inception."""

import hashlib
import importlib.util

import numpy as np
import pytest


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
