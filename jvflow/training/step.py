"""One training step, pure: the state, and what the step changes in it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, Int, Key

from jvflow.assembly import Experiment
from jvflow.data.pipeline import Batch
from jvflow.networks import Network, as_field
from jvflow.parallel.constrain import split_microbatches


@struct.dataclass
class State:
    """Everything that a training step changes, or the shapes or shardings of all that.

    Attributes:
      step: number of steps done, int32 ().
      params: the parameters that train.
      frozen: parameters that do not train; may be empty.
      ema: exponential moving average of `params`, or None.
      opt_state: of the optimizer.
    """

    step: Any
    params: Any
    frozen: Any
    ema: Any
    opt_state: Any


def create(
    key, network: Network, optimizer: optax.GradientTransformation, *, ema: bool, params: Any = None, tuning: Any = None
) -> State:
    """Creates the state before the first step, from given parameters or from new ones.

    `tuning` (`jvflow.training.lora.Tuning`) decides which parameters train; None trains all.
    """
    params = network.init(key) if params is None else params
    params, frozen = (params, {}) if tuning is None else tuning.add_and_split(key, params)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        ema=jax.tree.map(jnp.array, params) if ema else None,
        opt_state=optimizer.init(params),
    )


def merge(frozen: Any, params: Any) -> Any:
    """Returns the network's whole parameters: frozen ones and trained ones, joined at their paths."""
    if not frozen:
        return params
    flat = traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(flat)


def train_step(
    state: State,
    batch: Batch,
    key: Key[Array, ""],
    encoder_params=None,
    *,
    experiment: Experiment,
    ema: float,
    microbatches: int = 1,
) -> tuple[State, dict]:
    """Takes one step: `(state, batch) -> (state, metrics)`. Pure; the step's key is `key` with the step folded in.

    Args:
      state: before the step.
      batch: global batch.
      key: of the run.
      encoder_params: `experiment.encoder_params`; an argument, so that it is no constant of the compiled step.
      experiment: of the config.
      ema: decay of the moving average; ignored if the state holds none.
      microbatches: parts of the batch that are computed one after the other, which needs less memory. The step is the
        same but for the order of its sums, and for losses that look at the batch as a whole (couplings, one coin for
        all examples), which look at a part.
    """
    key_examples, key_coupling = jax.random.split(jax.random.fold_in(key, state.step))
    encoder_params = experiment.encoder_params if encoder_params is None else encoder_params
    mean_loss = mean_loss_of(experiment, state.frozen, key_examples, encoder_params)

    def gradient(batch, rows, key):
        (loss, metrics), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params, batch, rows, key)
        return metrics | {"loss": loss}, gradients

    metrics, gradients = microbatch_mean(gradient, batch, key_coupling, microbatches)
    updates, opt_state = experiment.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if average is not None:
        decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))  # follows closely at first
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    metrics |= {
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(experiment.schedule(state.step), jnp.float32),
    }
    return State(state.step + 1, params, state.frozen, average, opt_state), metrics


def mean_loss_of(experiment: Experiment, frozen, key_examples, encoder_params) -> Callable:
    """Returns `(params, batch, rows, key) -> (loss, metrics)`, of the parameters that train."""

    def mean_loss(params, batch, rows, key):
        params = merge(frozen, params)
        tokens, mask, embedding = batch.text_tokens, batch.text_mask, batch.text_embedding
        condition = experiment.condition(params, tokens, mask, encoder_params, embedding, batch.fps)
        keys = example_keys(key_examples, rows)
        latents = experiment.latents(batch, encoder_params)
        losses, metrics = experiment.loss(as_field(experiment.network, params), latents, condition, keys, key)
        return losses.mean(), metrics

    return mean_loss


def example_keys(key: Key[Array, ""], rows: Int[Array, "b"]) -> Key[Array, "b"]:
    """Returns one key per example, from its row in the global batch: devices and microbatches do not matter."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def microbatch_mean(function: Callable, batch: Batch, key, microbatches: int):
    """Averages `function(batch, rows, key)` over parts of a batch, computed one after the other."""
    rows = jnp.arange(len(batch.fps))
    if microbatches == 1:
        return function(batch, rows, key)

    def add(total, part):
        number, part = part
        return jax.tree.map(jnp.add, total, function(*part, jax.random.fold_in(key, number))), None

    parts = split_microbatches((batch, rows), microbatches)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), parts)
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, *one, key))
    total, _ = jax.lax.scan(add, start, (jnp.arange(microbatches), parts))
    return jax.tree.map(lambda a: a / microbatches, total)
