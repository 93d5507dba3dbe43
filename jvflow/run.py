"""A trained run: its config, what the config means, and its parameters at one checkpoint."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvflow.parallel import mesh as meshes
from jvflow.flowframes import method as flowframes
from jvflow.parallel import processes
from jvflow.pretrained import public
from jvflow.training import lora as tuning
from jvflow.biflow.method import OBJECTIVES
from jvflow.training.checkpoint import Checkpoints, abstract_like
from jvflow.parallel.checksums import checksum_of
from jvflow.data import pipeline, video
from jvflow.experiment import Experiment, assemble
from jvflow.flow.field import Condition, Field
from jvflow.data.files import write_text
from jvflow.networks import as_field
from jvflow.training.state import merge
from jvflow.training.workdir import Workdir, override


@dataclass(frozen=True)
class Run:
    """A trained run; `params` are those of `experiment.network`, whole on every device of this process."""

    config: object
    experiment: Experiment
    params: Any
    folder: Workdir
    step: int

    @property
    def field(self) -> Field:
        """The field that was learned."""
        return as_field(self.experiment.network, self.params)

    def condition(self, captions: list[str], embedded: tuple | None = None) -> Condition | None:
        """What the field is conditioned on for these captions, at the rate of the run's data; None for a field that is told neither.

        `embedded` are the captions' embeddings (b, m, d) and masks (b, m), where a data set has them.
        """
        text, embedding = self.experiment.text, None
        if embedded:
            tokens, (embedding, mask) = None, embedded
        else:
            tokens, mask = text.tokenize(captions) if text else (None, None)
        fps = np.full(len(captions), self.config.data.fps, np.float32)
        given = dict(text=text.params) if text and embedding is None else {}
        return self.experiment.condition(self.params, tokens, mask, given, embedding, fps)

    def on_devices(self):
        """A context: programs called in it split their rows over the devices of this process."""
        return jax.set_mesh(meshes.here())

    def data(self) -> Path:
        """The data set that the run was trained on."""
        return processes.primary_first(lambda: pipeline.prepare(self.config.data, self.folder.path))


def load(workdir, *, step: int | None = None, ema: bool | None = None, sampling: dict | None = None) -> Run:
    """A trained run.

    Args:
      workdir: of `launch.train`.
      step: which checkpoint; the latest when None.
      ema: the moving average of the parameters, or the parameters themselves; None takes the
        average where there is one.
      sampling: entries of `config.sample` to replace, such as {"curve": "backward"}.
    """
    folder, config = Workdir.read(workdir)
    sampling = sampling or {}
    override(config, "sample", sampling)
    if {"curve", "epsilon"} & set(sampling) and config.objective in OBJECTIVES and OBJECTIVES[config.objective].coordinates == 1:
        raise ValueError(f"a run of {config.objective} knows no noise level, its only curve is the plain one: leave out {sampling}")
    averaged = config.optimizer.ema > 0
    if ema and not averaged:
        raise ValueError(f"{folder.path} was trained without a moving average (config.optimizer.ema = 0)")
    which = "ema" if (averaged if ema is None else ema) else "params"
    experiment = assemble(config)
    everywhere = meshes.replicated(meshes.make())
    frozen = frozen_of(config, experiment, folder)
    shapes = jax.eval_shape(lambda key: experiment.tuning.parts(key, experiment.network.init(key))[0], jax.random.key(0))
    checkpoints = Checkpoints(folder.checkpoints, keep=config.run.keep)
    restored, step = checkpoints.restore_only({which: abstract_like(shapes, everywhere)}, step)
    checkpoints.close()
    return Run(config, experiment, meshes.local(merge(frozen, restored[which])), folder, step)


def frozen_of(config, experiment: Experiment, folder: Workdir):
    """The parameters of a run that stay as they are, from what it started from; {} where all train.

    Raises a ValueError when they are others than those that the run was begun with.
    """
    if not experiment.tuning.freezes:
        return {}
    frozen = experiment.tuning.parts(jax.random.key(0), pretrained(config, experiment).params)[1]
    folder.check_frozen(config.pretrained, checksum_of(frozen))
    return frozen


def model(config) -> Run:
    """The model of `config.pretrained`: the run of a workdir, or public models in folders of their own (`jvflow.pretrained.public`), for FlowFrames as text to video."""
    found = public.folders(config.pretrained)
    if not found:
        lost = [folder for folder in config.pretrained.split(",") if not (Path(folder) / "config.json").exists()]
        if lost:
            raise ValueError(f"config.pretrained names {', '.join(lost)}, which holds neither a run nor a public model: give the workdir of launch.train, or a folder with config.json and safetensors")
        run = load(Path(config.pretrained))
        return replace(run, params=tuning.merged(run.params))
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update(pretrained="", tune=dict(rank=0, layers=()))
        if config.objective in flowframes.DESIGNS:
            config.objective = "text_to_video"
    experiment = assemble(config)
    params = public.read(config, found, experiment.text.width if experiment.text else 0)
    if experiment.text and experiment.text.init:
        params["text"] = experiment.text.init(jax.random.key(config.seed))
    return Run(config, experiment, params, Workdir(found[0]), 0)


def pretrained(config, experiment: Experiment) -> Run:
    """The `model` whose parameters training starts from.

    Raises a ValueError when its parameters are not those of the network of `experiment`, in name or shape.
    """
    run = model(config)
    have, need = (_shapes(params) for params in (run.params, jax.eval_shape(experiment.network.init, jax.random.key(0))))
    different = sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))
    if different:
        some = "; ".join(f"{name} is {have.get(name, 'absent')} there and {need.get(name, 'absent')} here" for name in different[:3])
        raise ValueError(
            f"the network of config.pretrained={experiment.pretrained} is not that of this config, {len(different)} parameters differ: {some}: "
            "take its config.network and config.text"
        )
    return run


def _shapes(params) -> dict:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


def untrained(workdir) -> Run:
    """A run as it was before its first step."""
    folder, config = Workdir.read(workdir)
    experiment = assemble(config)
    key, _ = jax.random.split(jax.random.key(config.seed))
    return Run(config, experiment, jax.jit(experiment.network.init)(key), folder, 0)


def checksum(run: Run) -> str:
    """Of the run's parameters: what tells one model from another."""
    return checksum_of(run.field)


def protocol(run: Run) -> dict:
    """What every record of a run carries."""
    return dict(
        objective=run.config.objective, step=run.step, parameters=checksum(run),
        data=run.config.data.path, size=list(run.config.data.size),
    )


def solver_protocol(solver) -> dict:
    """How the equation of a run is solved, for its records."""
    return dict(
        method=solver.method, rtol=solver.rtol, atol=solver.atol, fixed_steps=solver.steps, per_sample=solver.per_sample,
        nfe="evaluations of the network that each sample needed, rejected steps included",
    )


def write_videos(out, videos, captions: list[str], *, fps: float, nfe_per_frame, seconds_per_frame: float, seed: int, protocol: dict) -> dict:
    """Writes whole videos, uint8 (b, f, h, w, 3), into the folder `out`: an mp4 for each, `sheet.png`, and `samples.json`, whose content is returned."""
    out = Path(out)
    files = [out / f"sample_{i:03d}.mp4" for i in range(len(videos))]
    each = dict(frames=videos.shape[1], fps=fps, seconds_per_frame=seconds_per_frame, seed=seed)
    samples = [dict(file=file.name, caption=caption, nfe_per_frame=float(n), **each) for file, caption, n in zip(files, captions, nfe_per_frame)]
    record = dict(samples=samples, protocol=protocol)

    def write():
        out.mkdir(parents=True, exist_ok=True)
        for file, frames in zip(files, videos):
            video.write(file, frames, fps)
        video.write_png(out / "sheet.png", video.sheet(videos))
        write_text(out / "samples.json", json.dumps(record, indent=1) + "\n")

    processes.on_primary(write)
    return record
