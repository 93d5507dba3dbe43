"""A trained run: its config, functions and parameters."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jvflow.assembly import Experiment


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
    """

    config: Any
    experiment: Experiment
    params: Any
    workdir: Path
    step: int
    protocol: dict = field(default_factory=dict)


def scalars(record: dict) -> dict:
    """Returns the numbers of a record, without its curves and its protocol."""
    found = {
        key: scalars(value) if isinstance(value, dict) else value for key, value in record.items() if key != "protocol"
    }
    return {key: value for key, value in found.items() if isinstance(value, float | int | dict)}
