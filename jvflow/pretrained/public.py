"""Public models inside our networks: training can start from them, and a run can be exported as them.

dit, ltx, wan    one source with the transformer: a folder, a file or an address (`jvflow.pretrained.sources`)
unet             a source for each velocity, "VIDEO,NOISE", or the one file with both that Bi-flow's authors released
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from jvflow import pretrained
from jvflow.networks import Network
from jvflow.pretrained import lora
from jvflow.pretrained.lora import Change
from jvflow.pretrained.sources import split_models

KINDS = {"dit": "dit", "unet": "unet2d", "ltx": "ltx_transformer", "wan": "wan_transformer"}
"""The kind of public model (see `jvflow.pretrained.KINDS`) for each network."""
SCANNED = ("dit", "ltx", "wan")


class Part(NamedTuple):
    """A public model inside a network: the path of its parameters, and its folder below the folder of an export."""

    path: tuple
    folder: str


def folders(names: str) -> list[str]:
    """Returns the sources that `config.pretrained` names if all of them are public models, else an empty list."""
    found = names.split(",")
    return found if all(pretrained.is_public(source) for source in found) else []


def parts(config, network: Network) -> list[Part]:
    """Returns the public models inside the network of a config."""
    _kind(config)
    if config.network.name != "unet":
        return [Part((), "")]
    names = ("both",) if network.config.shared else ("video", "noise")[: network.config.velocities]
    return [Part(("velocities", i), name) for i, name in enumerate(names)]


def find_parts(
    config, network: Network, folders: Sequence[str | Path], text_width: int = 0
) -> list[tuple[Part, str | Path]]:
    """Returns the public models inside the network of a config, each with its source; reads no tensor.

    Raises:
      ValueError: if the folders hold models of another kind, their number is wrong, or their tensors do not fit.
    """
    kind, wanted = _kind(config), parts(config, network)
    folders = split_models(folders[0], kind) if len(folders) == 1 < len(wanted) else folders
    _check_kinds(config, folders)
    if len(folders) != len(wanted):
        names = ",".join(part.folder.upper() or "FOLDER" for part in wanted)
        raise ValueError(
            f"config.pretrained={','.join(map(str, folders))}: {len(folders)} folders, and {config.objective} "
            f"on the network {config.network.name} takes {names}"
        )
    for folder in folders:
        pretrained.inspect(folder, kind=kind, **import_options(config, text_width))
    return list(zip(wanted, folders))


def load_params(
    config, network: Network, folders: Sequence[str | Path], text_width: int = 0, loras: Sequence[str] = ()
) -> dict:
    """Returns the parameters of the config's network from public models, without a text encoder's.

    Parameters that the public models do not have are initialized as in a new network. Errors as in `find_parts`.

    Args:
      loras: a LoRA file for each folder, which is merged into its parameters; or none.
    """
    kind, options = _kind(config), import_options(config, text_width)
    found = find_parts(config, network, folders, text_width)
    params = {}
    for (part, folder), file in zip(found, loras or [None] * len(found), strict=True):
        loaded = pretrained.load(folder, kind=kind, dtype=jnp.float32, lora=file, **options).params
        at = params
        for key in part.path[:-1]:
            at = at.setdefault(key, {})
        at.update({part.path[-1]: loaded} if part.path else loaded)
    return params


def lora_files(config) -> tuple[str, ...]:
    """Returns the LoRA files that `config.tune.lora` names, one for each public model of `config.pretrained`; or ().

    Raises:
      ValueError: if `config.pretrained` names no public models, or another number.
    """
    files = config.tune.get("lora")
    if not files:
        return ()
    models = _models(config)
    if not models:
        raise ValueError(
            f"config.tune.lora={files} changes layers of a public model, and config.pretrained={config.pretrained} is "
            "none: give the folder of the public model"
        )
    files = tuple(files.split(","))
    if len(files) != len(models):
        raise ValueError(
            f"config.tune.lora names {len(files)} files, and config.pretrained {len(models)} models: give a file for "
            "each model, in the same order"
        )
    return files


def lora_changes(config) -> dict[str, Change]:
    """Returns what the files of `config.tune.lora` add to the arrays of the config's network, by their paths."""
    changes, files, models = {}, lora_files(config), _models(config)
    _check_kinds(config, models)
    for i, (folder, file) in enumerate(zip(models, files)):
        kind, config_json, _ = pretrained.open_folder(folder, _kind(config))
        prefix = f"velocities/{i}/" if config.network.name == "unet" else ""
        found = lora.read(file, kind, config_json, **import_options(config))
        changes |= {f"{prefix}{path}": change for path, change in found.items()}
    return changes


def _models(config) -> list[str | Path]:
    """Returns one source for each public model that `config.pretrained` names; [] if it names a run."""
    found = folders(config.pretrained)
    return split_models(found[0], _kind(config)) if config.network.name == "unet" and len(found) == 1 else found


def _check_kinds(config, folders: Sequence[str | Path]) -> None:
    """Raises ValueError if a source does not hold the kind of model that the config's network starts from."""
    kind = _kind(config)
    kinds = {folder: pretrained.open_folder(folder, kind)[0] for folder in folders}
    wrong = [f"{folder} holds a {found}" for folder, found in kinds.items() if found != kind]
    if wrong:
        raise ValueError(
            f"config.pretrained: {'; '.join(wrong)}, and the network is {config.network.name}, "
            f"which starts from a {kind}"
        )


def _kind(config) -> str:
    """Returns the kind of public model that the network of a config can start from."""
    if config.network.name not in KINDS:
        raise ValueError(
            f"there is no public model for the network {config.network.name}: use one of {', '.join(KINDS)}"
        )
    return KINDS[config.network.name]


def import_options(config, text_width: int = 0) -> dict:
    """Returns the options of `pretrained.load` and `pretrained.export` for the network of a config."""
    options = dict(scan="scan" in config.network and config.network.scan) if config.network.name in SCANNED else {}
    return options | (dict(text_width=text_width) if config.network.name == "dit" and text_width else {})
