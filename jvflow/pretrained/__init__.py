"""Public checkpoints: tensors under the names of other people's code, as our parameters, and back.

    entry       one of our arrays, the tensors that it is made of, and how, both ways (`base.Entry`)
    kind        a public model: its network, and the entries of each generation of names that is out there; one file each

What is missing, unexpected or of another shape is said for all tensors at once, before one of them is read.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvflow.parallel import sharding
from jvflow.data.files import write_text
from jvflow.parallel.constrain import LORA
from jvflow.networks import Network
from jvflow.pretrained import (
    clip_text,
    dit,
    ltx_transformer,
    ltx_vae,
    sd_unet,
    sd_vae,
    t5_encoder,
    taesd,
    unet2d,
    wan_transformer,
    wan_vae,
)
from jvflow.pretrained.base import Entry, Kind, Model, flat
from jvflow.pretrained.files import Files, save

__all__ = [
    "Entry",
    "Files",
    "Kind",
    "Model",
    "checked",
    "export",
    "export_lora",
    "import_checkpoint",
    "is_public",
    "load",
    "look",
    "opened",
    "tree",
]

_FILES = (
    clip_text,
    dit,
    ltx_transformer,
    ltx_vae,
    sd_unet,
    sd_vae,
    t5_encoder,
    taesd,
    unet2d,
    wan_transformer,
    wan_vae,
)
KINDS = {file.__name__.rpartition(".")[2]: file.KIND for file in _FILES}
CLASSES = {
    "DiTTransformer2DModel": "dit",
    "AutoencoderKL": "sd_vae",
    "AutoencoderTiny": "taesd",
    "UNet2DModel": "unet2d",
    "LTXVideoTransformer3DModel": "ltx_transformer",
    "AutoencoderKLLTXVideo": "ltx_vae",
    "WanTransformer3DModel": "wan_transformer",
    "AutoencoderKLWan": "wan_vae",
    "UNet2DConditionModel": "sd_unet",
    "CLIPTextModel": "clip_text",
    "T5EncoderModel": "t5_encoder",
    "UMT5EncoderModel": "t5_encoder",
}
"""Kinds by what a config.json says of its class, `_class_name` in diffusers, `architectures` in transformers."""
CONFIG = "config.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls it."""


def import_checkpoint(
    kind: str, config: Mapping, tensors: Mapping[str, Any], *, mesh=None, dtype=None, **options
) -> Network:
    """A public model with its parameters.

    Args:
      kind: a name of `KINDS`.
      config: the dict of the public config.json.
      tensors: arrays under their public names, any generation of them that is known; `Files` reads each as it is needed.
      mesh: parameters go onto it as the network's rules say, each as soon as it is read; on the default device when None.
      dtype: of the parameters; that of the tensors when None.
      options: of the kind: of a dit scan, and text_width for captions beside its classes.

    Returns:
      A network whose `apply(params, **inputs)` takes and returns arrays as the public model does; see `jvflow.networks.as_field` for ours.

    Raises:
      ValueError: for an unknown kind, or a config that is none of it; when tensors are missing, unexpected or of another shape,
        with all of them in one message.
    """
    model = checked(kind, config, tensors, **options)
    where = dict.fromkeys(model.shapes) if mesh is None else sharding.shardings(model.shapes, model.network.rules, mesh)
    params = {}
    for entry in model.layout:
        array = np.asarray(entry.read(*(np.asarray(tensors[name]) for name in entry.theirs)))
        params[entry.ours] = jax.device_put(array if dtype is None else array.astype(dtype), where[entry.ours])
    if model.fresh:
        started = jax.jit(
            lambda key: {name: a for name, a in flat(model.network.init(key)).items() if name in model.fresh}
        )(jax.random.key(0))
        params |= {
            name: jax.device_put(a if dtype is None else a.astype(dtype), where[name]) for name, a in started.items()
        }
    return model.network._replace(apply=model.apply, params=tree(params), field=model.field or partial(_no_field, kind))


def load(folder, *, mesh=None, dtype=None, **options) -> Network:
    """The model in a folder as the public hubs lay it out, config.json and safetensors, in one file or in many with their index; see `import_checkpoint`."""
    kind, config, files = opened(folder)
    return import_checkpoint(kind, config, files, mesh=mesh, dtype=dtype, **options)


def look(folder, **options) -> Model:
    """The model in a folder as `load` reads it, its tensors checked and none of them read."""
    kind, config, files = opened(folder)
    return checked(kind, config, files, **options)


def checked(kind: str, config: Mapping, tensors: Mapping[str, Any], **options) -> Model:
    """The model that these tensors are of, see `import_checkpoint`, before one of them is read."""
    known = _kind(kind)
    model = known.model(config, known.generation(tensors), **options)
    check(
        kind,
        model,
        tensors.shapes
        if isinstance(tensors, Files)
        else {name: tuple(np.shape(tensor)) for name, tensor in tensors.items()},
    )
    return model


def is_public(folder) -> bool:
    """Whether a folder holds a model as the public hubs lay it out."""
    file = Path(folder) / CONFIG
    return file.is_file() and bool({"_class_name", "architectures"} & json.loads(file.read_text()).keys())


def opened(folder) -> tuple[str, dict, Files]:
    """Kind, config and tensors of a folder as `load` reads them, no tensor of them read."""
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds no {CONFIG}: give the folder of one model, such as transformer or vae")
    config = json.loads((folder / CONFIG).read_text())
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
    if named not in CLASSES:
        raise ValueError(f"{folder / CONFIG} is of {named}: known are {', '.join(CLASSES)}")
    index = sorted(folder.glob("*.safetensors.index.json"))
    names = (
        set(json.loads(index[0].read_text())["weight_map"].values())
        if index
        else {p.name for p in folder.glob("*.safetensors")}
    )
    if not names:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise ValueError(
            f"{folder} holds no safetensors"
            + (f" but {', '.join(pickles)}: pickles are never read, convert them" if pickles else "")
        )
    return CLASSES[named], config, Files([folder / name for name in sorted(names)])


def export(kind: str, config: Mapping, params: Any, folder, *, generation: str | None = None, **options) -> None:
    """Writes parameters into `folder` as the public hubs lay a model out: config.json and one safetensors file.

    Args:
      kind, config, options: as of `import_checkpoint`.
      params: of its network.
      folder: is made.
      generation: of the names, one of `KINDS[kind].generations`; the first of them when None.
    """
    known = _kind(kind)
    if generation not in (None, *known.generations):
        raise ValueError(f"unknown generation {generation!r} of {kind}: use one of {', '.join(known.generations)}")
    model = known.model(config, generation or known.generations[0], **options)
    if model.fresh:
        some = f"{sorted(model.fresh)[0]} and {len(model.fresh) - 1} more"
        raise ValueError(f"the public layout of {kind} has no place for {some}: export without {', '.join(options)}")
    have, want = flat(params), model.shapes
    if {name: np.shape(a) for name, a in have.items()} != {name: a.shape for name, a in want.items()}:
        differing = sorted(
            name for name in have.keys() | want.keys() if np.shape(have.get(name)) != np.shape(want.get(name))
        )
        raise ValueError(
            f"these are not the parameters of a {kind} of this config in the {generation or known.generations[0]} layout, {differing[:3]} differ"
        )
    tensors = {}
    for entry in model.layout:
        written = entry.write(np.asarray(have[entry.ours]))
        tensors |= {name: np.asarray(tensor, order="C") for name, tensor in zip(entry.theirs, written, strict=True)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / known.file, tensors)
    write_text(folder / CONFIG, json.dumps(dict(config), indent=2) + "\n")


def export_lora(kind: str, config: Mapping, params: Any, folder, **options) -> Path:
    """Writes the matrices of low rank that are in `params` (`jvflow.training.lora`) into `folder`, in one safetensors file as diffusers and peft read them; returns it.

    The scale is in B: what reads it takes alpha = rank, as diffusers does where nothing else is said. Arguments as of `export`. An array of ours that
    is made of several tensors gives each of them the same A.

    Raises:
      ValueError: where there are none, and for those of layers that the public model does not have.
    """
    model = _kind(kind).model(config, _kind(kind).generations[0], **options)
    have, entries = flat(params), {entry.ours: entry for entry in model.layout}
    layers = [name.rpartition("/")[0] for name in have if name.endswith(f"/{LORA[0]}")]
    if not layers:
        raise ValueError(
            "these parameters hold no matrices of low rank: train with config.tune.rank above 0, or export the whole model"
        )
    lost = [layer for layer in layers if f"{layer}/kernel" not in entries]
    if lost:
        raise ValueError(
            f"the public layout of {kind} has no {lost[0]}, nor {len(lost) - 1} more layers that were tuned: leave them out of config.tune.layers"
        )
    tensors, prefix = {}, "unet" if kind == "unet2d" else "transformer"
    for layer in layers:
        entry = entries[f"{layer}/kernel"]
        a, b, scale = (np.asarray(have[f"{layer}/{name}"], np.float32) for name in LORA)
        for name, down, up in zip(entry.theirs, *_low_rank(entry, a, b * scale[..., None, None]), strict=True):
            module = f"{prefix}.{name.removesuffix('.weight')}"
            tensors |= {
                f"{module}.lora_A.weight": np.ascontiguousarray(down),
                f"{module}.lora_B.weight": np.ascontiguousarray(up),
            }
    file = Path(folder) / LORA_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    save(file, tensors)
    return file


def _low_rank(entry: Entry, a: np.ndarray, b: np.ndarray) -> tuple[Sequence, Sequence]:
    """The matrices (r, in) and (out, r) of each tensor of an entry, of ours: (..., in, r) and (..., r, out)."""
    layers, rank, count = (len(a) if a.ndim == 3 else 1), a.shape[-1], len(entry.theirs)
    kernel = np.broadcast_to(np.float32(0), (*a.shape[:-1], b.shape[-1]))
    if entry.write(kernel)[0].ndim == 4:  # patches, which are a convolution there
        return entry.write(a), [b.T[:, :, None, None]]
    each = [a] if a.ndim == 2 else a
    return [each[i * layers // count].T for i in range(count)], [up.reshape(-1, rank) for up in entry.write(b)]


def check(kind: str, model: Model, shapes: Mapping[str, tuple]) -> None:
    """Raises a ValueError that lists all tensors that are missing, unexpected, or of another shape."""
    unlike = set(model.shapes) ^ ({entry.ours for entry in model.layout} | model.fresh)
    if unlike:
        raise AssertionError(f"the layout of {kind} is not that of its network: {unlike}")
    wanted = {}
    for entry in model.layout:
        written = entry.write(
            np.broadcast_to(False, model.shapes[entry.ours].shape)
        )  # an array of that shape, in one byte
        wanted |= {name: (entry.ours, tuple(tensor.shape)) for name, tensor in zip(entry.theirs, written, strict=True)}
    wrong = [f"missing {name} {shape}, for {ours}" for name, (ours, shape) in wanted.items() if name not in shapes]
    wrong += [
        f"unexpected {name} {shape}"
        for name, shape in shapes.items()
        if name not in wanted and name not in model.ignored
    ]
    wrong += [
        f"{name} is {shapes[name]}, not {shape}, for {ours}"
        for name, (ours, shape) in wanted.items()
        if shapes.get(name, shape) != shape
    ]
    if wrong:
        raise ValueError(
            f"these are not the {len(wanted)} tensors of a {kind} of this config, {len(wrong)} differ:\n  "
            + "\n  ".join(wrong)
        )


def _no_field(kind: str, *args):
    raise ValueError(f"a {kind} is no field: call its apply")


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}: use one of {', '.join(KINDS)}")
    return KINDS[name]


def tree(arrays: Mapping[str, Any]) -> dict:
    """The nested dict of paths; numbers are keys of lists."""
    tree = {}
    for path, leaf in arrays.items():
        *above, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        at = tree
        for part in above:
            at = at.setdefault(part, {})
        at[last] = leaf
    return tree
