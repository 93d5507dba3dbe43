"""Public models inside our networks: training can start from them, and a run can be exported as them.

dit, ltx, wan    one folder with the transformer
unet             a folder for each velocity, as Bi-flow's authors released them: "VIDEO,NOISE"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from jvflow import pretrained
from jvflow.networks import Network
from jvflow.pretrained import lora
from jvflow.pretrained.lora import Change

KINDS = {"dit": "dit", "unet": "unet2d", "ltx": "ltx_transformer", "wan": "wan_transformer"}
"""The kind of public model (see `jvflow.pretrained.KINDS`) for each network."""
SCANNED = ("dit", "ltx", "wan")


class Part(NamedTuple):
    """A public model inside a network: the path of its parameters, and its folder below the folder of an export."""

    path: tuple
    folder: str


def folders(names: str) -> list[Path]:
    """Returns the folders that `config.pretrained` names if all of them hold public models, else an empty list."""
    found = [Path(name) for name in names.split(",")]
    return found if all(pretrained.is_public(folder) for folder in found) else []


def parts(config, network: Network) -> list[Part]:
    """Returns the public models inside the network of a config."""
    _kind(config)
    if config.network.name != "unet":
        return [Part((), "")]
    return [Part(("velocities", i), name) for i, name in enumerate(("video", "noise")[: network.config.velocities])]


def load_params(
    config, network: Network, folders: Sequence[Path], text_width: int = 0, loras: Sequence[str] = ()
) -> dict:
    """Returns the parameters of the config's network from public folders, without a text encoder's.

    Parameters that the public models do not have are initialized as in a new network.

    Args:
      loras: a LoRA file for each folder, which is merged into its parameters; or none.

    Raises:
      ValueError: if the folders hold models of another kind, or their number is wrong.
    """
    wanted = parts(config, network)
    _check_kinds(config, folders)
    if len(folders) != len(wanted):
        names = ",".join(part.folder.upper() or "FOLDER" for part in wanted)
        raise ValueError(
            f"config.pretrained={','.join(map(str, folders))}: {len(folders)} folders, and {config.objective} "
            f"on the network {config.network.name} takes {names}"
        )
    options = import_options(config, text_width)
    params = {}
    for part, folder, file in zip(wanted, folders, loras or [None] * len(folders), strict=True):
        loaded = pretrained.load(folder, dtype=jnp.float32, lora=file, **options).params
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
    files, models = config.tune.get("lora"), folders(config.pretrained)
    if not files:
        return ()
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
    changes, models = {}, folders(config.pretrained)
    files = lora_files(config)
    _check_kinds(config, models)
    for i, (folder, file) in enumerate(zip(models, files)):
        kind, config_json, _ = pretrained.open_folder(folder)
        prefix = f"velocities/{i}/" if config.network.name == "unet" else ""
        found = lora.read(file, kind, config_json, **import_options(config))
        changes |= {f"{prefix}{path}": change for path, change in found.items()}
    return changes


def _check_kinds(config, folders: Sequence[Path]) -> None:
    """Raises ValueError if a folder does not hold the kind of model that the config's network starts from."""
    kind = _kind(config)
    kinds = {folder: pretrained.open_folder(folder)[0] for folder in folders}
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
