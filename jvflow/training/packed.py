"""Packed runs: a trained run as two small files, to publish it or to ship it in a package.

    config.json          the settings
    model.safetensors    one set of parameters; its header has the format version, the step and the data's key

Every command reads the folder in place of a workdir. Nothing trains in it; its parameters start another run as
`config.pretrained`. It holds no optimizer, no second set of parameters, and no metrics.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from jvflow.files import PACKED, write_text
from jvflow.parallel.checksums import tree_checksum
from jvflow.pretrained.files import save
from jvflow.pretrained.readers import open_file
from jvflow.training import format_version

HEADER = "jvflow"
"""The entry of the file's header with everything but the parameters, as JSON."""
DAMAGED = "copy the folder again"


def write(folder: Path, config, params, *, step: int, ema: bool, key: str | None, dtype: str = "float32") -> None:
    """Writes a packed run into `folder`, which must not exist; it is complete or absent.

    Args:
      folder: the folder.
      config: the run's config; places of this machine (cache, mesh) are left at their defaults by the caller.
      params: the parameters of its network, on the host.
      step: their training step. ema: whether they are the moving average.
      key: the key of the data set (`jvflow.data.dataset_key`), or None.
      dtype: of the floating-point parameters in the file, "float32" or "float16"; `read` returns the rounded values.

    Raises:
      ValueError: if a parameter is too large for the dtype.
    """
    params = jax.tree.map(lambda a: a.astype(dtype) if np.issubdtype(a.dtype, np.floating) else a, params)
    large = [name for name, leaf in _named(params).items() if not np.isfinite(leaf).all()]
    if large and dtype != "float32":
        raise ValueError(f"{large[0]} has parameters above {np.finfo(dtype).max:g}: use --dtype=float32")
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in _named(params).items()}
    version = {format_version.ENTRY: format_version.VERSION}
    noted = dict(step=step, ema=ema, key=key, checksum=tree_checksum(params))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_text(partial / "config.json", json.dumps(version | json.loads(config.to_json()), indent=1) + "\n")
    save(partial / PACKED, tensors, metadata={HEADER: json.dumps(version | noted)})
    partial.rename(folder)


def header(folder: Path) -> dict:
    """Returns the header of a packed run; raises ValueError if it is damaged or of a later format."""
    file = folder / PACKED
    try:
        found = json.loads(open_file(file).metadata[HEADER])
        format_version.check_version(found, file)
        return {name: found[name] for name in ("step", "ema", "key", "checksum")}
    except (KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{file} is no packed run, its header lacks {HEADER} or one of its entries: {DAMAGED}"
        ) from error


def read(folder: Path, abstract) -> dict:
    """Returns the parameters of a packed run on the host, in the structure of `abstract`.

    Raises:
      ValueError: if names, shapes or the checksum differ.
    """
    noted, stored, wanted = header(folder), open_file(folder / PACKED), _named(abstract)
    have = stored.shapes
    differing = sorted(n for n in have.keys() | wanted.keys() if have.get(n) != getattr(wanted.get(n), "shape", None))
    if differing:
        raise ValueError(
            f"{folder / PACKED} does not fit its config.json: {len(differing)} parameters differ, such as "
            f"{differing[0]}: {DAMAGED}"
        )
    paths, structure = jax.tree_util.tree_flatten_with_path(abstract)
    params = jax.tree.unflatten(structure, [stored.read(_name(path)) for path, _ in paths])
    if tree_checksum(params) != noted["checksum"]:
        raise ValueError(f"the parameters in {folder / PACKED} have another checksum than its header: {DAMAGED}")
    return jax.tree.map(lambda a, like: a.astype(like.dtype), params, abstract)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _named(tree) -> dict:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
