"""Reads alpha of LoRA files: from peft's adapter_config.json, or from the metadata that diffusers writes."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jvflow.pretrained.readers import read_json

SUFFIXES = (".safetensors", ".sft")
CONFIG = "adapter_config.json"
PEFT_FILE = "adapter_model.safetensors"
METADATA = "lora_adapter_metadata"
"""The entry of a file's metadata in which diffusers writes peft's settings."""
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
OTHER = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "use_qalora",
    "layer_replication",
    "modules_to_save",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings of peft that change the computation: a file with one of them is no plain LoRA."""
PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Initial values of peft that leave the model as it is; others, such as pissa, also change the model's own weights."""


class Settings(NamedTuple):
    """The settings of a file; None and empty where it has none.

    Attributes:
      rank, alpha: of all modules.
      ranks, alphas: of the modules that match a pattern.
      root: whether s is alpha / sqrt(r), not alpha / r.
    """

    rank: int | None = None
    alpha: float | None = None
    ranks: Mapping[str, Any] = {}
    alphas: Mapping[str, Any] = {}
    root: bool = False

    def scale(self, file: Path, module: str, rank: int, alpha: float | None) -> float:
        """Returns s for a module with matrices of this rank; `alpha` is the file's own tensor, or None."""
        wanted = _matching(self.ranks, module, self.rank)
        if wanted not in (None, rank):
            raise ValueError(
                f"{file}: the matrices of {module} have rank {rank}, and its settings say {wanted}: "
                "the settings belong to another file"
            )
        alpha = _matching(self.alphas, module, self.alpha) if alpha is None else alpha
        if alpha is None:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if self.root else rank)


def _matching(patterns: Mapping[str, Any], module: str, default):
    """Returns the value of the first pattern that the end of a module's name matches, as peft does."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def find_file(path: str | Path) -> Path:
    """Returns the safetensors file of a LoRA, given as the file or as its folder."""
    path = Path(path)
    if path.is_file() and path.suffix in SUFFIXES:
        return path
    if path.is_file():
        raise ValueError(f"{path} is no safetensors file: convert the LoRA file to safetensors")
    if not path.is_dir():
        raise ValueError(f"there is no LoRA file or folder {path}: check the path")
    for name in (PEFT_FILE, DIFFUSERS_FILE):
        if (path / name).is_file():
            return path / name
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    have = ", ".join(file.name for file in files or sorted(path.iterdir())) or "nothing"
    raise ValueError(f"{path} holds {have}: give one safetensors file with LoRA matrices")


def read_settings(file: Path, metadata: Mapping[str, str]) -> Settings:
    """Returns the settings of a LoRA file with this metadata; raises ValueError if it is no plain LoRA."""
    config = file.with_name(CONFIG)
    if file.name == PEFT_FILE and config.is_file():
        return _settings(config, read_json(config))
    if METADATA not in metadata:
        return Settings()
    where = f"{METADATA} of {file}"
    try:
        found = json.loads(metadata[METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds {type(found).__name__}, not the settings of a LoRA")
    return _settings(where, found)


def _settings(where, found: dict) -> Settings:
    if not {"r", "lora_alpha"} & found.keys():  # diffusers puts the name of the model's part before each key
        found = {key.partition(".")[2]: value for key, value in found.items()}
    kind, start = found.get("peft_type") or "LORA", found.get("init_lora_weights")
    other = [f"{key}={found[key]}" for key in OTHER if found.get(key)]
    other += [] if kind == "LORA" else [f"peft_type={kind}"]
    other += [f"init_lora_weights={start}"] if isinstance(start, str) and start not in PLAIN_STARTS else []
    if other:
        raise ValueError(
            f"{where} has {', '.join(other)}: jvflow reads plain LoRA alone; merge it with peft, or convert it there"
        )
    ranks, alphas = (found.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    if not (isinstance(ranks, dict) and isinstance(alphas, dict)):
        raise ValueError(f"{where}: rank_pattern and alpha_pattern must map patterns to numbers")
    numbers = [found.get("r"), found.get("lora_alpha"), *ranks.values(), *alphas.values()]
    if not all(n is None or isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError(f"{where}: ranks and alphas must be finite numbers, got {numbers}")
    try:
        for key in (*ranks, *alphas):
            re.compile(key)
    except re.error as error:
        raise ValueError(f"{where}: a pattern is no regular expression: {error}") from error
    return Settings(found.get("r"), found.get("lora_alpha"), ranks, alphas, bool(found.get("use_rslora")))
