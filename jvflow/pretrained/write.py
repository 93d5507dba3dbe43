"""Writes our parameters as public checkpoints: whole models, or only the low-rank matrices of tuned layers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvflow.files import write_text
from jvflow.parallel.sharding import LORA
from jvflow.pretrained.files import CONFIG, save
from jvflow.pretrained.kinds import find_kind
from jvflow.pretrained.layout import Entry, flatten_paths

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The file name in the diffusers package."""


def export(
    kind: str, config: Mapping, params: Any, folder: str | Path, *, naming: str | None = None, **options
) -> None:
    """Writes parameters into `folder` in the layout of the public hubs: config.json and one safetensors file.

    Args:
      kind, config, options: as in `import_checkpoint`.
      params: parameters of its network.
      folder: created if it does not exist.
      naming: naming of the tensors, one of the kind's `namings`; None for the first.
    """
    known = find_kind(kind)
    if naming not in (None, *known.namings):
        raise ValueError(f"unknown naming {naming!r} of {kind}: use one of {', '.join(known.namings)}")
    model = known.model(config, naming or known.namings[0], **options)
    if model.added:
        added = f"{sorted(model.added)[0]} and {len(model.added) - 1} more"
        raise ValueError(f"the public layout of {kind} has no place for {added}: export without {', '.join(options)}")
    have, want = flatten_paths(params), model.shapes
    if {path: np.shape(a) for path, a in have.items()} != {path: a.shape for path, a in want.items()}:
        differ = sorted(
            path for path in have.keys() | want.keys() if np.shape(have.get(path)) != np.shape(want.get(path))
        )
        raise ValueError(
            f"these are not the parameters of a {kind} of this config in the {naming or known.namings[0]} layout, "
            f"{differ[:3]} differ"
        )
    tensors = {}
    for entry in model.layout:
        written = entry.write(np.asarray(have[entry.path]))
        tensors |= {name: np.asarray(tensor, order="C") for name, tensor in zip(entry.names, written, strict=True)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / known.file, tensors)
    write_text(folder / CONFIG, json.dumps(dict(config), indent=2) + "\n")


def export_lora(kind: str, config: Mapping, params: Any, folder: str | Path, **options) -> Path:
    """Writes the low-rank matrices in `params` (`jvflow.training.lora`) into one file, as diffusers and peft read them.

    B includes the scale: readers assume alpha = rank, the default of diffusers. If one of our arrays is made of several
    tensors, all these tensors get the same A. Arguments are as in `export`.

    Returns:
      The safetensors file in `folder`.

    Raises:
      ValueError: if `params` holds no low-rank matrices, or has some for layers that the public model lacks.
    """
    model = find_kind(kind).model(config, find_kind(kind).namings[0], **options)
    have, entries = flatten_paths(params), {entry.path: entry for entry in model.layout}
    layers = [path.rpartition("/")[0] for path in have if path.endswith(f"/{LORA[0]}")]
    if not layers:
        raise ValueError(
            "these parameters hold no low-rank matrices: train with config.tune.rank above 0, or export the whole model"
        )
    lost = [layer for layer in layers if f"{layer}/kernel" not in entries]
    if lost:
        raise ValueError(
            f"the public layout of {kind} has no {lost[0]}, nor {len(lost) - 1} more layers that were tuned: "
            "leave them out of config.tune.layers"
        )
    tensors, prefix = {}, "unet" if kind == "unet2d" else "transformer"
    for layer in layers:
        entry = entries[f"{layer}/kernel"]
        a, b, scale = (np.asarray(have[f"{layer}/{name}"], np.float32) for name in LORA)
        for name, down, up in zip(entry.names, *_low_rank(entry, a, b * scale[..., None, None]), strict=True):
            module = f"{prefix}.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = np.ascontiguousarray(down)
            tensors[f"{module}.lora_B.weight"] = np.ascontiguousarray(up)
    file = Path(folder) / LORA_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    save(file, tensors)
    return file


def _low_rank(entry: Entry, a: np.ndarray, b: np.ndarray) -> tuple[Sequence, Sequence]:
    """Returns A (r, in) and B (out, r) of each tensor of an entry from our (..., in, r) and (..., r, out)."""
    layers, rank, count = (len(a) if a.ndim == 3 else 1), a.shape[-1], len(entry.names)
    kernel = np.broadcast_to(np.float32(0), (*a.shape[:-1], b.shape[-1]))
    if entry.write(kernel)[0].ndim == 4:  # a linear layer over patches is a convolution in the public model
        return entry.write(a), [b.T[:, :, None, None]]
    each = [a] if a.ndim == 2 else a
    return [each[i * layers // count].T for i in range(count)], [up.reshape(-1, rank) for up in entry.write(b)]
