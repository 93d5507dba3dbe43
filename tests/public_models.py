"""Reference models of the fixtures, and what the tests of public checkpoints share."""

import json
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

FIXTURES = Path(__file__).parent / "fixtures"
SINGLE = "diffusion_pytorch_model.safetensors"


def read(file):
    """Config, weights, and inputs and outputs of a reference model."""
    with safe_open(file, "np") as opened:
        config = json.loads(opened.metadata()["meta"])["config"]
    tensors = load_file(file)
    part = lambda prefix: {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return config, part("w."), part("io.")


def outputs(network, io):
    return np.asarray(jax.jit(network.apply)(network.params, io["hidden_states"], io["timestep"], io["class_labels"]))


def assert_same(made, expected):
    assert made.shape == expected.shape and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
