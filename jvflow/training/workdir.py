"""The folder of a run: its paths, its config and its metrics."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jvflow.data import dataset
from jvflow.experiment import method_of
from jvflow.files import write_text


@dataclass(frozen=True)
class Workdir:
    """Paths inside the folder of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def has_checkpoint(self) -> bool:
        """True if a checkpoint was completed here, even if it was damaged later."""
        return any(path.name.isdigit() for path in self.checkpoints.glob("*"))

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

        Raises ValueError if the folder holds a run of another config.
        """
        folder = cls(Path(path))
        file = folder.path / "config.json"
        if file.exists():
            differing = _differences(json.loads(file.read_text()), json.loads(config.to_json()))
            if differing:
                lines = "\n".join(f"  config.{k}: begun with {a!r}, now {b!r}" for k, a, b in differing)
                raise ValueError(
                    f"{folder.path} holds a run of another config; on resume only config.run.* may differ:\n{lines}\n"
                    "use another --workdir, or the config of that run"
                )
        elif folder.checkpoints.exists():
            raise ValueError(f"{folder.path} holds checkpoints but no config.json: use another --workdir")
        return folder

    def begin(self, config) -> None:
        """Creates the folder and writes the config, after which `open` refuses other configs."""
        self.samples.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.json", config.to_json(indent=1) + "\n")

    def note_frozen(self, source: str, checksum: str) -> None:
        """Writes the source and the checksum of the frozen parameters, which checkpoints do not hold."""
        write_text(self.path / "frozen.json", json.dumps(dict(source=source, checksum=checksum)) + "\n")

    def note_data(self, key: str | None) -> None:
        """Writes the key of the data set that the run is trained on, see `jvflow.data.dataset_key`.

        Also notes that dropped captions are the empty caption, see `dropped_to_zeros`.
        """
        write_text(self.path / "data.json", json.dumps(dict(key=key, empty_caption=True)) + "\n")

    def dropped_to_zeros(self, config, encoder) -> bool:
        """Returns whether an earlier version dropped captions of a pretrained encoder to zeros in this run."""
        file = self.path / "data.json"
        learned = encoder is not None and encoder.init is None and config.get("caption_dropout")
        return bool(learned) and file.is_file() and "empty_caption" not in json.loads(file.read_text())

    def check_data(self, key: str | None) -> None:
        """Raises ValueError if the run has a checkpoint and was trained on a data set with another key."""
        file = self.path / "data.json"
        noted = json.loads(file.read_text())["key"] if self.has_checkpoint and file.is_file() else None
        if noted not in (None, key):
            raise ValueError(
                f"{self.path} was trained on data with key {noted}, but config.data now has key {key}: files "
                "or captions have changed; restore them, or use another --workdir"
            )

    def check_frozen(self, source: str, checksum: str) -> None:
        """Raises ValueError if the frozen parameters from `source` have another checksum than `note_frozen` wrote."""
        noted = json.loads((self.path / "frozen.json").read_text())["checksum"]
        if noted != checksum:
            raise ValueError(
                f"the frozen parameters of {self.path} come from {source} and had checksum {noted} when the run began; "
                f"now they have {checksum}: restore that model, because checkpoints hold only the trained parameters"
            )

    @classmethod
    def read(cls, path) -> tuple["Workdir", ConfigDict]:
        """Returns the folder of a run and its config; raises ValueError if there is none."""
        folder = cls(Path(path))
        file = folder.path / "config.json"
        if not file.exists():
            raise ValueError(f"{folder.path} is not a workdir, it has no config.json: train first, with this --workdir")
        return folder, ConfigDict(json.loads(file.read_text()))

    def losses(self) -> list[tuple[int, float]]:
        """Returns (step, loss) of every step so far."""
        lines = (json.loads(line) for line in self.metrics.read_text().splitlines())
        return [(line["step"], line["loss"]) for line in lines]


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
      ValueError: if the section has no such name, or the value has another type.
    """
    settings = config[section]
    for name, value in entries.items():
        if name not in settings:
            raise ValueError(f"config.{section} has no {name!r}: use one of {', '.join(sorted(settings))}")
        try:
            settings[name] = value
        except TypeError as error:
            raise ValueError(
                f"config.{section}.{name} is {settings[name]!r}, it cannot become {value!r}: {error}"
            ) from error


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _differences(before: dict, now: dict) -> list[tuple]:
    before, now = _flat(before), _flat(now)
    keys = [k for k in sorted(before | now) if not k.startswith("run.")]
    return [(k, before.get(k), now.get(k)) for k in keys if before.get(k) != now.get(k)]


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
                whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
                write_text(file, "".join(line for line in whole if step and json.loads(line)["step"] <= step))
        self._writer = None
        if write and tensorboard:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def add(self, step: int, values: dict) -> None:
        """Keeps the values of a step until the next flush."""
        self._pending.append((step, values))

    def flush(self, behind: int = 0) -> float:
        """Writes the values that `add` kept, and returns the last loss.

        Keeps the `behind` newest steps for the next flush, because the device still computes them.

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
        for name, value in (values if lines and not bad else {}).items():
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
        for name, value in _flat(record).items():
            if isinstance(value, float | int):
                self.scalar(f"validation/{name}", step, value)

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
