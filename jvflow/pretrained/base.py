"""How parameters and public tensors correspond: a table, read both ways."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jvflow.networks import Network


class Entry(NamedTuple):
    """One of our arrays and the tensors of a checkpoint that it is made of.

    Attributes:
      ours: the path of our array, such as "blocks/0/qkv/kernel".
      theirs: names of the tensors.
      read: `tensors -> array`.
      write: `array -> tuple of tensors`.
    """

    ours: str
    theirs: tuple[str, ...]
    read: Callable
    write: Callable


class Model(NamedTuple):
    """What one generation of a kind makes of a public config.

    Attributes:
      network: ours, without parameters.
      shapes: of its arrays, by path.
      layout: of all its arrays.
      ignored: tensors that hold nothing that was learned.
      apply: `(params, **inputs)`, in the public model's own layout and argument names.
      field: `(params, x, s, condition)` in our layout, of a model that is a field; s in the model's own time.
      fresh: our arrays that no tensor holds, of what we add to the model; they start as they start in a network of ours.
    """

    network: Network
    shapes: dict[str, jax.ShapeDtypeStruct]
    layout: list[Entry]
    ignored: frozenset[str]
    apply: Callable
    field: Callable | None = None
    fresh: frozenset[str] = frozenset()


class Kind(NamedTuple):
    """A public model.

    Attributes:
      model: `(config, generation) -> Model`.
      generation: which names those are, of `names -> generation`.
      generations: those that there are, the one that is written first.
      file: what its packages call the file.
    """

    model: Callable[..., Model]
    generation: Callable
    generations: tuple[str, ...]
    file: str = "diffusion_pytorch_model.safetensors"


def both_ways(encode: Callable, decode: Callable) -> Callable:
    """The `apply` of an autoencoder with the arguments of its package, of functions `(params, images)` and `(params, latents)` of arrays (b, h, w, c)."""

    def apply(params, *, method: str, x=None, z=None, sample=None):
        """method="encode", x or sample (b, 3, h, w) -> latents, or their (mean, logvar); method="decode", z or x (b, c, h', w') -> (b, 3, h, w)."""
        ways = dict(encode=(encode, x if sample is None else sample), decode=(decode, x if z is None else z))
        function, given = ways.get(method, (None, None))
        if given is None:
            raise ValueError(f"method is {method!r}: use 'encode' with x, or 'decode' with z")
        made = function(params, rearrange(jnp.asarray(given), "b c h w -> b h w c"))
        return jax.tree.map(lambda a: rearrange(a, "b h w c -> b c h w"), made)

    return apply


def unlike(config: Mapping, expected: Mapping) -> dict:
    """The entries of a public config that are not as expected; one that is left out is."""
    return {key: config[key] for key, value in expected.items() if config.get(key, value) != value}


# --- entries --------------------------------------------------------------------------------------


def same(ours: str, theirs: str) -> Entry:
    """An array that is the tensor."""
    return Entry(ours, (theirs,), lambda a: a, lambda a: (a,))


def rearranged(ours: str, theirs: str, pattern: str, **sizes) -> Entry:
    """An array that is the tensor with its axes in another order; `pattern` is einops' from theirs to ours."""
    there, _, here = pattern.partition("->")
    return Entry(ours, (theirs,), lambda a: rearrange(a, pattern, **sizes), lambda a: (rearrange(a, f"{here} -> {there}", **sizes),))


def linear(ours: str, theirs: str) -> list[Entry]:
    """A linear layer: kernel (in, out) of weight (out, in), and its bias."""
    return [rearranged(f"{ours}/kernel", f"{theirs}.weight", "o i -> i o"), same(f"{ours}/bias", f"{theirs}.bias")]


def mirrored(shapes: Mapping[str, Any], rename: Callable[[str], str] = str) -> list[Entry]:
    """The entries of a network whose layers have the public names.

    Args:
      shapes: of our arrays, by path.
      rename: from the public name as our path has it to the one that is there.
    """
    return [_mirrored(path, len(array.shape), rename) for path, array in shapes.items()]


def _mirrored(path: str, axes: int, rename: Callable[[str], str]) -> Entry:
    layer, _, last = path.rpartition("/")
    theirs = rename(f"{layer.replace('/', '.')}.{dict(kernel='weight', scale='weight', embedding='weight').get(last, last)}".removeprefix("."))
    if last != "kernel":
        return same(path, theirs)
    return rearranged(path, theirs, {2: "o i -> i o", 4: "o i h w -> h w i o", 5: "o i f h w -> f h w i o"}[axes])


def stacked(entries: Sequence[Sequence[Entry]], ours: Callable[[str], str]) -> list[Entry]:
    """The entries of layers that are alike as one array with a leading layer axis each, named by `ours` from the first layer's name."""

    def one(same_array: Sequence[Entry]) -> Entry:
        first, count = same_array[0], len(same_array[0].theirs)

        def read(*tensors):
            return np.stack([entry.read(*tensors[i * count : (i + 1) * count]) for i, entry in enumerate(same_array)])

        write = lambda array: tuple(tensor for i, entry in enumerate(same_array) for tensor in entry.write(array[i]))
        return Entry(ours(first.ours), tuple(name for entry in same_array for name in entry.theirs), read, write)

    return [one(same_array) for same_array in zip(*entries, strict=True)]


def layered(shapes: Mapping[str, Any], prefix: str, depth: int) -> list[Entry]:
    """The entries of `mirrored` for a network whose layers below `prefix` are stacked, so many of them; 0 where they are not."""
    if not depth:
        return mirrored(shapes)
    one = {name.removeprefix(prefix): jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for name, a in shapes.items() if name.startswith(prefix)}
    layers = [mirrored({f"{prefix}{i}/{name}": a for name, a in one.items()}) for i in range(depth)]
    return mirrored({name: a for name, a in shapes.items() if not name.startswith(prefix)}) + stacked(layers, lambda name: name.replace(f"{prefix}0/", prefix))


def shapes_of(network: Network) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of all arrays of a network, by path."""
    return flat(jax.eval_shape(network.init, jax.random.key(0)))


def flat(tree) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as "blocks/0/qkv/kernel"."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
