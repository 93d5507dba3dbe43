"""Loads trained runs and pretrained models from their folders."""

import logging
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from jvflow.assembly import Experiment
from jvflow.data import dataset
from jvflow.experiment import assemble, method_of
from jvflow.parallel import mesh as meshes
from jvflow.parallel import processes
from jvflow.parallel.checksums import tree_checksum
from jvflow.pretrained import public
from jvflow.run import Run
from jvflow.training import lora
from jvflow.training.checkpoint import Checkpoints, abstract_like
from jvflow.training.step import merge
from jvflow.training.workdir import Workdir, override

LOG = logging.getLogger(__name__)


def load(workdir, *, step: int | None = None, ema: bool | None = None, sampling: dict | None = None) -> Run:
    """Loads a trained run.

    Args:
      workdir: the folder that `jvflow train` wrote.
      step: the step of the checkpoint; the latest when None.
      ema: True loads the moving average of the parameters, False the parameters themselves; None loads the average if
        there is one.
      sampling: entries of `config.sample` to replace, such as {"curve": "backward"}.
    """
    folder, config = Workdir.read(workdir)
    sampling = sampling or {}
    method_of(config).check_sampling(config, sampling)
    override(config, "sample", sampling)
    averaged = config.optimizer.ema > 0
    if ema and not averaged:
        raise ValueError(f"{folder.path} was trained without a moving average (config.optimizer.ema = 0)")
    which = "ema" if (averaged if ema is None else ema) else "params"
    experiment = assemble(config)
    if folder.dropped_to_zeros(config, experiment.text):
        LOG.warning(
            "warning: %s was trained by an earlier version of jvflow, which dropped captions to zeros; guidance now "
            "compares with the empty caption, so that only guidance 1 is right for it: train the run again",
            folder.path,
        )
    everywhere = meshes.replicated(meshes.make_mesh())
    frozen = load_frozen(config, experiment, folder)
    shapes = jax.eval_shape(lambda key: _split(experiment, key)[0], jax.random.key(0))
    checkpoints = Checkpoints(folder.checkpoints, keep=config.run.keep)
    restored, step = checkpoints.restore_only({which: abstract_like(shapes, everywhere)}, step)
    checkpoints.close()
    params = meshes.to_local_devices(merge(frozen, restored[which]))
    return Run(config, experiment, params, folder.path, step, run_protocol(config, step, params))


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
    """Loads the model of `config.pretrained`: the run of a workdir, or the public models of folders.

    With `merge`, the LoRA files of `config.tune.lora` are merged into the parameters of public models.
    """
    found = public.folders(config.pretrained)
    folders = [] if found else config.pretrained.split(",")
    lost = [folder for folder in folders if not (Path(folder) / "config.json").exists()]
    if lost:
        raise ValueError(
            f"config.pretrained names {', '.join(lost)}, where there is no run and no public model: give the "
            "workdir of jvflow train, or a folder with config.json and safetensors"
        )
    files = public.lora_files(config) if merge else ()
    if not found:
        run = load(Path(config.pretrained))
        return replace(run, params=jax.tree.map(lambda a: a.astype(jnp.float32), lora.merge_lora(run.params)))
    config = method_of(config).pretrained_config(config.copy_and_resolve_references())
    with config.unlocked():
        config.update(pretrained="", tune=dict(rank=0, layers=(), lora=""))
    experiment = assemble(config)
    text_width = experiment.text.width if experiment.text else 0
    params = public.load_params(config, experiment.network, found, text_width, files)
    if experiment.text and experiment.text.init:
        params["text"] = experiment.text.init(jax.random.key(config.seed))
    return Run(config, experiment, params, found[0], 0, run_protocol(config, 0, params))


def load_pretrained(config, experiment: Experiment) -> Run:
    """Loads the model whose parameters training starts from.

    If LoRA matrices train, and `config.tune.lora` names files, their matrices stand next to the kernels.

    Raises ValueError if its parameters differ from those of the network of `experiment`, in name or shape.
    """
    apart = trains_file(config)
    run = load_model(config, merge=not apart)
    have, need = (
        _shapes(params) for params in (run.params, jax.eval_shape(experiment.network.init, jax.random.key(0)))
    )
    different = sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))
    if different:
        some = "; ".join(
            f"{name} is {have.get(name, 'absent')} there and {need.get(name, 'absent')} here" for name in different[:3]
        )
        raise ValueError(
            f"the network of config.pretrained={experiment.pretrained} differs from this config's in {len(different)} "
            f"parameters: {some}: use the config.network and config.text of the pretrained model"
        )
    if apart:
        return replace(run, params=lora.add_file(run.params, public.lora_changes(config), config.tune.rank))
    return run


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
    return processes.primary_first(lambda: dataset.prepare(run.config.data, run.workdir))


def run_protocol(config, step: int, params) -> dict:
    """Returns the entries that every record of a run has."""
    return dict(
        objective=config.objective,
        step=step,
        parameters=tree_checksum(params),
        data=config.data.path,
        size=list(config.data.size),
    )
