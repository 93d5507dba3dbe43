"""The folder of a run: its paths, its config and its metrics."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jvflow.data import dataset
from jvflow.experiment import method_of
from jvflow.files import PACKED, read_json, read_json_lines, run_path, write_text
from jvflow.training import format_version, packed, resume
from jvflow.training.config_check import check_overrides

LOG = logging.getLogger(__name__)
SECTIONS = ("codec", "data", "network", "optimizer", "train", "run", "sample", "evaluate", "tune")
CONFIG_KEYS = dict(method=str, objective=str) | dict.fromkeys(SECTIONS, dict)
"""Entries that every config.json of a run has."""
RESTORE = "restore it from a copy, or use another --workdir"
NO_CONFIG = (
    "restore it from a copy, or train again in another --workdir (runs of an earlier version have other entries)"
)


@dataclass(frozen=True)
class Workdir:
    """Paths inside the folder of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def has_checkpoint(self) -> bool:
        """True if a checkpoint was completed here, even if it was damaged later."""
        return bool(self.saved_steps)

    @property
    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints, in ascending order."""
        return sorted(int(path.name) for path in self.checkpoints.glob("*") if path.name.isdigit())

    @property
    def packed(self) -> bool:
        """True if the folder is a packed run: one file of parameters, see `jvflow.training.packed`."""
        return (self.path / PACKED).is_file() and not self.has_checkpoint

    @property
    def noted(self) -> dict:
        """The content of data.json, see `note_data`; {} if the run has no checkpoint."""
        file = self.path / "data.json"
        if not (self.has_checkpoint and file.is_file()):
            return {}
        return read_json(
            file, "restore it from a copy, or remove it: the run then continues without a check of its data"
        )

    @property
    def data_key(self) -> str | None:
        """The key of the data set that the run was trained on; None if the run has no checkpoint."""
        return packed.header(self.path)["key"] if self.packed else self.noted.get("key")

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        return self.path / "validation.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @classmethod
    def open(cls, path, config) -> "Workdir":
        """Returns the folder of a run of `config`; writes nothing.

        Raises ValueError if the folder holds a run of another config, see `jvflow.training.resume`.
        """
        folder = cls(Path(path))
        if folder.packed:
            raise ValueError(
                f"{folder.path} holds a packed run, in which nothing trains: use another --workdir, and "
                f"--config.pretrained={folder.path} to start from its parameters"
            )
        if folder.config_file.exists():
            folder._check_changes(resume.changes(folder.read_config(), json.loads(config.to_json())), config)
        elif folder.checkpoints.exists():
            raise ValueError(f"{folder.path} holds checkpoints but no config.json: use another --workdir")
        return folder

    def _check_changes(self, changed: dict, config) -> None:
        models = self.noted.get("models", {})
        verified = [f"{name}.checkpoint" for name in models]
        verified += ["data.path", "data.captions"] * bool(self.data_key or not self.has_checkpoint)
        verified += ["pretrained", "tune.lora"] * bool(config.tune.rank or config.tune.layers)
        if refused := resume.refused(changed, tuple(verified)):
            raise ValueError(
                f"{self.path} holds a run of another config; on resume these entries must stay:\n"
                f"{resume.lines({key: changed[key] for key in refused})}\n"
                f"use the config of that run, or another --workdir: --config.pretrained={self.path} starts there from "
                "its parameters, and --config.pretrained_state=True also continues its optimizer and its steps"
            )
        if "data.path" in changed and dataset.is_gone(config.data.path):
            raise ValueError(f"config.data.path={config.data.path} is not there: give a folder of the same videos")
        last = max(self.saved_steps, default=0)
        if config.train.steps < last:
            raise ValueError(
                f"config.train.steps is {config.train.steps}, and {self.path} is at step {last}: use {last} or more; "
                "`jvflow sample --step` and `jvflow evaluate --step` load earlier checkpoints"
            )

    def begin(self, config, step: int = 0) -> dict[str, list]:
        """Creates the folder and writes the config, after which `open` refuses other configs.

        If a run continues at `step` with a changed config, the one before goes to `resume.HISTORY`. Returns the
        changes, {key: [value before, value now]}.
        """
        self.samples.mkdir(parents=True, exist_ok=True)
        now = json.loads(config.to_json())
        before = self.read_config() if self.config_file.exists() else now
        resume.record(self.path, step, before, now)
        write_text(self.config_file, json.dumps({format_version.ENTRY: format_version.VERSION} | now, indent=1) + "\n")
        return resume.changes(before, now)

    def record_fork(self, config, step: int) -> None:
        """Writes `resume.HISTORY` of a run that continues the run `config.pretrained` at `step`."""
        source = Workdir(Path(config.pretrained))
        resume.record_fork(self.path, step, source.path, source.read_config(), json.loads(config.to_json()))

    def note_frozen(self, source: str, checksum: str) -> None:
        """Writes the source and the checksum of the frozen parameters, which checkpoints do not hold."""
        write_text(self.path / "frozen.json", json.dumps(dict(source=source, checksum=checksum)) + "\n")

    def dropped_to_zeros(self, config, encoder) -> bool:
        """Returns whether an earlier version dropped captions of a pretrained encoder to zeros in this run."""
        learned = encoder is not None and encoder.init is None and config.get("caption_dropout")
        return bool(learned and self.noted) and not self.noted.get("empty_caption")

    def note_data(self, key: str | None, models: Mapping[str, dict]) -> None:
        """Writes data.json, which identifies the data and the models that encode them.

        Also notes that dropped captions are the empty caption, see `dropped_to_zeros`.

        Args:
          key: the key of the data set, see `jvflow.data.dataset_key`.
          models: {"codec" or "text": its identity, see `jvflow.data.latents.model_fingerprint`}.
        """
        write_text(self.path / "data.json", json.dumps(dict(key=key, models=models, empty_caption=True)) + "\n")

    def check_models(self, models: Mapping[str, dict]) -> None:
        """Raises ValueError if the run has a checkpoint, and codec or text encoder were others; see `note_data`."""
        noted = self.noted.get("models", {})
        for name, model in json.loads(json.dumps(models)).items():
            if noted.get(name, model) != model:
                raise ValueError(
                    f"{self.path} was trained with the {name} model {noted[name]}, and config.{name}.checkpoint now "
                    f"holds {model}: give the files of the former model, or use another --workdir"
                )

    def check_frozen(self, source: str, checksum: str) -> None:
        """Raises ValueError if the frozen parameters from `source` have another checksum than `note_frozen` wrote."""
        noted = read_json(self.path / "frozen.json", RESTORE, keys=dict(checksum=str))["checksum"]
        if noted != checksum:
            raise ValueError(
                f"the frozen parameters of {self.path} come from {source} and had checksum {noted} when the run began; "
                f"now they have {checksum}: restore that model, because checkpoints hold only the trained parameters"
            )

    @classmethod
    def read(cls, path) -> tuple["Workdir", ConfigDict]:
        """Returns the folder of a run and its config; raises ValueError if there is none."""
        folder = cls(Path(run_path(path, "--workdir")))
        if not folder.config_file.exists():
            raise ValueError(
                f"{folder.path} is not a workdir, it has no config.json: make it with "
                f"`jvflow train --config=... --workdir={folder.path}`"
            )
        config = folder.read_config()
        if "per_sample" in config["sample"]:  # an adaptive solver; runs of an earlier version lack its controller
            config["sample"].setdefault("controller", "diffrax")
        config["evaluate"].setdefault("fvd", "")
        return folder, ConfigDict(config)

    def read_config(self) -> dict:
        """Returns the content of config.json without its format version.

        Raises ValueError if it is damaged or incomplete, or if a later jvflow wrote it.
        """
        format_version.check_version(read_json(self.config_file, NO_CONFIG), self.config_file)  # may have other keys
        config = read_json(self.config_file, NO_CONFIG, keys=CONFIG_KEYS)
        config.pop(format_version.ENTRY, None)
        return config

    def losses(self) -> list[tuple[int, float]]:
        """Returns (step, loss) of every step so far; leaves out damaged lines with a warning."""
        return [(entry["step"], entry["loss"]) for _, entry in step_lines(self.metrics) if "loss" in entry]


def recorded(config) -> ConfigDict:
    """Returns the config without the keys that its objective, its data and its tuning do not read: a run's record."""
    config = config.copy_and_resolve_references()
    keys = [*method_of(config).unread(config), *(f"data.{key}" for key in dataset.unread(config.data))]
    keys += [
        f"network.{key}.{name}"
        for key, size in config.network.items()
        if isinstance(size, ConfigDict)
        for name in size
        if name != config.objective
    ]
    tune, codec = config.tune, config.codec
    keys += [] if tune.rank else ["tune.alpha"]
    keys += [] if tune.get("lora") else ["tune.lora"]
    keys += [] if (tune.rank or tune.layers) and tune.get("dtype") != "float32" else ["tune.dtype"]
    keys += ["codec.dtype"] if codec.get("dtype") == "float32" else []
    keys += [] if config.pretrained_state else ["pretrained_state"]
    with config.unlocked():
        for key in keys:
            section, _, name = key.rpartition(".")
            part = config
            for step in section.split(".") if section else ():
                part = part.get(step, ConfigDict())
            if name in part:
                del part[name]
    return config


def override(config: ConfigDict, section: str, entries: dict) -> None:
    """Replaces entries of `config[section]`, in place.

    Raises:
      ValueError: if the section has no such name, or the value is not allowed or has another type.
    """
    settings = config[section]
    for name in entries:
        if name not in settings:
            raise ValueError(f"config.{section} has no {name!r}: use one of {', '.join(sorted(settings))}")
    if entries:
        check_overrides(config, section, entries)
    for name, value in entries.items():
        try:
            settings[name] = value
        except TypeError as error:
            raise ValueError(
                f"config.{section}.{name} is {settings[name]!r}, it cannot become {value!r}: {error}"
            ) from error


def step_lines(file: Path) -> list[tuple[str, dict]]:
    """Returns (line, content) of each line of `metrics.jsonl` or `validation.jsonl`.

    Leaves out damaged lines with a warning.
    """
    found = read_json_lines(file)
    good = [(line, entry) for line, entry in found if isinstance(entry, dict) and isinstance(entry.get("step"), int)]
    if damaged := len(found) - len(good):
        LOG.warning("warning: %s has %d damaged lines, which are left out", file, damaged)
    return good


class Metrics:
    """Writer of `metrics.jsonl` (one line for each step), `validation.jsonl` and TensorBoard (last step of a flush).

    Values stay on the device until `flush`, so that the host does not wait for a step. A resumed run removes the
    lines after the restored step, because it repeats these steps.
    """

    def __init__(self, folder: Workdir, step: int, *, tensorboard: bool, write: bool = True):
        """Opens the files if `write`; otherwise only checks that losses are finite."""
        self._write = write
        self._file, self._validation, self._pending, self.flushed, self._loss = (
            folder.metrics,
            folder.validation,
            [],
            0,
            float("nan"),
        )
        for file in (self._file, self._validation):
            if write and file.exists():
                write_text(
                    file, "".join(f"{line}\n" for line, entry in step_lines(file) if entry["step"] <= step and step)
                )
        self._writer = None
        if write and tensorboard:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder.tensorboard.absolute()), purge_step=step + 1)

    def add(self, step: int, values: dict) -> None:
        """Keeps the values of a step until the next flush."""
        self._pending.append((step, values))

    def flush(self, behind: int = 0, *, log: bool = True) -> float:
        """Writes the values that `add` kept, and returns the last loss.

        Keeps the `behind` newest steps for the next flush, because the device still computes them. With `log`, writes
        the last step to TensorBoard too.

        Raises:
          FloatingPointError: if a loss is not finite. Writes the steps before it.
        """
        lines, bad = [], None
        ready = max(len(self._pending) - behind, 0)
        for step, values in self._pending[:ready]:
            values = {name: float(np.asarray(value)) for name, value in values.items()}
            if not np.isfinite(values["loss"]):
                bad = (step, values["loss"], values.get("gradient_norm"))
                break
            lines.append(json.dumps({"step": step, **values}) + "\n")
            self._loss = values["loss"]
        self._append(self._file, lines)
        for name, value in (values if lines and log and not bad else {}).items():
            self.scalar(name, step, value)
        self.flushed, self._pending = ready, self._pending[ready:]
        if bad:
            raise FloatingPointError(
                f"the loss is {bad[1]} at step {bad[0]} (gradient norm {bad[2]}); the last checkpoint is from an "
                "earlier step: try a lower config.optimizer.learning_rate or config.optimizer.max_grad_norm"
            )
        return self._loss

    def validated(self, step: int, record: dict) -> None:
        """Writes a line of `validation.jsonl`, and its numbers to TensorBoard."""
        self._append(self._validation, [json.dumps({"step": step, **record}) + "\n"])
        for name, value in resume.flat(record).items():
            if isinstance(value, float | int):
                self.scalar(f"validation/{name}", step, float(value))

    def _append(self, path: Path, lines: list[str]) -> None:
        if self._write:
            with open(path, "a") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def scalar(self, name: str, step: int, value: float) -> None:
        """Writes a number to TensorBoard."""
        if self._writer:
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Writes an image, uint8 (h, w, 3), to TensorBoard."""
        if self._writer:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._writer:
            self._writer.close()
