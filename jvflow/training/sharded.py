"""The training step and its state on a mesh of devices."""

from collections.abc import Callable
from functools import partial

import jax

from jvflow import networks
from jvflow.assembly import Experiment
from jvflow.parallel import mesh as meshes
from jvflow.parallel import sharding
from jvflow.training import step as steps
from jvflow.training.step import State


def check_mesh(experiment: Experiment, mesh) -> None:
    """Raises ValueError if a mesh cannot split the network's heads or tokens."""
    for shape in experiment.shapes:
        networks.check_mesh(experiment.network, shape, mesh)


def init_and_abstract_state(experiment: Experiment, config, mesh) -> tuple[Callable, State]:
    """Returns `(init, abstract)`: `init(key, params=None)` makes the first state; `abstract` has its shapes and shardings."""
    init = partial(
        steps.create,
        network=experiment.network,
        optimizer=experiment.optimizer,
        ema=config.optimizer.ema > 0,
        tuning=experiment.tuning,
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = sharding.shardings(shapes, experiment.network.rules, mesh)
    return init, jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)


def compiled_step(experiment: Experiment, config, shardings: State) -> Callable:
    """Returns `train_step` of a config as one program that consumes the state and keeps its shardings.

    Call it inside `jax.set_mesh`: the network reads the mesh.
    """
    step = partial(
        steps.train_step, experiment=experiment, ema=config.optimizer.ema, microbatches=config.run.microbatches
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, meshes.replicated(shardings.step.mesh)))
