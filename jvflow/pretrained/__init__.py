"""Public checkpoints: converts tensors with the names of other packages to our parameters, and back.

    entry       one of our arrays, its public tensors, and functions that convert in both directions (`layout.Entry`)
    kind        a public model: its network, and the entries for each naming of its tensors; one file each (`kinds`)
    lora        LoRA files of other packages, and what they add to our arrays

One error lists all tensors that are missing, unexpected or of another shape, before any tensor is read.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvflow.networks import Network, precision
from jvflow.parallel import sharding
from jvflow.pretrained import lora as lora_files
from jvflow.pretrained.checks import check_copies, check_not_scaled, check_values
from jvflow.pretrained.files import CONFIG, Files
from jvflow.pretrained.kinds import CLASSES, KINDS, find_kind
from jvflow.pretrained.layout import Model, flatten_paths, unflatten_paths
from jvflow.pretrained.lazy import LazyParams
from jvflow.pretrained.sources import is_model as is_public
from jvflow.pretrained.sources import open_source
from jvflow.pretrained.write import LORA_FILE, export, export_lora

CURE = "restore the file that belongs to this model"
__all__ = [
    "CLASSES",
    "CONFIG",
    "KINDS",
    "LORA_FILE",
    "LazyParams",
    "check_tensors",
    "export",
    "export_lora",
    "find_model",
    "flatten_paths",
    "import_checkpoint",
    "inspect",
    "is_public",
    "load",
    "open_folder",
    "unflatten_paths",
]


def import_checkpoint(
    kind: str, config: Mapping, tensors: Mapping[str, Any], *, mesh=None, dtype=None, lora=None, **options
) -> Network:
    """Returns a public model with its parameters.

    Args:
      kind: a key of `KINDS`.
      config: the dict of the public config.json.
      tensors: arrays under their public names, in any known naming; `files.Files` reads each when it is needed.
      mesh: receives each parameter as soon as it is read, sharded by the network's rules; None for the default
        device.
      dtype: dtype of the parameters; None keeps the tensors' dtype. bfloat16 leaves norms and the like in float32
        (`jvflow.networks.precision`).
      lora: a LoRA file or its folder (`jvflow.pretrained.lora`), which is merged into the parameters; None for none.
      options: options of the kind, such as scan, or text_width, which makes a dit take captions too.

    Returns:
      A network whose `apply(params, **inputs)` takes and returns arrays as the public model does. See
      `jvflow.networks.as_field` for our layout.

    Raises:
      ValueError: for an unknown kind or a config of another model, or if tensors are missing, unexpected or of another
        shape; the message lists all these tensors. Also for quantised weights and values that are not finite.
    """
    model = find_model(kind, config, tensors, **options)
    where = dict.fromkeys(model.shapes) if mesh is None else sharding.shardings(model.shapes, model.network.rules, mesh)
    stored = precision.stored_dtype(model.shapes, dtype)
    cast = lambda path, a: a if dtype is None else a.astype(stored(path))
    check_copies(model, tensors)
    changes, params = {} if lora is None else lora_files.read(lora, kind, config, **options), {}
    lost = changes.keys() - {entry.path for entry in model.layout}
    if lost:
        raise ValueError(f"{lora} changes {sorted(lost)[0]}, which tensors with the names of these do not have")
    for entry in model.layout:
        read = [check_values(name, np.asarray(tensors[name])) for name in entry.names]
        array = np.asarray(entry.read(*read))
        if entry.path in changes:
            merged = changes[entry.path].added_to(array)
            array = merged if dtype is not None else merged.astype(array.dtype)
        params[entry.path] = jax.device_put(cast(entry.path, array), where[entry.path])
    if model.added:
        init = lambda key: {
            path: a for path, a in flatten_paths(model.network.init(key)).items() if path in model.added
        }
        added = jax.jit(init)(jax.random.key(0))
        params |= {path: jax.device_put(cast(path, a), where[path]) for path, a in added.items()}
    field = model.field or partial(_no_field, kind)
    return model.network._replace(apply=model.apply, params=unflatten_paths(params), field=field)


def load(source: str | Path, *, kind: str | None = None, mesh=None, dtype=None, lora=None, **options) -> Network:
    """Imports a model; arguments as in `import_checkpoint`.

    Args:
      source: a folder in the layout of the public hubs, a single file, or an address on the hub, see
        `jvflow.pretrained.sources`.
      kind: the kind to read, if the source holds several models.
    """
    kind, config, files = open_folder(source, kind)
    return import_checkpoint(kind, config, files, mesh=mesh, dtype=dtype, lora=lora, **options)


def inspect(source: str | Path, *, kind: str | None = None, **options) -> Model:
    """Returns the model that `load` would import; checks its tensors without reading them."""
    kind, config, files = open_folder(source, kind)
    return find_model(kind, config, files, **options)


def find_model(kind: str, config: Mapping, tensors: Mapping[str, Any], **options) -> Model:
    """Returns the model of these tensors after checking shapes; arguments and errors as in `import_checkpoint`."""
    known = find_kind(kind)
    check_not_scaled(kind, tensors)
    try:
        model = known.model(config, known.find_naming(tensors), **options)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        file = "this config"
        if isinstance(tensors, Files):
            file = tensors.paths[0].parent / CONFIG
            file = file if file.is_file() else tensors.paths[0]
        reason = f"has no {error}" if isinstance(error, KeyError) else f"has wrong entries ({error})"
        raise ValueError(f"{file} does not describe a {kind}, it {reason}: {CURE}") from error
    if isinstance(tensors, Files):
        shapes = tensors.shapes
    else:
        shapes = {name: tuple(np.shape(tensor)) for name, tensor in tensors.items()}
    check_tensors(kind, model, shapes)
    return model


def open_folder(source: str | Path, kind: str | None = None) -> tuple[str, dict, Files]:
    """Returns kind, config and tensors for `load`; reads no tensor yet. Arguments as in `load`."""
    return open_source(source, kind)


def check_tensors(kind: str, model: Model, shapes: Mapping[str, tuple]) -> None:
    """Raises ValueError that lists all tensors that are missing, unexpected, or of another shape."""
    unlike = set(model.shapes) ^ ({entry.path for entry in model.layout} | model.added)
    if unlike:
        raise AssertionError(f"the layout of {kind} does not match its network: {unlike}")
    wanted = {}
    for entry in model.layout:
        written = entry.write(np.broadcast_to(False, model.shapes[entry.path].shape))  # takes the memory of one byte
        wanted |= {name: (entry.path, tuple(tensor.shape)) for name, tensor in zip(entry.names, written, strict=True)}
    wrong = [f"missing {name} {shape}, for {path}" for name, (path, shape) in wanted.items() if name not in shapes]
    wrong += [
        f"unexpected {name} {shape}"
        for name, shape in shapes.items()
        if name not in wanted and not any(re.fullmatch(pattern, name) for pattern in model.ignored)
    ]
    wrong += [
        f"{name} is {shapes[name]}, not {shape}, for {path}"
        for name, (path, shape) in wanted.items()
        if shapes.get(name, shape) != shape
    ]
    if wrong:
        raise ValueError(
            f"these are not the {len(wanted)} tensors of a {kind} of this config, {len(wrong)} differ:\n  "
            + "\n  ".join(wrong)
        )


def _no_field(kind: str, *args):
    raise ValueError(f"a {kind} is no field: call its apply")
