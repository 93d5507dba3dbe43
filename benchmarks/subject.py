"""The experiment that the benchmarks time: BI-FLOW at the size of `make demo`, with perturbed initial parameters."""

import tempfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp

from configs.biflow.procedural import get_config
from jvflow.data import dataset
from jvflow.experiment import assemble
from jvflow.training.step import create


def config(**run):
    """Returns the demo's config without a progress bar, with its data in the folder of this process.

    `run` replaces entries of `config.run`.
    """
    config = get_config()
    config.data.cache = str(folder() / "data")
    config.run.update(dict(progress=False, tensorboard=False) | run)
    return config


def knowing(config, frames: int, noise: float = 0.3):
    """Returns a copy of a config whose network sees the last `frames` frames.

    `noise` is the highest noise level on the frames before the last one.
    """
    config = config.copy_and_resolve_references()
    config.context.frames = frames
    if frames > 1:
        config.context.noise, config.sample.context_noise = noise, 0.1
    return config


@cache
def folder() -> Path:
    """Returns a folder that is deleted when this process ends."""
    _folders.append(tempfile.TemporaryDirectory())
    return Path(_folders[0].name)


_folders = []


def experiment():
    """Returns `(experiment, state)`; adds noise to the parameters, because adaLN-zero starts as the zero field."""
    built = assemble(config())
    state = create(jax.random.key(0), built.network, built.optimizer, ema=True)
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.06 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    params = jax.tree.unflatten(tree, noisy)
    return built, state.replace(params=params, ema=jax.tree.map(jnp.array, params))


def data():
    """Returns the folder of the demo's data set, and builds it if it is absent."""
    return dataset.prepare(config().data, folder())
