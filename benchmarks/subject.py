"""The experiment that the benchmarks time: BI-FLOW at the size of `make demo`, with parameters that are not at their start."""

import tempfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp

from configs.biflow.procedural import get_config
from jvflow.data import dataset
from jvflow.experiment import assemble
from jvflow.training import state as states


def config(**run):
    """The demo's config, quiet, with its data in a folder of this process."""
    config = get_config()
    config.data.cache = str(folder() / "data")
    config.run.update(dict(progress=False, tensorboard=False) | run)
    return config


def knowing(config, frames: int, noise: float = 0.3):
    """A copy of a config whose fields know `frames` frames, those before the last one under noise, of `noise` at most."""
    config = config.copy_and_resolve_references()
    config.context.frames = frames
    if frames > 1:
        config.context.noise, config.sample.context_noise = noise, 0.1
    return config


@cache
def folder() -> Path:
    """A folder that goes with this process."""
    _kept.append(tempfile.TemporaryDirectory())
    return Path(_kept[0].name)


_kept = []


def experiment():
    """`(experiment, state)`; the parameters have noise on them, since adaLN-zero starts as the zero field."""
    built = assemble(config())
    state = states.create(jax.random.key(0), built.network, built.optimizer, ema=True)
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree, [leaf + 0.06 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    )
    return built, state.replace(params=params, ema=jax.tree.map(jnp.array, params))


def data():
    """The demo's data set."""
    return dataset.prepare(config().data, folder())
