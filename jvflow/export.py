"""Exports a run in diffusers' format: the public models inside its network, whole or as low-rank matrices."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax

from jvflow import pretrained
from jvflow.experiment import assemble
from jvflow.files import write_text
from jvflow.load import load
from jvflow.parallel import processes
from jvflow.pretrained import public
from jvflow.training.lora import merge_lora
from jvflow.training.workdir import Workdir

LOG = logging.getLogger(__name__)


def export(
    workdir, out, *, lora: bool = False, like: Sequence = (), step: int | None = None, ema: bool | None = None
) -> list[Path]:
    """Writes the public models of a trained run into the folder `out`; returns the files.

    Beside them is jvflow.json, which says which run they are of.

    Args:
      workdir: of `launch.train`.
      out: is made; for two U-Nets it has a folder for each.
      lora: the matrices of low rank alone, in place of parameters with them added.
      like: folders of public models whose config.json is that of the run; when empty those that its training started
        from, however many runs ago.
      step, ema: which parameters, see `run.load`.

    Raises:
      ValueError: for a network that no public model has, layers that it has no place for, and a run that did not start
        from one.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and is no empty folder: remove it, or choose another name")
    config = Workdir.read(workdir)[1]
    wanted = public.parts(config, assemble(config).network)
    like = [Path(folder) for folder in like] or _started_from(config)
    if len(like) != len(wanted):
        names = ",".join(["FOLDER"] * len(wanted))
        raise ValueError(
            f"{workdir} has {len(wanted)} public models, and the config.json of {len(like)} is known, since its "
            f"training began {'with those' if like else 'from nothing'}: give --like={names}"
        )
    kinds = [pretrained.open_folder(folder)[:2] for folder in like]
    wrong = [
        f"{folder} holds a {kind}"
        for folder, (kind, _) in zip(like, kinds)
        if kind != public.KINDS[config.network.name]
    ]
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}: the network {config.network.name} is a {public.KINDS[config.network.name]}"
        )
    run = load(workdir, step=step, ema=ema)
    options = public.import_options(config, run.experiment.text.width if run.experiment.text else 0)
    if "text" in run.params:
        LOG.warning(
            "the text encoder that was trained with the network has no place in a public model, and is left out: what "
            "is exported expects its embeddings"
        )
    params, beside = jax.device_get(run.params), out.with_name(f"{out.name}.partial")

    def write():
        shutil.rmtree(beside, ignore_errors=True)
        for part, (kind, said) in zip(wanted, kinds):
            here = {name: a for name, a in params.items() if name != "text"}
            for key in part.path:
                here = here[key]
            if lora:
                pretrained.export_lora(kind, said, here, beside / part.folder, **options)
            else:
                pretrained.export(kind, said, merge_lora(here), beside / part.folder, **options)
        write_text(
            beside / "jvflow.json",
            json.dumps(dict(run.protocol, lora=lora, tune=config.tune.to_dict()), indent=1) + "\n",
        )
        beside.rename(out)  # whole, or not there

    processes.on_primary(write)
    return [
        out / part.folder / (pretrained.LORA_FILE if lora else pretrained.KINDS[kind].file)
        for part, (kind, _) in zip(wanted, kinds)
    ]


def _started_from(config) -> list[Path]:
    """The folders of the public models that a run started from, or that the run did which it started from."""
    while config.pretrained:
        found = public.folders(config.pretrained)
        if found:
            return found
        config = Workdir.read(config.pretrained)[1]
    return []
