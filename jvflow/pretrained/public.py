"""Public models inside our networks: what training can start from, and what a run gives back (`jvflow.export`).

    dit, ltx, wan    one folder, of the transformer
    unet             a folder for each velocity, as the authors of Bi-flow have them: "VIDEO,NOISE"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from jvflow import pretrained

KINDS = {"dit": "dit", "unet": "unet2d", "ltx": "ltx_transformer", "wan": "wan_transformer"}
"""Of networks, the kind of their public models (`jvflow.pretrained`)."""
SCANNED = ("dit", "ltx", "wan")


class Part(NamedTuple):
    """A public model inside a network: where its parameters are, and its folder below an export's."""

    path: tuple
    folder: str


def folders(pretrained: str) -> list[Path]:
    """The folders that `config.pretrained` names, where all of them hold public models; else none."""
    found = [Path(folder) for folder in pretrained.split(",")]
    return found if all(pretrained.is_public(folder) for folder in found) else []


def parts(config) -> list[Part]:
    """The public models inside the network of a config."""
    if config.network.name not in KINDS:
        raise ValueError(f"there is no public model for the network {config.network.name}: there are those for {', '.join(KINDS)}")
    if config.network.name != "unet":
        return [Part((), "")]
    names = ("video", "noise") if config.objective == "biflow" else ("video",)
    return [Part(("velocities", i), name) for i, name in enumerate(names)]


def read(config, found: Sequence[Path], text_width: int = 0) -> dict:
    """The parameters of the config's network from public folders, without those of a text encoder; what they have no place for starts as it does anew.

    Raises:
      ValueError: for models of another kind, and for another number of them.
    """
    kind, wanted = KINDS.get(config.network.name), parts(config)
    kinds = {folder: pretrained.opened(folder)[0] for folder in found}
    wrong = [f"{folder} holds a {there}" for folder, there in kinds.items() if there != kind]
    if wrong:
        raise ValueError(f"config.pretrained: {'; '.join(wrong)}, and the network is {config.network.name}, which starts from a {kind}")
    if len(found) != len(wanted):
        names = ",".join(part.folder.upper() or "FOLDER" for part in wanted)
        raise ValueError(f"config.pretrained={','.join(map(str, found))}: {len(found)} folders, and {config.objective} on the network {config.network.name} takes {names}")
    loaded = [pretrained.load(folder, dtype=jnp.float32, **options(config, text_width)).params for folder in found]
    params = {}
    for part, here in zip(wanted, loaded):
        at = params
        for key in part.path[:-1]:
            at = at.setdefault(key, {})
        at.update({part.path[-1]: here} if part.path else here)
    return params


def options(config, text_width: int = 0) -> dict:
    """Of `pretrained.load` and `pretrained.export`, for the network of a config."""
    named = dict(scan="scan" in config.network and config.network.scan) if config.network.name in SCANNED else {}
    return named | (dict(text_width=text_width) if config.network.name == "dit" and text_width else {})
