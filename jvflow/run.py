"""A trained run: its config, functions and parameters."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jvflow.assembly import Experiment
from jvflow.data.pipeline import warn_once
from jvflow.metrics.legend import explain


@dataclass(frozen=True)
class Run:
    """A run at one of its steps; `jvflow.load.load` reads it from a workdir.

    Attributes:
      config: the run's `ConfigDict`.
      experiment: the functions of the config.
      params: the parameters of `experiment.network`, whole on every device of this process.
      workdir: the folder of the run.
      step: the training step of the parameters.
      protocol: entries of every record of the run: objective, step, checksum of the parameters, data.
      asked: names of the entries of `config.evaluate` that the command sets; evaluations do not adapt them.
    """

    config: Any
    experiment: Experiment
    params: Any
    workdir: Path
    step: int
    protocol: dict = field(default_factory=dict)
    asked: Collection[str] = ()


def described(settings) -> dict:
    """Returns `config.evaluate` for a protocol, without `fvd`: that distance has a protocol of its own."""
    return {name: value for name, value in settings.to_dict().items() if name != "fvd"}


NO_FIGURES = ("protocol", "extractor", "seeds", "versions", "inputs", "adapted", "legend")
"""Entries of a record that say how its figures came about, and what they mean."""


def scalars(record: dict) -> dict:
    """Returns the numbers of a record, without its curves and what describes them (`NO_FIGURES`)."""
    found = {
        key: scalars(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in NO_FIGURES
    }
    return {key: value for key, value in found.items() if isinstance(value, float | int | dict)}


def paths(record: Mapping, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the path of each value and of each group of values in a record, without what describes them."""
    for key, value in record.items():
        if key not in NO_FIGURES:
            yield (*before, str(key))
            if isinstance(value, Mapping):
                yield from paths(value, (*before, str(key)))


def explained(record: dict, legend: Mapping[str, str]) -> dict:
    """Returns a record with the entry `legend`: the sentences of a paper's legend that explain its values."""
    used = {explain(path, legend) for path in paths(record)}
    return record | dict(legend={entry: sentence for entry, sentence in legend.items() if entry in used})


def lowered(settings, data: Path, asked: Collection[str], **most) -> tuple[Any, dict]:
    """Lowers entries of `config.evaluate` to what a data set allows, with a warning, except those in `asked`.

    Args:
      settings: `config.evaluate`.
      data: the folder of the data set.
      asked: names of entries to keep.
      most: the largest value of each entry.

    Returns:
      The settings, and {name: [value in the config, value here]} of the lowered ones.
    """
    changed = {name: [settings[name], value] for name, value in most.items() if settings[name] > value}
    changed = {name: pair for name, pair in changed.items() if name not in asked}
    if not changed:
        return settings, {}
    settings = settings.copy_and_resolve_references()
    settings.update({name: value for name, (_, value) in changed.items()})
    entries = ", ".join(f"{name}={value} (not {before})" for name, (before, value) in changed.items())
    warn_once("warning: %s is small, so the evaluation uses %s: its figures are rough", data, entries)
    return settings, changed
