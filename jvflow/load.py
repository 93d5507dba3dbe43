"""Loads trained runs and pretrained models from their folders."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from jvflow.assembly import Experiment
from jvflow.data import dataset
from jvflow.experiment import assemble, method_of
from jvflow.files import run_path, user_cache
from jvflow.parallel import mesh as meshes
from jvflow.parallel import processes
from jvflow.parallel.checksums import tree_checksum
from jvflow.pretrained import public
from jvflow.pretrained.sources import explain, is_found
from jvflow.run import Run
from jvflow.training import lora, packed, resume
from jvflow.training.checkpoint import Checkpoints, abstract_like
from jvflow.training.step import merge
from jvflow.training.workdir import NO_CONFIG, Workdir, override

LOG = logging.getLogger(__name__)


def load(
    workdir,
    *,
    step: int | None = None,
    ema: bool | None = None,
    sampling: dict | None = None,
    dtype: str | None = None,
) -> Run:
    """Loads a trained run.

    Args:
      workdir: the folder that `jvflow train` wrote; or a packed run, such as jvflow:maze, which the package ships.
      step: the step of the checkpoint; the latest when None.
      ema: True loads the moving average of the parameters, False the parameters themselves; None loads the average if
        there is one.
      sampling: entries of `config.sample` to replace, such as {"curve": "backward"}.
      dtype: dtype in which the network computes, "float32" or "bfloat16"; None for that of training. Parameters keep
        theirs: they are float32, unless `config.tune.dtype` says otherwise for frozen ones.
    """
    folder, config = Workdir.read(workdir)
    sampling = sampling or {}
    with _named(folder.config_file):
        _check_places(folder, config)
        method_of(config).check_sampling(config, sampling)
        override(config, "sample", sampling)
        override(config, "network", dict(dtype=dtype) if dtype else {})
        averaged = config.optimizer.ema > 0
        experiment = assemble(config)
    if ema and not averaged:
        raise ValueError(f"{folder.path} was trained without a moving average (config.optimizer.ema = 0)")
    which = "ema" if (averaged if ema is None else ema) else "params"
    if folder.dropped_to_zeros(config, experiment.text):
        LOG.warning(
            "warning: %s was trained by an earlier version of jvflow, which dropped captions to zeros; guidance now "
            "compares with the empty caption, so that only guidance 1 is right for it: train the run again",
            folder.path,
        )
    everywhere = meshes.replicated(meshes.make_mesh())
    frozen = load_frozen(config, experiment, folder)
    shapes = jax.eval_shape(lambda key: _split(experiment, key)[0], jax.random.key(0))
    if folder.packed:
        trained, step = _unpacked(folder, shapes, step, ema)
        trained = jax.device_put(trained, everywhere)
    else:
        checkpoints = Checkpoints(folder.checkpoints, write=False)
        restored, step = checkpoints.restore_only({which: abstract_like(shapes, everywhere)}, step, keep_dtypes=True)
        checkpoints.close()
        trained = restored[which]
    params = meshes.to_local_devices(merge(frozen, trained))
    with _named(folder.config_file):
        protocol = run_protocol(config, step, params) | resume.trained_with(folder.path, step)
        protocol |= dict(computed_in=dtype) if dtype else {}
    return Run(config, experiment, params, folder.path, step, protocol)


def _unpacked(folder: Workdir, shapes, step: int | None, ema: bool | None) -> tuple[dict, int]:
    """Returns the parameters of a packed run and their step; raises ValueError if others are asked for."""
    header = packed.header(folder.path)
    if step not in (None, header["step"]):
        raise ValueError(f"{folder.path} is a packed run of step {header['step']}, and --step is {step}: leave it out")
    if ema not in (None, header["ema"]):
        kept = "the moving average" if header["ema"] else "the parameters themselves"
        raise ValueError(f"{folder.path} is a packed run that holds only {kept}: leave out --ema")
    return packed.read(folder.path, shapes), header["step"]


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Names the file in the error for a missing or wrong entry of the config of a run."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        missing = error if isinstance(error, KeyError) else next(iter(error.args), None)  # ml_collections wraps it
        reason = f"has no key {missing.args[0]}" if isinstance(missing, KeyError) else f"has a wrong entry ({error})"
        raise ValueError(f"{file} {reason}: {NO_CONFIG}") from error


def _check_places(folder: Workdir, config) -> None:
    """Raises ValueError if a model that a run needs to be loaded is not at its place any more."""
    tuned = config.tune.rank or config.tune.layers
    places = {"pretrained": config.pretrained.split(",") if tuned else []}
    places |= {"tune.lora": config.tune.lora.split(",") if tuned and config.tune.get("lora") else []}
    places |= {f"{name}.checkpoint": config.get(name, {}).get("checkpoint", ()) for name in ("codec", "text")}
    lost = [f"config.{key}: {place}" for key, paths in places.items() for place in paths if not is_found(place)]
    if lost:
        raise ValueError(
            f"{folder.path} needs models that are not where its config.json names them ({'; '.join(lost)}): put them "
            "back, or give the training command of this run once more with their new places"
        )


def _split(experiment: Experiment, key, params=None) -> tuple:
    """Returns (trained parameters, frozen parameters)."""
    params = experiment.network.init(key) if params is None else params
    return experiment.tuning.add_and_split(key, params) if experiment.tuning else (params, {})


def load_frozen(config, experiment: Experiment, folder: Workdir) -> dict:
    """Loads the frozen parameters of a run from its pretrained model; returns {} if all parameters train.

    Raises ValueError if they differ from the frozen parameters at the start of the run.
    """
    if not experiment.tuning:
        return {}
    frozen = _split(experiment, jax.random.key(0), load_pretrained(config, experiment).params)[1]
    folder.check_frozen(config.pretrained, tree_checksum(frozen))
    return frozen


def load_model(config, *, merge: bool = True) -> Run:
    """Loads the model of `config.pretrained`: the run of a workdir, or public models.

    With `merge`, the LoRA files of `config.tune.lora` are merged into the parameters of public models.
    """
    found = _public_sources(config)
    files = public.lora_files(config) if merge else ()
    if not found:
        run = load(Path(config.pretrained))
        return replace(run, params=jax.tree.map(lambda a: a.astype(jnp.float32), lora.merge_lora(run.params)))
    config, experiment, width = _pretrained_experiment(config)
    params = public.load_params(config, experiment.network, found, width, files)
    if experiment.text and experiment.text.init:
        params["text"] = experiment.text.init(jax.random.key(config.seed))
    return Run(config, experiment, params, Path(found[0]), 0, run_protocol(config, 0, params))


def check_pretrained(config) -> None:
    """Raises ValueError if `config.pretrained` names neither a run nor public models that fit; reads no tensor."""
    found = _public_sources(config)
    if not found:
        Workdir.read(config.pretrained)  # raises if its config is damaged, or of a later jvflow
    else:
        config, experiment, width = _pretrained_experiment(config)
        public.find_parts(config, experiment.network, found, width)


def _public_sources(config) -> list[str]:
    """Returns the public models of `config.pretrained`, [] for a run; raises ValueError if it is neither."""
    found = public.folders(config.pretrained)
    for source in [] if found else config.pretrained.split(","):
        if not (Path(run_path(source, "config.pretrained")) / "config.json").is_file():
            raise ValueError(
                f"config.pretrained names {source}, where there is no run and no public model: {explain(source)}; "
                f"make a run there with `jvflow train --config=... --workdir={source}`, or give a public model"
            )
    return found


def _pretrained_experiment(config) -> tuple:
    """Returns config and experiment of the public models themselves, and the width of their text."""
    config = method_of(config).pretrained_config(config.copy_and_resolve_references())
    with config.unlocked():
        config.update(pretrained="", tune=dict(rank=0, layers=(), lora=""))
    experiment = assemble(config)
    return config, experiment, experiment.text.width if experiment.text else 0


def load_pretrained(config, experiment: Experiment) -> Run:
    """Loads the model whose parameters training starts from.

    If LoRA matrices train, and `config.tune.lora` names files, their matrices stand next to the kernels.

    Raises ValueError if its parameters differ from those of the network of `experiment`, in name or shape.
    """
    apart = trains_file(config)
    run = load_model(config, merge=not apart)
    _check_shapes(run.params, experiment)
    if apart:
        return replace(run, params=lora.add_file(run.params, public.lora_changes(config), config.tune.rank))
    return run


def check_fork(config, experiment: Experiment) -> Checkpoints:
    """Opens the checkpoints of the run `config.pretrained`, whose whole state training continues.

    Raises ValueError if it is no run, if the state would not fit, or if the run is at the last step already.
    """
    where = f"config.pretrained_state=True continues the state of a run, and config.pretrained={config.pretrained}"
    if not config.pretrained or public.folders(config.pretrained):
        raise ValueError(f"{where} is none: give the workdir of `jvflow train`, or use config.pretrained_state=False")
    folder, before = Workdir.read(config.pretrained)
    if any(tune.rank or tune.layers for tune in (config.tune, before.tune)):
        raise ValueError(f"{where} has other parameters with config.tune: use config.pretrained_state=False")
    changed = resume.changes(before.to_dict(), config.to_dict())
    if reshaped := resume.reshapes_state(changed):
        raise ValueError(
            f"{where} has another state:\n{resume.lines({key: changed[key] for key in reshaped})}\n"
            "use these entries of that run, or config.pretrained_state=False"
        )
    started = assemble(before)
    if folder.dropped_to_zeros(before, started.text):
        raise ValueError(f"{where} learned to drop captions to zeros: use config.pretrained_state=False")
    _check_shapes(jax.eval_shape(started.network.init, jax.random.key(0)), experiment)
    checkpoints = Checkpoints(folder.checkpoints, write=False)
    last = checkpoints.latest()
    if last is not None and last >= config.train.steps:
        raise ValueError(f"{where} is at step {last}: use a larger config.train.steps than {config.train.steps}")
    return checkpoints


def _check_shapes(params, experiment: Experiment) -> None:
    need = jax.eval_shape(experiment.network.init, jax.random.key(0))
    have, need = _shapes(params), _shapes(need)
    different = sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))
    if different:
        some = "; ".join(
            f"{name} is {have.get(name, 'absent')} there and {need.get(name, 'absent')} here" for name in different[:3]
        )
        raise ValueError(
            f"the network of config.pretrained={experiment.pretrained} differs from this config's in {len(different)} "
            f"parameters: {some}: use the config.network and config.text of the pretrained model"
        )


def check_lora(config) -> None:
    """Raises ValueError if the files of `config.tune.lora` do not fit `config.pretrained` or `config.tune.rank`."""
    if config.tune.get("lora"):
        changes = public.lora_changes(config)
        if config.tune.rank:
            lora.add_file({}, changes, config.tune.rank)


def trains_file(config) -> bool:
    """Returns whether the LoRA matrices of a file train on; otherwise a file is merged."""
    return bool(config.tune.rank and config.tune.get("lora"))


def _shapes(params) -> dict:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


def load_untrained(workdir) -> Run:
    """Loads a run with the parameters that it had before its first step."""
    folder, config = Workdir.read(workdir)
    experiment = assemble(config)
    key, _ = jax.random.split(jax.random.key(config.seed))
    params = jax.jit(experiment.network.init)(key)
    return Run(config, experiment, params, folder.path, 0, run_protocol(config, 0, params))


def run_dataset(run: Run) -> Path:
    """Returns the folder of the data set that a run was trained on, and builds it if it is absent."""
    folder, data = Workdir(run.workdir), run.config.data
    if folder.packed and not data.cache:  # the package may be on a disk that cannot be written
        data = data.copy_and_resolve_references()
        data.cache = str(user_cache() / "data")
    key = folder.data_key
    return processes.primary_first(lambda: dataset.prepare(data, run.workdir, key=key, built_first=True))


def run_protocol(config, step: int, params) -> dict:
    """Returns the entries that every record of a run has."""
    return dict(
        objective=config.objective,
        step=step,
        parameters=tree_checksum(params),
        data=config.data.path,
        size=list(config.data.size),
    )
