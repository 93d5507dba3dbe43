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
from jvflow.pretrained.sources import prefixes

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
    if config.network.name not in KINDS:
        raise ValueError(
            f"there is no public model for the network {config.network.name}: use one of {', '.join(KINDS)}"
        )
    if config.network.name != "unet":
        return [Part((), "")]
    return [Part(("velocities", i), name) for i, name in enumerate(("video", "noise")[: network.config.velocities])]


def split_file(sources: Sequence[str | Path], kind: str) -> list[str | Path]:
    """Returns one source for each model of a kind, if a single file holds several; otherwise the same sources."""
    found = prefixes(sources[0], kind) if len(sources) == 1 else []
    return [f"{sources[0]}/{prefix[:-1]}" for prefix in found] if len(found) > 1 else list(sources)


def load_params(config, network: Network, folders: Sequence[str | Path], text_width: int = 0) -> dict:
    """Returns the parameters of the config's network from public models, without a text encoder's.

    Parameters that the public models do not have are initialized as in a new network.

    Raises:
      ValueError: if the folders hold models of another kind, or their number is wrong.
    """
    kind, wanted = KINDS.get(config.network.name), parts(config, network)
    folders = split_file(folders, kind) if len(wanted) > 1 else folders
    kinds = {folder: pretrained.open_folder(folder, kind)[0] for folder in folders}
    wrong = [f"{folder} holds a {found}" for folder, found in kinds.items() if found != kind]
    if wrong:
        raise ValueError(
            f"config.pretrained: {'; '.join(wrong)}, and the network is {config.network.name}, "
            f"which starts from a {kind}"
        )
    if len(folders) != len(wanted):
        names = ",".join(part.folder.upper() or "FOLDER" for part in wanted)
        raise ValueError(
            f"config.pretrained={','.join(map(str, folders))}: {len(folders)} folders, and {config.objective} "
            f"on the network {config.network.name} takes {names}"
        )
    options = import_options(config, text_width)
    params = {}
    for part, folder in zip(wanted, folders):
        loaded = pretrained.load(folder, kind=kind, dtype=jnp.float32, **options).params
        at = params
        for key in part.path[:-1]:
            at = at.setdefault(key, {})
        at.update({part.path[-1]: loaded} if part.path else loaded)
    return params


def import_options(config, text_width: int = 0) -> dict:
    """Returns the options of `pretrained.load` and `pretrained.export` for the network of a config."""
    options = dict(scan="scan" in config.network and config.network.scan) if config.network.name in SCANNED else {}
    return options | (dict(text_width=text_width) if config.network.name == "dit" and text_width else {})
