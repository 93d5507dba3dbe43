"""The training loop: from a config to a trained run in its workdir.

config.json      the config and the format version (`jvflow.training.format_version`); `config_history.jsonl` keeps
                 former configs, see `jvflow.training.resume`
metrics.jsonl    one line for each step
validation.jsonl the validation loss and its split, and the metrics of `jvflow evaluate`, as often as config.run sets
checkpoints/     the state and the data position
data.json        the key of the data set, and the identity of the models that encode it
frozen.json      the checksum of the frozen parameters, if some are frozen
sharding.txt     how each array of the state is split over the devices, and why
samples/         preview images, with a row of frames for each video
tensorboard/     the scalars of logged steps, and preview images
"""

import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from jvflow import load
from jvflow.assembly import Experiment
from jvflow.data import dataset, latents, pipeline, records
from jvflow.experiment import assemble
from jvflow.files import run_path, with_local_paths, write_text
from jvflow.flow.solver import SolveError
from jvflow.metrics import evaluation_protocol
from jvflow.parallel import mesh as meshes
from jvflow.parallel import processes, progress, sharding
from jvflow.parallel.checksums import tree_checksum
from jvflow.report import videos
from jvflow.run import Run, scalars
from jvflow.training import resume
from jvflow.training.checkpoint import Checkpoints
from jvflow.training.config_check import check_config
from jvflow.training.sharded import check_mesh, compiled_step, held_out_loss, init_and_abstract_state
from jvflow.training.step import State, merge
from jvflow.training.workdir import Metrics, Workdir, recorded

LOG = logging.getLogger(__name__)
UNLOGGED_STEPS = 100
"""Steps between two writes of `metrics.jsonl` if config.run.log_every is 0."""


class Stopped(Exception):
    """A signal (SIGTERM or SIGINT) stopped the run after a save; the same command continues it."""


def train(config, workdir: str | Path) -> Workdir:
    """Trains `config` in `workdir`, or continues the run that is there.

    Raises:
      ValueError: if the config contradicts itself, or does not fit its data, devices or workdir, or if another job
        trains in the workdir.
      FloatingPointError: if the loss is not finite; the message names the step.
      Stopped: after SIGTERM or SIGINT, once the state is saved.
    """
    check_config(config)
    config = with_local_paths(config)
    with processes.one_writer(run_path(workdir, "--workdir"), "--workdir") as folder:
        return _train(config, folder)


def _train(config, workdir: Path) -> Workdir:
    experiment = assemble(config)
    if config.run.evaluate_every:
        evaluation_protocol.check_network(config.evaluate.get("fvd", ""))
    fork = config.pretrained_state
    config = recorded(config)
    run = config.run
    folder = Workdir.open(workdir, config)
    fresh = not folder.has_checkpoint
    if fresh:
        load.check_lora(config)
    elif folder.dropped_to_zeros(config, experiment.text):
        raise ValueError(
            f"{folder.path} was begun by an earlier version of jvflow, which dropped captions to zeros and not to the "
            "empty caption: finish it with that version, or train again in another --workdir"
        )

    # mesh and shapes, then data, then arrays: what the config alone contradicts is found before data are built
    mesh = meshes.make_mesh(run.mesh)
    meshes.check_batch(config.train.batch_size, mesh, run.microbatches)
    check_mesh(experiment, mesh)
    forks = fork and fresh
    reads_pretrained = not forks and experiment.pretrained and (fresh or experiment.tuning)
    if forks:
        source = load.check_fork(config, experiment)
    elif reads_pretrained:
        load.check_pretrained(config)
    init, abstract = init_and_abstract_state(experiment, config, mesh)
    options = dict(frames=experiment.window.span, key=folder.data_key)
    data = processes.primary_first(lambda: dataset.prepare(config.data, folder.path, **options))
    key = records.manifest(data).get("key")
    models = _model_identities(config)
    folder.check_models(models)
    encoded, embedded = _check_encoded(experiment, config, data, models)
    initial = load.load_pretrained(config, experiment) if reads_pretrained else None
    model = load.load_model(config) if initial and load.trains_file(config) else initial  # as `jvflow encode` has it
    experiment.method.check_data(config, experiment, data, model and tree_checksum(model.params))
    del model
    # nothing is written before config, devices and data are checked
    if fresh:
        processes.on_primary(lambda: folder.begin(config))
    processes.on_primary(lambda: folder.note_data(key, models))
    _log_start(experiment, config, mesh, abstract, folder, initial)

    key_init, key_steps = jax.random.split(jax.random.key(config.seed))
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    checkpoints = Checkpoints(folder.checkpoints, keep=run.keep)
    begin = checkpoints.latest()
    state = None
    if forks:
        state, position = source.restore(abstract, keep_dtypes=True)
        source.close()
        begin = int(position["next_index"])
        processes.on_primary(lambda: folder.record_fork(config, begin))
        LOG.info("continues the state of %s at step %d of %d", config.pretrained, begin, config.train.steps)
    elif begin is None or initial:
        create = jax.jit(init, out_shardings=shardings)
        state = create(key_init, params=initial and jax.device_get(initial.params))
    if experiment.tuning:
        checksum = tree_checksum(state.frozen)
        if fresh:
            processes.on_primary(lambda: folder.note_frozen(config.pretrained, checksum))
        folder.check_frozen(config.pretrained, checksum)
    del initial
    if fresh:
        begin = begin or 0
    else:
        frozen = state.frozen if experiment.tuning else {}
        state, position = checkpoints.restore(abstract.replace(frozen={}), keep_dtypes=True)
        state = state.replace(frozen=frozen)
        begin = int(position["next_index"])
        checkpoints.forget_after(begin)
        processes.on_primary(lambda: _log_resumed(experiment, config, folder.begin(config, begin), begin))
    metrics = Metrics(folder, begin, tensorboard=run.tensorboard, write=processes.is_primary())
    if begin >= config.train.steps:
        if checkpoints.latest() is None:  # no steps: the run is the model that it starts from
            checkpoints.save(begin, state.replace(frozen={}), {"next_index": begin})
            checkpoints.close()
        return folder

    read = partial(
        pipeline.batches,
        data,
        batch_size=config.train.batch_size,
        seed=config.seed,
        rows=meshes.local_rows(config.train.batch_size, mesh),
        latents=encoded,
        tokenize=experiment.text and experiment.text.tokenize,
        embedded=embedded,
    )
    batches = read(windows=experiment.windows, threads=config.data.threads, step=begin)

    # only the encoders that a step needs stay in memory
    needed = dict(codec=None if encoded else experiment.codec, text=None if embedded else experiment.text)
    encoder_params = {name: model and model.params for name, model in needed.items()}
    encoder_params["empty"] = latents.empty_caption(data) if embedded else experiment.text and experiment.text.empty
    encoder_params = jax.device_put(encoder_params, meshes.replicated(mesh))
    _free_encoders(experiment)
    step_fn = compiled_step(experiment, config, shardings)
    test, split = None, ""
    if run.validate_every:
        split = pipeline.held_out(data, "val")
        test = next(read(windows=[experiment.window], threads=0, split=split))
    checks = _Checks(config, experiment, folder, data, mesh, metrics, key_steps, encoder_params, test, split)
    stop, any_stop = _StopRequest(), processes.AnyProcess(mesh)
    bar = progress.bar("train", config.train.steps, unit="step", done=begin, show=run.progress)
    if not begin:
        checks.validate(0, state)
    with stop, bar as advance:
        clock, shown = time.perf_counter(), {}
        for step in range(begin + 1, config.train.steps + 1):
            with jax.set_mesh(mesh):
                batch = meshes.put_batch(next(batches), mesh, config.train.batch_size)
                state, values = step_fn(state, batch, key_steps, encoder_params)
            metrics.add(step, values)
            stopping = any_stop(stop.requested)  # read once: a later signal stops the next step
            saving = _is_multiple(step, run.checkpoint_every) or step == config.train.steps or stopping
            if _is_multiple(step, run.log_every or UNLOGGED_STEPS) or saving:
                # before a save, all losses are checked and written
                loss = metrics.flush(behind=0 if saving else 1, log=run.log_every > 0)
                now = time.perf_counter()
                if run.log_every:
                    metrics.scalar("steps_per_second", step, metrics.flushed / max(now - clock, 1e-9))
                    shown = dict(loss=f"{loss:.4f}")
                clock = now
            advance(**shown)
            if checks.validate(step, state):  # before the save, so that a resumed run has this line
                clock = time.perf_counter()
            if saving:
                checkpoints.save(step, state.replace(frozen={}), {"next_index": step})
            if checks.preview(step, state):
                clock = time.perf_counter()
            _free_encoders(experiment)
            if stopping:
                checkpoints.close()
                metrics.close()
                raise Stopped(f"stopped by a signal after step {step}; saved. Run the same command to continue.")
    checkpoints.close()
    metrics.close()
    return folder


def _model_identities(config) -> dict[str, dict]:
    """Returns the fingerprints of the codec and the text encoder, if they have checkpoints."""
    found = dict(codec=latents.model_fingerprint(**config.codec)) if config.codec.get("checkpoint") else {}
    text = latents.text_fingerprint(config)
    return found | (dict(text=text) if text else {})


def _check_encoded(experiment: Experiment, config, data: Path, models: dict) -> tuple[bool, bool]:
    """Returns whether the data holds latents, and embedded captions; raises ValueError if another model made them."""
    encoded = latents.has_latents(data)
    if encoded:
        codec = models.get("codec") or latents.model_fingerprint(**config.codec)
        latents.check_latents(data, codec, latents.chunk_lengths(experiment.codec, config))
    embedded = latents.has_embeddings(data, models.get("text"))
    if experiment.text and not experiment.text.compilable and not embedded:
        raise ValueError(
            "config.text.by_layer needs captions that are embedded before training: make the data set with `jvflow "
            "encode`, or set by_layer to False"
        )
    return encoded, embedded


def _log_start(experiment: Experiment, config, mesh, abstract: State, folder: Workdir, initial: Run | None) -> None:
    """Logs the number of parameters and the pretrained model of a run, and writes `sharding.txt`."""
    trained, frozen = (sum(a.size for a in jax.tree.leaves(part)) for part in (abstract.params, abstract.frozen))
    parts = f" train, {frozen:,} are frozen," if frozen else ""
    LOG.info("%s: %s parameters%s on %s", config.objective, f"{trained:,}", parts, meshes.describe(mesh))
    decisions = "".join(f"{decision}\n" for decision in sharding.decide(abstract, experiment.network.rules, mesh))
    text = f"{meshes.describe(mesh)}\n{decisions}"
    processes.on_primary(lambda: write_text(folder.path / "sharding.txt", text))
    if initial:
        checksum = tree_checksum(initial.params)
        LOG.info("starts from %s, step %d, parameter checksum %s", experiment.pretrained, initial.step, checksum)


def _log_resumed(experiment: Experiment, config, changed: dict, begin: int) -> None:
    """Logs where a run continues, what has changed, and what the learning rate is from here on."""
    LOG.info("continues at step %d of %d", begin, config.train.steps)
    if changed:
        LOG.info("the config has changed from this step on:\n%s", resume.lines(changed))
    if any(key in changed for key in resume.SCHEDULE) and begin < config.train.steps:
        LOG.info(
            "the learning rate follows the schedule of the new config, %s over all %d steps: %.4g at step %d",
            config.optimizer.schedule,
            config.train.steps,
            experiment.schedule(begin),
            begin + 1,
        )


def _free_encoders(experiment: Experiment) -> None:
    """Frees the parameters of codec and text encoder; they are read again at their next use."""
    for model in (experiment.codec, experiment.text):
        if model and model.lazy:
            model.lazy.release()


def _is_multiple(step: int, every: int) -> bool:
    """Returns whether a step is a multiple of `every`; False if `every` is 0, which means never."""
    return every > 0 and step % every == 0


class _Checks:
    """The checks between training steps: validation loss, metrics of an evaluation, preview sheets."""

    def __init__(self, config, experiment, folder, data, mesh, metrics, key, encoder_params, test, split):
        """Keeps `test`, one batch of the clips of `split` for all validation losses, or None."""
        self._config, self._experiment, self._folder, self._data, self._mesh = config, experiment, folder, data, mesh
        self._metrics, self._key, self._encoder_params = metrics, key, encoder_params
        self._split, self._test = split, None if test is None else meshes.put_batch(test, mesh, config.train.batch_size)
        loss = partial(held_out_loss, experiment=experiment, microbatches=config.run.microbatches)
        self._loss = jax.jit(loss, out_shardings=meshes.replicated(mesh))

    def validate(self, step: int, state: State) -> bool:
        """Writes a line of `validation.jsonl` if one is due after this step; returns whether it wrote one."""
        config, record = self._config, {}
        if self._test is not None and self._due(step, config.run.validate_every):
            with jax.set_mesh(self._mesh):
                losses = self._loss(state, self._test, self._key, self._encoder_params)
            record |= {name: float(value) for name, value in losses.items()} | dict(split=self._split)
        trained = step or self._experiment.pretrained  # skip step 0 without pretrained parameters
        if self._due(step, config.run.evaluate_every) and trained:
            clock = time.perf_counter()
            try:
                record |= scalars(self._on_local_devices(self._experiment.method.evaluate, step, state, protocol=True))
            except SolveError as error:  # an untrained model may fail to sample: training continues
                LOG.warning("no evaluation after step %d: %s", step, error)
            else:
                record["evaluate_seconds"] = round(time.perf_counter() - clock, 2)
                which = "parameters" if state.ema is None else "moving average of the parameters"
                LOG.info("evaluated the %s after step %d in %.1f s", which, step, record["evaluate_seconds"])
        if record:
            self._metrics.validated(step, record)
        return bool(record)

    def preview(self, step: int, state: State) -> bool:
        """Writes a preview, a sheet and videos, if one is due after this step or early in the run; returns whether."""
        every = self._config.run.sample_every
        if not (self._due(step, every) or step == every // 10 >= 10):
            return False
        try:
            shown = self._on_local_devices(self._experiment.method.preview, step, state)
            sheet = videos.sheet(shown.videos, captions=shown.captions)
        except SolveError as error:
            LOG.warning("no preview sheet after step %d: %s", step, error)
            return True
        if processes.is_primary():
            stem = Path(self._folder.samples) / f"step_{step:08d}"
            videos.write_preview(stem, shown.videos, shown.fps)
            videos.write_png(stem.with_suffix(".png"), sheet)
        self._metrics.image("samples", step, sheet)
        return True

    def _on_local_devices(self, function: Callable, step: int, state: State, *, protocol: bool = False):
        """Calls `function(run, data)` for the run at this step."""
        params = meshes.to_local_devices(merge(state.frozen, state.params if state.ema is None else state.ema))
        described = load.run_protocol(self._config, step, params) if protocol else {}
        run = Run(self._config, self._experiment, params, self._folder.path, step, described)
        with jax.set_mesh(meshes.local_mesh()):
            return function(run, self._data)

    def _due(self, step: int, every: int) -> bool:
        """Returns whether a task is due that runs every `every` steps and after the last one; never if `every` is 0."""
        return _is_multiple(step, every) or step == self._config.train.steps and every > 0


class _StopRequest:
    """A request to stop, made by SIGTERM or SIGINT; the loop reads it after each step."""

    def __init__(self):
        self.requested = False

    def _request(self, number, frame):
        self.requested = True

    def __enter__(self):
        try:
            self._before = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: Python handles signals there only
            self._before = {}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
