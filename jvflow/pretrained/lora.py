"""LoRA files of other packages: what they add to the tensors of a public model.

    W' = W + s B A        A (r, in), B (out, r), s = alpha / r, or alpha / sqrt(r) with use_rslora          (1)

    peft                a folder: adapter_config.json, adapter_model.safetensors with names base_model.model.NAME
    diffusers           transformer.NAME or unet.NAME; alpha in the metadata of the file, as JSON
    ComfyUI             diffusion_model.NAME, with diffusers' names or the names of the model's authors
    kohya, musubi       lora_unet_NAME, where "_" replaces each "."; a tensor NAME.alpha
    LTX-Video-Trainer   transformer.NAME or diffusion_model.NAME

A and B are lora_A and lora_B, or lora_down and lora_up. Where nothing says alpha, it is r. A "_" cannot be turned back
into a ".", so `module_names` lists all names that the layers of the model can have. A file that holds anything else, or
a layer that the model does not have, is refused as a whole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jvflow.pretrained.files import Files
from jvflow.pretrained.kinds import find_kind
from jvflow.pretrained.layout import Entry
from jvflow.pretrained.lora_settings import Settings, find_file, read_settings

PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "pipe.dit.",
    "lora_unet_",
    "lora_transformer_",
)
AUTHORS_NAMES = {
    "wan_transformer": (
        (r"attn1\.to_([qkv])$", r"self_attn.\1"),
        (r"attn1\.to_out\.0$", "self_attn.o"),
        (r"attn2\.to_([qkv])$", r"cross_attn.\1"),
        (r"attn2\.to_out\.0$", "cross_attn.o"),
        (r"ffn\.net\.0\.proj$", "ffn.0"),
        (r"ffn\.net\.2$", "ffn.2"),
        (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
        (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
        (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
        (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
        (r"^condition_embedder\.time_proj$", "time_projection.1"),
        (r"^proj_out$", "head.head"),
    ),
    "ltx_transformer": ((r"^proj_in$", "patchify_proj"), (r"^time_embed\.", "adaln_single.")),
}
"""Layers with other names in the code of a model's authors: a pattern of diffusers' name, and what replaces it."""
REFUSED = {
    "DoRA": r"\.dora_scale$|lora_magnitude_vector",
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "a third matrix (lora_mid)": r"\.lora_mid\.",
    "OFT": r"\.(oft|boft)_",
    "whole differences (.diff)": r"\.diff(_b)?$",
    "LoRA of biases": r"\.lora_(A|B|up|down)(\.[^.]+)?\.bias$",
    "LoRA of embeddings": r"lora_embedding_",
    "layers for images of Wan's image-to-video model": r"(k_img|v_img|add_[kv]_proj|img_emb|image_embedder)",
    "layers of a text encoder": r"^(lora_te\d?_|text_encoder|text_encoders\.|te\d?\.|cond_stage_model\.)",
}
"""What is not read, each with a pattern of the names of its tensors."""
MATRIX = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up)(?:\.(?P<adapter>[^.]+))?\.weight")
PARTS = dict(lora_A="A", lora_down="A", lora_B="B", lora_up="B")
MOST = 8
"""How many names a message lists."""


class Matrices(NamedTuple):
    """The names of A and B of one tensor in a file, their rank, and s of (1)."""

    a: str
    b: str
    rank: int
    scale: float


@dataclass(frozen=True)
class Change:
    """The matrices of a file that change one of our arrays.

    Attributes:
      entry: the array, and the tensors of the public model that it is made of.
      shape: the shape of the array.
      shapes: the shape of each of these tensors.
      matrices: for each tensor that the file changes, its matrices.
      file: the file.
    """

    entry: Entry
    shape: tuple[int, ...]
    shapes: Mapping[str, tuple]
    matrices: Mapping[str, Matrices]
    file: Files

    def added_to(self, array: np.ndarray) -> np.ndarray:
        """Returns the array plus s B A (1), computed in float32."""
        zeros = lambda name: np.broadcast_to(np.float32(0), self.shapes[name])
        products = [self._product(name) if name in self.matrices else zeros(name) for name in self.entry.names]
        return array.astype(np.float32) + np.asarray(self.entry.read(*products))

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns A (..., in, r) and B (..., r, out) of a linear layer, float32, with s in B; x A B is what (1) adds.

        Tensors of one layer with equal A share its columns; others have columns of their own. So r is the sum of their
        ranks, and the largest sum of all layers. Columns that a layer does not need are 0 in A and in B.

        Raises:
          ValueError: if the array is not the kernel of a linear layer.
        """
        if self.entry.path.rpartition("/")[2] != "kernel" or len(self.shape) not in (2, 3):
            raise ValueError(
                f"{self.entry.path} is not the kernel of a linear layer, so its LoRA matrices cannot be trained: merge "
                "them with --config.tune.rank=0"
            )
        stacked = len(self.shape) == 3
        count, each = len(self.entry.names), len(self.entry.names) // (self.shape[0] if stacked else 1)
        columns = [self._columns(self.entry.names[i : i + each]) for i in range(0, count, each)]
        rank = max(sum(len(down) for down, _ in layer) for layer in columns)
        inputs = self.shapes[self.entry.names[0]][1:]
        downs = np.zeros((len(columns), rank, *inputs), np.float32)
        ups = {name: np.zeros((self.shapes[name][0], rank), np.float32) for name in self.entry.names}
        for layer, found in enumerate(columns):
            at = 0
            for down, names in found:
                downs[layer, at : at + len(down)] = down
                for name in names:
                    ups[name][:, at : at + len(down)] = self._read(name)[1]
                at += len(down)
        if len(inputs) > 1:  # a linear layer over patches is a convolution in the public model
            return np.asarray(self.entry.read(*downs)), next(iter(ups.values())).T
        a, b = downs.swapaxes(1, 2), np.asarray(self.entry.read(*ups.values()))
        return (a if stacked else a[0]), b

    def _columns(self, names) -> list[tuple[np.ndarray, list[str]]]:
        """Returns each different A of some tensors, with the names of the tensors that have it."""
        found = []
        for name in names:
            if name in self.matrices:
                down = self._read(name)[0]
                same = [known for known in found if np.array_equal(known[0], down)]
                found += [] if same else [(down, [])]
                (same or found)[-1][1].append(name)
        return found

    def _product(self, name: str) -> np.ndarray:
        down, up = self._read(name)
        return (up @ down.reshape(len(down), -1)).reshape(self.shapes[name])

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns A (r, in) or (r, in, h, w) and s B (out, r) of a tensor; raises ValueError if they are not finite."""
        found = self.matrices[name]
        down, up = (self.file[part].astype(np.float32) for part in (found.a, found.b))
        if not (np.isfinite(down).all() and np.isfinite(up).all()):
            raise ValueError(f"{found.a} or {found.b} holds values that are not finite: the LoRA file is damaged")
        inputs = self.shapes[name][1:]
        return down.reshape(len(down), *inputs), found.scale * up.reshape(up.shape[:2])


def read(path: str | Path, kind: str, config: Mapping, **options) -> dict[str, Change]:
    """Returns what a LoRA file adds to a public model, by the paths of our arrays; reads no matrix yet.

    Args:
      path: a safetensors file, or a folder with one, such as peft's with adapter_config.json.
      kind, config, options: as in `jvflow.pretrained.import_checkpoint`.

    Raises:
      ValueError: if the file holds anything but LoRA matrices of the model's layers; the message names what.
    """
    known = find_kind(kind)
    model = known.model(config, known.namings[0], **options)
    file = find_file(path)
    tensors = Files([file])
    settings = read_settings(file, tensors.metadata)
    shapes = {}
    for entry in model.layout:
        written = entry.write(np.broadcast_to(False, model.shapes[entry.path].shape))  # takes the memory of one byte
        shapes |= {name: tuple(tensor.shape) for name, tensor in zip(entry.names, written, strict=True)}
    found = _find_matrices(file, tensors, settings, kind, shapes)
    changes = {}
    for entry in model.layout:
        inside = {name: shapes[name] for name in entry.names}
        matrices = {name: found[name] for name in inside if name in found}
        if matrices:
            changes[entry.path] = Change(entry, model.shapes[entry.path].shape, inside, matrices, tensors)
    return changes


def module_names(kind: str, modules) -> dict[str, str]:
    """Returns {a name that a LoRA file can have, without prefix: the module}, for modules by diffusers' names."""
    names = {}
    for module in modules:
        authors = module
        for pattern, replacement in AUTHORS_NAMES.get(kind, ()):
            authors = re.sub(pattern, replacement, authors)
        for name in (module, authors):
            names |= {name: module, name.replace(".", "_"): module}
    return names


def _find_matrices(file: Path, tensors: Files, settings: Settings, kind: str, shapes: Mapping) -> dict[str, Matrices]:
    """Returns the matrices of each tensor of the model that the file changes."""
    for what, pattern in REFUSED.items():
        names = [name for name in tensors if re.search(pattern, name)]
        if names:
            raise ValueError(
                f"{file} holds {what}: {_listed(names)}: jvflow reads plain LoRA matrices of the {kind} alone; merge "
                "the file into the model with the package that made it"
            )
    weights = {name.removesuffix(".weight"): name for name, s in shapes.items() if name.endswith(".weight")}
    known = module_names(kind, [module for module, name in weights.items() if len(shapes[name]) > 1])
    parts, unknown, twice = {}, [], []
    for name in tensors:
        matched = MATRIX.fullmatch(name)
        spelled, part = (matched["module"], PARTS[matched["part"]]) if matched else (name[: -len(".alpha")], "alpha")
        module = _find_module(spelled, known) if matched or name.endswith(".alpha") else None
        if module is None:
            unknown.append(name)
        elif part in parts.setdefault(module, {}):
            twice.append(f"{name} and {parts[module][part]}")
        else:
            parts[module][part] = name
    if unknown:
        raise ValueError(
            f"{file} is no LoRA of this {kind}: {len(unknown)} of its {len(tensors)} tensors belong to no layer of the "
            f"model: {_listed(unknown)}: give the model that it was made for"
        )
    if twice:
        raise ValueError(f"{file} has matrices for one layer under two names: {_listed(twice)}: keep one of them")
    if not parts:
        raise ValueError(f"{file} holds no tensors: give a LoRA file")
    made = lambda module: _matrices(file, tensors, settings, module, shapes, parts[module])
    return {weights[module]: made(module) for module in parts}


def _find_module(name: str, known: Mapping[str, str]) -> str | None:
    """Returns the module that a name means, without its prefixes; None if there is none."""
    while name not in known:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return known[name]


def _matrices(file: Path, tensors: Files, settings: Settings, module: str, shapes, found: Mapping) -> Matrices:
    """Returns the matrices of a module after checking their shapes."""
    missing = [part for part in "AB" if part not in found]
    if missing:
        raise ValueError(f"{file} has no matrix {missing[0]} for {module}, only {', '.join(found.values())}")
    a, b = tensors.shapes[found["A"]], tensors.shapes[found["B"]]
    out, *inputs = shapes[f"{module}.weight"]
    flat = lambda shape: tuple(n for n in shape if n != 1)
    matrices = len(a) > 1 and len(b) > 1 and not flat(b[2:])
    if not (matrices and a[0] == b[1] > 0 and b[0] == out and flat(a[1:]) == flat(inputs)):
        raise ValueError(
            f"{file}: {found['A']} {a} and {found['B']} {b} do not fit {module}.weight {(out, *inputs)}: it needs "
            f"(r, {', '.join(map(str, inputs))}) and ({out}, r)"
        )
    alpha = None
    if "alpha" in found:
        value = tensors[found["alpha"]]
        if value.size != 1 or not np.isfinite(float(value.reshape(()))):
            raise ValueError(f"{file}: {found['alpha']} is not one finite number")
        alpha = float(value.reshape(()))
    return Matrices(found["A"], found["B"], a[0], settings.scale(file, module, a[0], alpha))


def _listed(names) -> str:
    some, rest = sorted(names)[:MOST], len(names) - MOST
    return ", ".join(some) + (f" and {rest} more" if rest > 0 else "")
