"""The compiled parts of the training loop: the step and its state on a mesh of devices, and the validation loss."""

from collections.abc import Callable
from functools import partial

import jax

from jvflow import networks
from jvflow.assembly import Experiment
from jvflow.parallel import mesh as meshes
from jvflow.parallel import sharding
from jvflow.training import step as steps
from jvflow.training.step import State

HELD_OUT = 2**31 - 1
"""Replaces the step in the key of the validation loss, so that its times and noise never change."""


def check_mesh(experiment: Experiment, mesh) -> None:
    """Raises ValueError if a mesh cannot split the network's heads or tokens."""
    for shape in experiment.shapes:
        networks.check_mesh(experiment.network, shape, mesh)


def init_and_abstract_state(experiment: Experiment, config, mesh) -> tuple[Callable, State]:
    """Returns `(init, abstract)`: `init(key, params=None)` makes the first state, `abstract` its sharded shapes."""
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
    """Returns the compiled `train_step` of a config; it donates the state and keeps its shardings.

    Call it inside `jax.set_mesh`: the network reads the mesh.
    """
    step = partial(
        steps.train_step, experiment=experiment, ema=config.optimizer.ema, microbatches=config.run.microbatches
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, meshes.replicated(shardings.step.mesh)))


def held_out_loss(state: State, batch, key, encoder_params, *, experiment: Experiment, microbatches: int = 1) -> dict:
    """Computes the loss of the parameters, and of their moving average if there is one, always with the same noise."""
    key_examples, key_coupling = jax.random.split(jax.random.fold_in(key, HELD_OUT))
    mean_loss = steps.mean_loss_of(experiment, state.frozen, key_examples, encoder_params)
    loss = lambda params: steps.microbatch_mean(
        lambda *part: mean_loss(params, *part)[0], batch, key_coupling, microbatches
    )
    return dict(loss=loss(state.params)) | ({} if state.ema is None else dict(loss_of_average=loss(state.ema)))
