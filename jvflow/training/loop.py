"""Training: one pure step, and the loop around it.

A run lives in its workdir:

    config.json      what runs; on resume only config.run.* may differ
    metrics.jsonl    one line for each step
    validation.jsonl what held-out clips say: their loss, and the figures of `launch.evaluate`, as often as config.run has it
    checkpoints/     the state and the data position
    data.json        the key of the data set
    frozen.json      of a run that trains some of its parameters: the checksum of the others
    sharding.txt     how each array of the state is split over the devices, and why
    samples/         sheets of streams or clips, while training
    tensorboard/     the scalars of logged steps, and sheets
"""

import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from tqdm import tqdm

from jvflow.vlfm import sample as clips
from jvflow.flowframes import inversion
from jvflow.data import latents
from jvflow.flowframes import sample as prediction
from jvflow.parallel import processes
from jvflow.biflow import sample
from jvflow.parallel import mesh as meshes
from jvflow import run as runs
from jvflow.training import state as states
from jvflow.training.checkpoint import Checkpoints
from jvflow.parallel.checksums import checksum_of
from jvflow.data import pipeline, records, video
from jvflow.biflow.evaluate import evaluated, numbers
from jvflow.experiment import Experiment, assemble, example_keys
from jvflow.data.files import write_text
from jvflow.networks import as_field
from jvflow.run import Run
from jvflow.training.state import State, merge
from jvflow.training.workdir import Metrics, Workdir


LOG = logging.getLogger(__name__)
HELD_OUT = 2**31 - 1
"""In place of a step, for the times and noise of held-out clips."""


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved; the same command continues it."""


# --- the step -------------------------------------------------------------------------------------


def train_step(state: State, batch, key, given=None, *, experiment: Experiment, ema: float, microbatches: int = 1) -> tuple[State, dict]:
    """One step: `(state, batch) -> (state, metrics)`. Pure; `key` is the run's, the step's is folded in.

    Args:
      given: `experiment.given`, an argument so that it is no constant of the compiled step.
      ema: the decay of the moving average; ignored when the state holds none.
      microbatches: parts of the batch that are computed one after the other, for less memory; the step is the same but
        for the order of its sums, and for losses that look at the batch as a whole (couplings, one coin for all), which look at a part.
    """
    key_examples, key_coupling = jax.random.split(jax.random.fold_in(key, state.step))
    mean_loss = _mean_loss(experiment, state.frozen, key_examples, experiment.given if given is None else given)

    def gradient(batch, rows, key):
        (loss, metrics), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params, batch, rows, key)
        return metrics | {"loss": loss}, gradients

    metrics, gradients = _over(gradient, batch, key_coupling, microbatches)
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


def held_out_loss(state: State, batch, key, given, *, experiment: Experiment, microbatches: int = 1) -> dict:
    """The loss of a batch, and that of the moving average where there is one; at the same times and noise whenever it is asked for."""
    key_examples, key_coupling = jax.random.split(jax.random.fold_in(key, HELD_OUT))
    mean_loss = _mean_loss(experiment, state.frozen, key_examples, given)
    of = lambda params: _over(lambda *part: mean_loss(params, *part)[0], batch, key_coupling, microbatches)
    return dict(loss=of(state.params)) | ({} if state.ema is None else dict(loss_of_average=of(state.ema)))


def _mean_loss(experiment: Experiment, frozen, key_examples, given) -> Callable:
    """`(params, batch, rows, key) -> (loss, metrics)`, of the parameters that train."""

    def mean_loss(params, batch, rows, key):
        params = merge(frozen, params)
        condition = experiment.condition(params, batch.text_tokens, batch.text_mask, given, batch.text_embedding, batch.fps)
        keys = example_keys(key_examples, rows)
        losses, metrics = experiment.loss(as_field(experiment.network, params), experiment.latents(batch, given), condition, keys, key)
        return losses.mean(), metrics

    return mean_loss


def _over(function: Callable, batch, key, microbatches: int):
    """The mean of `function(batch, rows, key)` over so many parts of a batch, one after the other."""
    rows = jnp.arange(len(batch.fps))
    if microbatches == 1:
        return function(batch, rows, key)

    def add(total, part):
        number, part = part
        return jax.tree.map(jnp.add, total, function(*part, jax.random.fold_in(key, number))), None

    parts = meshes.microbatched((batch, rows), microbatches)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), parts)
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, *one, key))
    total, _ = jax.lax.scan(add, start, (jnp.arange(microbatches), parts))
    return jax.tree.map(lambda a: a / microbatches, total)


def compiled_step(experiment: Experiment, config, shardings: State):
    """`train_step` of a config as one program: state and metrics come out where `shardings` has them, the state that goes in is given up.

    To be called where the mesh is set (`jax.set_mesh`): the network reads it.
    """
    step = partial(train_step, experiment=experiment, ema=config.optimizer.ema, microbatches=config.run.microbatches)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, meshes.replicated(shardings.step.mesh)))


def placed(experiment: Experiment, config, mesh):
    """`(create, abstract)`: the function that makes the first state from a key, and the shapes of that state with where each array goes."""
    create = partial(states.create, network=experiment.network, optimizer=experiment.optimizer, ema=config.optimizer.ema > 0, tuning=experiment.tuning)
    shapes = jax.eval_shape(create, jax.random.key(0))
    shardings = meshes.shardings(shapes, experiment.network.rules, mesh)
    return create, jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)


# --- the loop -------------------------------------------------------------------------------------


def train(config, workdir) -> Workdir:
    """Trains `config` in `workdir`, or continues what was begun there.

    Raises:
      ValueError: for a config that does not fit itself, its data, its devices or its workdir.
      FloatingPointError: when the loss is not finite; names the step.
      Stopped: after SIGTERM or SIGINT, once the state is saved.
    """
    experiment = assemble(config)
    run = config.run
    folder = Workdir.open(workdir, config)

    # mesh and data, then shapes, then arrays
    mesh = meshes.make(run.mesh)
    meshes.check_batch(config.train.batch_size, mesh, run.microbatches)
    experiment.check_mesh(mesh)
    if run.microbatches > 1 and config.get("coupling") == "minibatch_ot":
        raise ValueError(f"coupling 'minibatch_ot' pairs the rows of a whole batch, which config.run.microbatches={run.microbatches} takes apart: use 1, or another coupling")
    data = processes.primary_first(lambda: pipeline.prepare(config.data, folder.path, frames=experiment.window.span))
    key = records.manifest(data).get("key")
    folder.check_data(key)
    encoded = latents.are_in(data)
    if encoded:
        latents.check(data, latents.fingerprint(**config.codec), latents.lengths_of(experiment.codec, config))
    embedded = latents.has_text(data, latents.of_text(config))
    if experiment.text and not experiment.text.pure and not embedded:
        raise ValueError("config.text.by_layer embeds captions before training: make the data set with launch.encode, or set it to False")
    fresh = not folder.has_checkpoint
    initial = runs.pretrained(config, experiment) if experiment.pretrained and (fresh or experiment.tuning.freezes) else None
    if experiment.inversions:
        inversion.check(data, config, initial and runs.checksum(initial))
    create, abstract = placed(experiment, config, mesh)
    processes.on_primary(lambda: folder.begin(config))  # whatever is wrong with config, devices or data was said by now
    processes.on_primary(lambda: folder.note_data(key))

    key_init, key_steps = jax.random.split(jax.random.key(config.seed))
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    trained, frozen = (sum(a.size for a in jax.tree.leaves(part)) for part in (abstract.params, abstract.frozen))
    beside = f" train, {frozen:,} are frozen," if frozen else ""
    LOG.info("%s: %s parameters%s on %s", config.objective, f"{trained:,}", beside, meshes.describe(mesh))
    decisions = "".join(f"{decision}\n" for decision in meshes.decide(abstract, experiment.network.rules, mesh))
    processes.on_primary(lambda: write_text(folder.path / "sharding.txt", f"{meshes.describe(mesh)}\n{decisions}"))
    if initial:
        LOG.info("starts from %s, step %d, parameters %s", experiment.pretrained, initial.step, runs.checksum(initial))

    checkpoints = Checkpoints(folder.checkpoints, keep=run.keep)
    begin = checkpoints.latest()
    if begin is None or initial:
        state = jax.jit(create, out_shardings=shardings)(key_init, params=initial and jax.device_get(initial.params))
    if experiment.tuning.freezes:
        checksum = checksum_of(state.frozen)
        if fresh:
            processes.on_primary(lambda: folder.note_frozen(config.pretrained, checksum))
        folder.check_frozen(config.pretrained, checksum)
    del initial
    if begin is None:
        begin = 0
    else:
        kept = state.frozen if experiment.tuning.freezes else {}
        state, position = checkpoints.restore(abstract.replace(frozen={}))
        state = state.replace(frozen=kept)
        begin = int(position["next_index"])
        checkpoints.forget_after(begin)
        LOG.info("continues at step %d of %d", begin, config.train.steps)
    metrics = Metrics(folder, begin, tensorboard=run.tensorboard, write=processes.is_primary())
    if begin >= config.train.steps:
        return folder

    reading = partial(
        pipeline.batches, data, batch_size=config.train.batch_size, seed=config.seed, rows=meshes.rows(config.train.batch_size, mesh),
        latents=encoded, tokenize=experiment.text and experiment.text.tokenize, embedded=embedded,
    )
    batches = reading(windows=experiment.windows, threads=config.data.threads, step=begin)

    # step
    needed = dict(codec=None if encoded else experiment.codec, text=None if embedded else experiment.text)  # no other is ever held while it trains
    given = jax.device_put({name: model and model.params for name, model in needed.items()}, meshes.replicated(mesh))
    experiment.release()
    step_fn = compiled_step(experiment, config, shardings)
    held_out = jax.jit(partial(held_out_loss, experiment=experiment, microbatches=run.microbatches), out_shardings=meshes.replicated(mesh))
    test = None  # of held-out clips, the same each time
    if run.validate_every and records.manifest(data)["splits"].get("test"):
        test = meshes.put(next(reading(windows=[experiment.window], threads=0, split="test")), mesh, config.train.batch_size)
    now_run = lambda step: Run(config, experiment, meshes.local(merge(state.frozen, state.params if state.ema is None else state.ema)), folder, step)

    def validate(step: int) -> bool:
        """Says what held-out clips say after a step, where it is due."""
        found = {}
        if test is not None and _due(step, run.validate_every, config.train.steps):
            with jax.set_mesh(mesh):
                found |= {name: float(value) for name, value in held_out(state, test, key_steps, given).items()}
        if _due(step, run.evaluate_every, config.train.steps) and (step or experiment.pretrained):  # what nothing has trained is worth nothing
            found |= numbers(evaluated(now_run(step)))
        if found:
            metrics.validated(step, found)
        return bool(found)

    stop, agreed = _StopRequest(), processes.AnyProcess(mesh)
    bar = tqdm(
        total=config.train.steps, initial=begin, unit="step", disable=not (run.progress and processes.is_primary()), dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,  # seconds: a log file needs few lines
    )
    if not begin:
        validate(0)
    with stop, bar:
        clock = time.perf_counter()
        for step in range(begin + 1, config.train.steps + 1):
            with jax.set_mesh(mesh):
                state, values = step_fn(state, meshes.put(next(batches), mesh, config.train.batch_size), key_steps, given)
            metrics.add(step, values)
            stopping = agreed(stop.requested)  # read once: a signal that comes later in this step stops the next one
            last = step == config.train.steps or stopping
            saving = step % run.checkpoint_every == 0 or last
            if step % run.log_every == 0 or saving:
                loss = metrics.flush(behind=0 if saving else 1)  # what is saved has finite losses, and is written
                now = time.perf_counter()
                metrics.scalar("steps_per_second", step, metrics.flushed / max(now - clock, 1e-9))
                clock = now
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()
            if validate(step):  # before it is saved: a run that continues from here has it
                clock = time.perf_counter()
            if saving:
                checkpoints.save(step, state.replace(frozen={}), {"next_index": step})
            if _due(step, run.sample_every, config.train.steps) or step == run.sample_every // 10 >= 10:  # and an early one
                metrics.image("samples", step, sheet(now_run(step), data))
                clock = time.perf_counter()
            experiment.release()
            if stopping:
                checkpoints.close()
                metrics.close()
                raise Stopped(f"stopped by signal after step {step}; saved. The same command continues.")
    checkpoints.close()
    metrics.close()
    return folder


def _due(step: int, every: int, steps: int) -> bool:
    """Whether what is done so often, and after the last step, is due; never where `every` is 0."""
    return every > 0 and (step % every == 0 or step == steps)


def sheet(run: Run, data) -> np.ndarray:
    """A contact sheet of what the run makes at its step, also written to `samples/`."""
    make = _clips if run.experiment.generate else prediction.compared if run.experiment.predict else _streams
    image = video.sheet(make(run, data))
    if processes.is_primary():
        video.write_png(Path(run.folder.samples) / f"step_{run.step:08d}.png", image)
    return image


def _clips(run: Run, data) -> np.ndarray:
    """Training clips, each above what is generated from its caption at the same times."""
    real = pipeline.clips(data, "train", count=4)[:, : run.experiment.window.span : run.experiment.window.every]
    made, _, _ = clips.generate(run, clips.read_times(run), pipeline.captions(data, "train", count=4), seed=run.config.seed)
    return rearrange([real, made], "two b ... -> (b two) ...")


def _streams(run: Run, data) -> np.ndarray:
    """Streams from held-out first frames."""
    first = pipeline.clips(data, "test", count=4, frames=run.experiment.past_frames)
    stream = sample.frames(run, first, jax.random.key(run.config.seed))
    return np.concatenate([first, *(frame for frame, _ in islice(stream, run.config.run.sample_frames))], axis=1)


class _StopRequest:
    """Turns SIGTERM and SIGINT into a request that the loop answers after the current step."""

    def __init__(self):
        self.requested = False

    def _request(self, number, frame):
        self.requested = True

    def __enter__(self):
        try:
            self._before = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread: whoever runs us handles signals
            self._before = {}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
