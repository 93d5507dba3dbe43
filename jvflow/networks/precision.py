"""Half precision: which parameters are stored in it, and networks that compute in it.

Kernels, their biases, and embeddings can be bfloat16, as in the pipelines of public models, or float16. Norms, tables
of scales and shifts, statistics of latents, and the layers that embed times stay float32.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx, traverse_util

DTYPES = ("float32", "bfloat16", "float16")
TIMES = re.compile(r"(^|/)(timestep_embedder|time_embedder|time_embedding|conditioning/embedders)/")
"""Matches the paths of the layers that embed times."""


def check_dtype(name: str, dtype: str) -> None:
    """Raises ValueError if the config entry `name` is none of `DTYPES`."""
    if dtype not in DTYPES:
        raise ValueError(f"{name} is {dtype!r}: use one of {', '.join(DTYPES)}")


def stored_dtype(paths: Collection[str], dtype: Any) -> Callable[[str], Any]:
    """Returns `path -> dtype` for parameters with these paths, such as "blocks/0/qkv/kernel", if stored in `dtype`."""

    def choose(path: str):
        layer, _, name = path.rpartition("/")
        halved = name in ("kernel", "embedding") or (name == "bias" and f"{layer}/kernel" in paths)
        return dtype if jnp.dtype(dtype).itemsize > 2 or (halved and not TIMES.search(path)) else jnp.dtype("float32")

    return choose


def cast(params: Any, dtype: Any) -> Any:
    """Returns a tree of parameters stored in `dtype`, see `stored_dtype`."""
    flat = traverse_util.flatten_dict(params)
    names = {path: "/".join(map(str, path)) for path in flat}
    choose = stored_dtype(set(names.values()), dtype)
    return traverse_util.unflatten_dict({path: a.astype(choose(names[path])) for path, a in flat.items()})


def as_computed(params: dict, dtype: str) -> dict:
    """Returns the parameters of a network in the dtypes in which its layers compute, if these are half precision.

    The network's result is the same bit for bit. The parameters of its text encoder keep their dtypes.
    """
    return {name: value if name == "text" else cast({name: value}, dtype)[name] for name, value in params.items()}


def computed_in(module: Callable, dtype: str) -> Callable:
    """Returns `module(config, rngs=...)` with its linear layers and convolutions computed in `dtype`.

    The layers that embed times compute in float32.
    """

    def make(config, *, rngs):
        made = module(config, rngs=rngs)
        for path, layer in nnx.iter_graph(made):
            if isinstance(layer, nnx.Linear | nnx.Conv) and not TIMES.search("/".join(map(str, path)) + "/"):
                layer.dtype = jnp.dtype(dtype)
        return made

    return module if dtype == "float32" else make
