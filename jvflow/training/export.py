"""Export of a run in diffusers' format: the public models inside its network, whole or as low-rank matrices."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jvflow import pretrained
from jvflow.data import dataset
from jvflow.data.dataset_key import dataset_key
from jvflow.experiment import assemble
from jvflow.files import model_source, write_text
from jvflow.load import load
from jvflow.parallel import processes
from jvflow.pretrained import public
from jvflow.pretrained.sources import split_models
from jvflow.training import format_version, packed
from jvflow.training.lora import merge_lora
from jvflow.training.rules import COUNT, check, choice
from jvflow.training.workdir import Workdir

LOG = logging.getLogger(__name__)


def export(
    workdir, out, *, lora: bool = False, like: Sequence = (), step: int | None = None, ema: bool | None = None
) -> list[Path]:
    """Writes the public models inside a trained run into the folder `out`; returns the files.

    Also writes jvflow.json, which names the run and the format version.

    Args:
      workdir: the folder of the run.
      out: a new or empty folder; it gets one subfolder for each of two U-Nets.
      lora: write only the low-rank matrices; otherwise they are merged into the parameters.
      like: public models whose config describes the run (`jvflow.pretrained.sources`); if empty, the models that
        training started from, directly or through earlier runs.
      step, ema: which parameters, see `jvflow.load.load`.

    Raises:
      ValueError: if no public model has such a network or such layers, if the run did not start from one and `like` is
        empty, or if `out` is not empty.
    """
    like = [model_source(folder, "--like") for folder in like]
    with processes.one_writer(out, "--out", whole=True) as out:
        return _export(workdir, out, lora, like, step, ema)


def pack(
    workdir,
    out,
    *,
    step: int | None = None,
    ema: bool | None = None,
    clips: int | None = None,
    dtype: str = "float32",
) -> list[Path]:
    """Writes a trained run into the folder `out` as a packed run (`jvflow.training.packed`); returns the files.

    LoRA matrices are merged into their layers. Models that the run reads at every use (config.codec.checkpoint,
    config.text.checkpoint) are not part of it.

    Args:
      workdir: the folder of the run.
      out: a folder that does not exist yet.
      step, ema: which parameters, see `jvflow.load.load`.
      clips: at most so many clips of each split in the data of the packed run, where the data is procedural: samples
        start from them, and the first use has to render them. None keeps the data of the training.
      dtype: "float32", or "float16" for half the size: rounded parameters.
    """
    check([("--dtype", dtype, choice("float32", "float16"))])
    check([] if clips is None else [("--clips", clips, COUNT)])
    with processes.one_writer(out, "--out", whole=True) as out:
        _check_absent(out)
        run = load(workdir, step=step, ema=ema)
        config = run.config.copy_and_resolve_references()
        config.data.cache, config.pretrained, config.pretrained_state = "", "", False
        config.tune.update(rank=0, layers=(), lora="")
        params = jax.device_get(merge_lora(run.params))
        averaged = config.optimizer.ema > 0 if ema is None else ema
        key = Workdir(run.workdir).data_key if clips is None else _shorten(config.data, clips)
        noted: dict = dict(step=run.step, ema=averaged, key=key, dtype=dtype)
        processes.on_primary(lambda: packed.write(out, config, params, **noted))
    return [out / "config.json", out / packed.PACKED]


def _shorten(data, clips: int) -> str:
    """Leaves at most `clips` clips in each split of `config.data`, in place; returns the key of that data set.

    Raises ValueError if the data is not procedural.
    """
    if not data.path.startswith(dataset.PROCEDURAL):
        raise ValueError(f"--clips={clips} is for procedural data, and config.data.path is {data.path}: leave it out")
    data.clips.update({split: min(count, clips) for split, count in data.clips.items()})
    return dataset_key(dataset.settings(data, None))


def _check_absent(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: remove it, or choose another name")


def _export(workdir, out: Path, lora: bool, like: list[str], step: int | None, ema: bool | None) -> list[Path]:
    _check_absent(out)
    config = Workdir.read(workdir)[1]
    wanted = public.parts(config, assemble(config).network)
    kind = public.KINDS[config.network.name]
    like = list(like) or _started_from(config)
    if len(like) == 1 < len(wanted):
        like = split_models(like[0], kind)
    if len(like) != len(wanted):
        names = ",".join(["FOLDER"] * len(wanted))
        raise ValueError(
            f"{workdir} holds {len(wanted)} public models, and the config.json of {len(like)} is known: "
            f"give --like={names}"
        )
    kinds = [pretrained.open_folder(folder, kind)[:2] for folder in like]
    wrong = [f"{folder} holds a {found}" for folder, (found, _) in zip(like, kinds) if found != kind]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}: the network {config.network.name} is a {kind}")
    run = load(workdir, step=step, ema=ema)
    options = public.import_options(config, run.experiment.text.width if run.experiment.text else 0)
    if "text" in run.params:
        LOG.warning(
            "the export leaves out the trained text encoder, because public models have no place for it: "
            "the exported model expects its embeddings"
        )
    version = {format_version.ENTRY: format_version.VERSION}
    params, partial = jax.device_get(run.params), out.with_name(f"{out.name}.partial")

    def write():
        shutil.rmtree(partial, ignore_errors=True)
        for part, (kind, config_json) in zip(wanted, kinds):
            here = {name: a for name, a in params.items() if name != "text"}
            for key in part.path:
                here = here[key]
            if lora:
                pretrained.export_lora(kind, config_json, here, partial / part.folder, **options)
            else:
                whole = jax.tree.map(lambda a: np.asarray(a, np.float32), merge_lora(here))
                pretrained.export(kind, config_json, whole, partial / part.folder, **options)
        write_text(
            partial / "jvflow.json",
            json.dumps(dict(run.protocol, lora=lora, tune=config.tune.to_dict(), **version), indent=1) + "\n",
        )
        partial.rename(out)  # so that `out` is complete or absent

    processes.on_primary(write)
    return [
        out / part.folder / (pretrained.LORA_FILE if lora else pretrained.KINDS[kind].file)
        for part, (kind, _) in zip(wanted, kinds)
    ]


def _started_from(config) -> list[str]:
    """Returns the sources of the public models that a run started from, directly or through earlier runs."""
    while config.pretrained:
        found = public.folders(config.pretrained)
        if found:
            return found
        config = Workdir.read(config.pretrained)[1]
    return []
