"""Small trained models that the package ships, each as a packed run (`jvflow.training.packed`) with a card.

Every command takes jvflow:NAME in place of a workdir:

    jvflow sample --workdir=jvflow:maze --out=out/maze --frames=256

`card.json` says what the model is, how it was made, what it reaches, and what the demo shows of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jvflow import files

CARD = "card.json"


@dataclass(frozen=True)
class Show:
    """Videos of a model that the demo shows.

    Attributes:
      title: what is different from the other videos of the model.
      sampling: entries of `config.sample` to replace.
      options: further arguments of `jvflow.commands.sample`, such as `length`.
    """

    title: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A model in words and figures.

    Attributes:
      name: its name; jvflow:NAME stands for its folder.
      title, text: a heading, and a few sentences for readers who have not seen the method.
      made: how it was made: data, config, command, seed, steps, minutes and machine.
      metrics: name -> value, of the shipped parameters.
      protocol: name -> setting, under which the metrics were measured.
      licence: of the parameters.
      real: the split, and the seconds, of the real videos that the demo shows too.
      shows: the videos of the demo.
    """

    name: str
    title: str
    text: str
    made: Mapping[str, Any]
    metrics: Mapping[str, Any]
    protocol: Mapping[str, Any]
    licence: str
    real: tuple[str, float]
    shows: tuple[Show, ...]


def names() -> list[str]:
    """Returns the names of the models that the package ships."""
    return files.shipped_models()


def path(name: str) -> Path:
    """Returns the folder of a model; raises ValueError, which lists the names, if there is no such model."""
    return Path(files.run_path(f"{files.SHIPPED}{name}", "model"))


def card(name: str) -> Card:
    """Returns the card of a model; raises ValueError if there is no such model, or if its card is damaged."""
    keys = dict(title=str, text=str, made=dict, metrics=dict, protocol=dict, licence=str, real=list, shows=list)
    found = files.read_json(path(name) / CARD, "install jvflow again", keys=keys)
    listed = dict(real=tuple(found["real"]), shows=tuple(Show(**show) for show in found["shows"]))
    return Card(name=name, **{key: found[key] for key in keys} | listed)
