"""One training step as a pure function, and the state that it updates."""

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
from jvflow.networks.layers import constrain
from jvflow.parallel.sharding import ROWS


@struct.dataclass
class State:
    """Everything that a training step updates: arrays, or their shapes or shardings.

    Attributes:
      step: number of steps done, int32 ().
      params: the parameters that train.
      frozen: parameters that do not train; may be empty.
      ema: exponential moving average of `params`, or None.
      opt_state: the optimizer's state.
    """

    step: Any
    params: Any
    frozen: Any
    ema: Any
    opt_state: Any


def create(
    key, network: Network, optimizer: optax.GradientTransformation, *, ema: bool, params: Any = None, tuning: Any = None
) -> State:
    """Creates the state before the first step, from `params` or from new parameters.

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
    """Returns all parameters of the network: the frozen and the trained ones in one tree."""
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
      state: the state before the step.
      batch: the global batch.
      key: the key of the run.
      encoder_params: `experiment.encoder_params`; as an argument, they are not constants of the compiled step.
      experiment: the config's experiment.
      ema: decay of the moving average; ignored if the state holds none.
      microbatches: number of parts of the batch, computed one after the other to save memory. The result is the same
        up to the order of sums, except for losses that relate the examples of a batch (couplings, one random choice for
        all examples): they see one part at a time.
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
        decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))  # smaller decay in the first steps
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    metrics |= {
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(experiment.schedule(state.step), jnp.float32),
    }
    return State(state.step + 1, params, state.frozen, average, opt_state), metrics


def mean_loss_of(experiment: Experiment, frozen, key_examples, encoder_params) -> Callable:
    """Returns `(params, batch, rows, key) -> (loss, metrics)`, a function of the trained parameters."""

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
    """Returns one key per example, from its row in the global batch, independent of devices and microbatches."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def microbatch_mean(function: Callable, batch: Batch, key, microbatches: int):
    """Averages `function(batch, rows, key)` over the microbatches, computed one after the other."""
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


def split_microbatches(tree, count: int):
    """Reshapes arrays (b, ...) to (count, b / count, ...).

    Each device's rows are spread over all microbatches, so nothing moves between devices.
    """
    split = lambda a: a.reshape(len(a) // count, count, *a.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(lambda a: constrain(split(a), None, ROWS), tree)
