"""Tables of our parameters and the tensors of a public checkpoint, which convert in both directions."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jvflow.networks import Network


class Entry(NamedTuple):
    """One of our arrays and the tensors that it is made of.

    Attributes:
      path: path of our array, such as "blocks/0/qkv/kernel".
      names: names of the tensors.
      read: `tensors -> array`.
      write: `array -> tuple of tensors`.
    """

    path: str
    names: tuple[str, ...]
    read: Callable
    write: Callable


class Model(NamedTuple):
    """A public model of one config, under one naming of its tensors.

    Attributes:
      network: our network, without parameters.
      shapes: shapes of its arrays, by path.
      layout: the entries of its arrays.
      ignored: regular expressions for the names of tensors that are not read: they hold no learned values, or belong
        to another part of the public model.
      apply: `(params, **inputs)`, in the public model's own layout and argument names.
      field: `(params, x, s, condition)` in our layout, with s in the model's own time; None if the model is no field.
      added: paths of arrays that only our network has; they are initialized as in a new network.
      settings: values of all keys of the public config, absent ones with the defaults of the public library.
      copies: names of tensors that must equal another tensor, if the files hold both: `{copy: tensor that is read}`.
    """

    network: Network
    shapes: dict[str, jax.ShapeDtypeStruct]
    layout: list[Entry]
    ignored: tuple[str, ...]
    apply: Callable
    field: Callable | None = None
    added: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = MappingProxyType({})
    copies: Mapping[str, str] = MappingProxyType({})


class Kind(NamedTuple):
    """A kind of public model.

    Attributes:
      model: `(config, naming) -> Model`.
      find_naming: `names of tensors -> naming`.
      namings: the namings in use for its tensors; the first is written by default.
      file: name of its safetensors file.
    """

    model: Callable[..., Model]
    find_naming: Callable
    namings: tuple[str, ...]
    file: str = "diffusion_pytorch_model.safetensors"


def autoencoder_apply(encode: Callable, decode: Callable) -> Callable:
    """Returns an autoencoder's `apply` with the arguments of its package, in which channels come first.

    Args:
      encode, decode: `(params, images or latents (b, h, w, c)) -> arrays (b, h, w, c)`.
    """

    def apply(params, *, method: str, x=None, z=None, sample=None):
        """Encodes x or sample (b, 3, h, w) to latents or (mean, logvar), or decodes z or x (b, c, h', w') to images."""
        methods = dict(encode=(encode, x if sample is None else sample), decode=(decode, x if z is None else z))
        function, given = methods.get(method, (None, None))
        if given is None:
            raise ValueError(f"method is {method!r}: use 'encode' with x, or 'decode' with z")
        output = function(params, rearrange(jnp.asarray(given), "b c h w -> b h w c"))
        return jax.tree.map(lambda a: rearrange(a, "b h w c -> b c h w"), output)

    return apply


# --- entries --------------------------------------------------------------------------------------


def same_entry(path: str, name: str) -> Entry:
    """Returns the entry of an array that equals its tensor."""
    return Entry(path, (name,), lambda a: a, lambda a: (a,))


def rearranged_entry(path: str, name: str, pattern: str, **sizes) -> Entry:
    """Returns the entry of an array that is the rearranged tensor, by an einops `pattern` from tensor to array."""
    tensor, _, array = pattern.partition("->")
    read = lambda a: rearrange(a, pattern, **sizes)
    write = lambda a: (rearrange(a, f"{array} -> {tensor}", **sizes),)
    return Entry(path, (name,), read, write)


def linear_entries(path: str, name: str) -> list[Entry]:
    """Returns the entries of a linear layer: its kernel (in, out), a weight (out, in), and its bias."""
    return [
        rearranged_entry(f"{path}/kernel", f"{name}.weight", "o i -> i o"),
        same_entry(f"{path}/bias", f"{name}.bias"),
    ]


def mirror(shapes: Mapping[str, Any], rename: Callable[[str], str] = str) -> list[Entry]:
    """Returns the entries of a network whose layers have the public names.

    Args:
      shapes: shapes of our arrays, by path.
      rename: `name made from our path -> public name`.
    """
    return [_mirror(path, len(array.shape), rename) for path, array in shapes.items()]


def _mirror(path: str, axes: int, rename: Callable[[str], str]) -> Entry:
    layer, _, last = path.rpartition("/")
    tensor = dict(kernel="weight", scale="weight", embedding="weight").get(last, last)
    name = rename(f"{layer.replace('/', '.')}.{tensor}".removeprefix("."))
    if last != "kernel":
        return same_entry(path, name)
    return rearranged_entry(path, name, {2: "o i -> i o", 4: "o i h w -> h w i o", 5: "o i f h w -> f h w i o"}[axes])


FIRST = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""The names that diffusers first gave to the layers of attention over pixels."""


def has_first_names(names: Iterable[str]) -> bool:
    """Returns whether tensors have the first names of attention."""
    return any(".proj_attn." in name for name in names)


def first_name(name: str) -> str:
    """Returns the first name of a tensor of attention; other names stay."""
    for current, first in FIRST.items():
        name = re.sub(rf"(attentions\.\d+)\.{re.escape(current)}\.", rf"\1.{first}.", name)
    return name


def stack(layers: Sequence[Sequence[Entry]], rename: Callable[[str], str]) -> list[Entry]:
    """Returns the entries of arrays that stack equal layers along a leading layer axis.

    Args:
      layers: the entries of each layer.
      rename: `path in the first layer -> path of the stacked array`.
    """
    return [_stack(entries, rename) for entries in zip(*layers, strict=True)]


def _stack(entries: Sequence[Entry], rename: Callable[[str], str]) -> Entry:
    first, count = entries[0], len(entries[0].names)

    def read(*tensors):
        return np.stack([entry.read(*tensors[i * count : (i + 1) * count]) for i, entry in enumerate(entries)])

    write = lambda array: tuple(tensor for i, entry in enumerate(entries) for tensor in entry.write(array[i]))
    return Entry(rename(first.path), tuple(name for entry in entries for name in entry.names), read, write)


def mirror_stacked(shapes: Mapping[str, Any], prefix: str, depth: int) -> list[Entry]:
    """Returns the entries of `mirror` for a network whose layers below `prefix` are stacked; `depth` 0 for none."""
    if not depth:
        return mirror(shapes)
    inside = {path: a for path, a in shapes.items() if path.startswith(prefix)}
    single = {path.removeprefix(prefix): jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for path, a in inside.items()}
    layers = [mirror({f"{prefix}{i}/{path}": a for path, a in single.items()}) for i in range(depth)]
    others = {path: a for path, a in shapes.items() if not path.startswith(prefix)}
    return mirror(others) + stack(layers, lambda path: path.replace(f"{prefix}0/", prefix))


# --- paths ----------------------------------------------------------------------------------------


def network_shapes(network: Network) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of all arrays of a network, by path."""
    return flatten_paths(jax.eval_shape(network.init, jax.random.key(0)))


def flatten_paths(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as "blocks/0/qkv/kernel"."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten_paths(arrays: Mapping[str, Any]) -> dict:
    """Returns the nested dict of paths; numbers become integer keys."""
    tree = {}
    for path, leaf in arrays.items():
        *above, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        at = tree
        for part in above:
            at = at.setdefault(part, {})
        at[last] = leaf
    return tree
