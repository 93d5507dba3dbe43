"""Fine-tuning: training of some layers only, or of low-rank matrices for linear layers (LoRA).

    y = x W + b + s (x A) B        A (in, r), B (r, out), s = alpha / r         (1)   arXiv 2106.09685, section 4.1

A and B train and W is frozen; B starts at 0, so that the network starts unchanged. Both can also start from a LoRA file
of a public model (`jvflow.pretrained.lora`); then the network starts as that model with the file. The parameter tree
holds `lora_a`, `lora_b` and `lora_scale` next to their kernel. A layer with these entries computes (1)
(`networks.functional`). In scanned layers, the first axis of these arrays is the layer.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jvflow.networks import precision
from jvflow.parallel.sharding import LORA
from jvflow.pretrained import public, unflatten_paths
from jvflow.pretrained.lora import Change

A, B, SCALE = LORA


@dataclass(frozen=True)
class Tuning:
    """The choice of the parameters that train.

    Attributes:
      layers: regular expressions, searched in the path of a layer such as "blocks/3/attn1/to_q"; () takes all layers,
        or with LoRA all linear layers whose kernel is larger than `rank` in both axes.
      rank: r in (1); 0 trains the layers themselves.
      alpha: alpha in (1).
      dtype: dtype in which frozen parameters are stored, see `jvflow.networks.precision`.
    """

    layers: tuple[str, ...] = ()
    rank: int = 0
    alpha: float = 1.0
    dtype: str = "float32"

    def __post_init__(self):
        if self.rank < 0 or self.rank and not self.alpha > 0:
            raise ValueError(
                f"config.tune.rank must be 0 or more and config.tune.alpha above 0, got {self.rank} and {self.alpha}: "
                "alpha = rank gives the scale 1"
            )
        for pattern in self.layers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"config.tune.layers: {pattern!r} is no regular expression: {error}") from error

    @classmethod
    def of(cls, config) -> "Tuning | None":
        """Returns the tuning of a config; None if `config.tune` only names a LoRA file, so that all parameters train.

        Raises:
          ValueError: if there is no pretrained model, or if the LoRA file does not fit it or the chosen layers.
        """
        tune = config.tune
        layers, rank, file = tuple(tune.layers), tune.rank, tune.get("lora")
        if not config.pretrained:
            raise ValueError(
                "config.tune freezes parameters or reads a LoRA file for a model, and config.pretrained is empty: set "
                "config.pretrained, or use --config.tune.rank=0 --config.tune.layers='()' --config.tune.lora=''"
                if file
                else "config.tune freezes parameters, which would stay random without config.pretrained: set "
                "config.pretrained, or use --config.tune.rank=0 --config.tune.layers='()'"
            )
        if file and rank:
            layers = _layers_of(config, layers)
        if not (layers or rank):
            return None
        dtype = tune.get("dtype", "float32")
        precision.check_dtype("config.tune.dtype", dtype)
        return cls(layers, rank, tune.alpha if rank else 1.0, dtype)

    def add_lora(self, key, params: Any) -> Any:
        """Returns the parameters with A and B added for the kernels that are tuned; unchanged if the rank is 0.

        A is uniform in +-1 / sqrt(in), as in the peft package. If the parameters hold A and B of a file already
        (`add_file`), these take the first columns and rows; the others leave the network as it is.

        Raises:
          ValueError: if a regular expression matches no layer; the message lists some layers.
        """
        flat = _flat(params)
        chosen = self._chosen(flat)
        for number, kernel in enumerate(chosen if self.rank else ()):
            shape, dtype = flat[kernel].shape, flat[kernel].dtype
            layers, (inputs, outputs) = shape[:-2], shape[-2:]
            a_path, b_path, scale_path = ((*kernel[:-1], name) for name in LORA)
            known = flat.get(a_path), flat.get(b_path)
            if self.rank > min(inputs, outputs) and known[0] is None:
                raise ValueError(
                    f"config.tune.rank={self.rank} is above the rank of {'/'.join(map(str, kernel[:-1]))}, a matrix "
                    f"{inputs} x {outputs}: use {min(inputs, outputs)} or less, or leave the layer out"
                )
            bound = 1 / math.sqrt(inputs)
            flat[a_path] = jax.random.uniform(
                jax.random.fold_in(key, number), (*layers, inputs, self.rank), dtype, -bound, bound
            )
            flat[b_path] = jnp.zeros((*layers, self.rank, outputs), dtype)
            flat[scale_path] = jnp.full(layers, self.alpha / self.rank, dtype)
            if known[0] is not None:
                flat[a_path], flat[b_path] = self._start_from(*known, flat[a_path], flat[b_path])
        return traverse_util.unflatten_dict(flat)

    def _start_from(self, a, b, new_a, new_b) -> tuple:
        """Returns new A and B with those of a file in the first ranks; a rank whose A is 0 stays new."""
        used = jnp.any(a != 0, axis=-2, keepdims=True)
        b = jnp.where(used.swapaxes(-1, -2), b * (self.rank / self.alpha), 0)  # our scale multiplies it again
        count = a.shape[-1]
        return new_a.at[..., :count].set(jnp.where(used, a, new_a[..., :count])), new_b.at[..., :count, :].set(b)

    def split(self, params: Any) -> tuple[Any, Any]:
        """Splits the parameters that `add_lora` returned into (trained, frozen)."""
        if not (self.layers or self.rank):
            return params, {}
        flat = _flat(params)
        chosen = {path for path in flat if path[-1] in (A, B)} if self.rank else set(self._chosen(flat))
        part = lambda inside: traverse_util.unflatten_dict(
            {path: a for path, a in flat.items() if (path in chosen) == inside}
        )
        return part(True), part(False) if self.dtype == "float32" else precision.cast(part(False), self.dtype)

    def add_and_split(self, key, params: Any) -> tuple[Any, Any]:
        """Applies `add_lora` and `split` to the initial parameters; returns (trained, frozen)."""
        return self.split(self.add_lora(key, params))

    def _chosen(self, flat: Mapping) -> list[tuple]:
        """Returns the paths of the parameters that are tuned; with LoRA only kernels of linear layers."""
        able = sorted(
            (path for path, a in flat.items() if path[-1] not in LORA and (not self.rank or is_linear(path, a))),
            key=str,
        )
        layer = lambda path: "/".join(map(str, path[:-1]))
        names = list(dict.fromkeys(map(layer, able)))
        lost = [pattern for pattern in self.layers if not any(re.search(pattern, name) for name in names)]
        if lost:
            some = ", ".join(names[:: max(len(names) // 8, 1)][:8])
            raise ValueError(
                f"config.tune.layers: {', '.join(map(repr, lost))} matches none of the {len(names)} "
                f"{'linear ' if self.rank else ''}layers, such as {some}"
            )
        if not self.layers:
            return [path for path in able if min(flat[path].shape[-2:] if self.rank else (1,)) > self.rank]
        return [path for path in able if any(re.search(pattern, layer(path)) for pattern in self.layers)]


def _layers_of(config, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Returns expressions for the layers of `config.tune.lora`, or `layers` if they match all of these."""
    found = {path.rpartition("/")[0] for path in public.lora_changes(config)}
    if not layers:
        return tuple(f"^{re.escape(layer)}$" for layer in sorted(found))
    lost = sorted(layer for layer in found if not any(re.search(pattern, layer) for pattern in layers))
    if lost:
        raise ValueError(
            f"config.tune.layers leaves out {len(lost)} layers that {config.tune.lora} changes, such as {lost[0]}: add "
            "them, leave config.tune.layers empty, or merge the file with --config.tune.rank=0"
        )
    return layers


def add_file(params: Any, changes: Mapping[str, Change], rank: int) -> Any:
    """Returns the parameters with the matrices of a LoRA file next to their kernels, for `Tuning.add_lora`.

    Args:
      changes: what the file adds, see `jvflow.pretrained.public.lora_changes`.
      rank: the rank of the run.

    Raises:
      ValueError: if a layer needs a larger rank, or is not linear.
    """
    flat = _flat(params)
    for path, change in changes.items():
        a, b = change.factors()
        if a.shape[-1] > rank:
            raise ValueError(
                f"config.tune.rank={rank} is below the rank {a.shape[-1]} of {path.rpartition('/')[0]} in "
                f"config.tune.lora: use {a.shape[-1]} or more, or 0 to merge the file"
            )
        flat |= _flat(unflatten_paths({path.rpartition("/")[0] + f"/{A}": a, path.rpartition("/")[0] + f"/{B}": b}))
    return traverse_util.unflatten_dict(flat)


def is_linear(path: tuple, array) -> bool:
    """Returns whether an array is the kernel of a linear layer, or of scanned linear layers."""
    return path[-1] == "kernel" and array.ndim in (2, 3)


def merge_lora(params: Any) -> Any:
    """Adds s A B to each kernel and removes A and B, which leaves the function of the network unchanged."""

    def one(flat, path):
        a, b, scale = (flat[(*path[:-1], name)] for name in LORA)
        return flat[path] + scale[..., None, None] * jnp.matmul(a, b, precision="highest")

    return _without(params, one)


def remove_lora(params: Any) -> Any:
    """Returns the parameters without A and B, as they were before tuning."""
    return _without(params, lambda flat, path: flat[path])


def _without(params: Any, kernel: Callable) -> Any:
    flat = _flat(params)
    if not any(path[-1] == A for path in flat):
        return params
    tuned = {(*path[:-1], "kernel") for path in flat if path[-1] == A}
    return traverse_util.unflatten_dict(
        {path: kernel(flat, path) if path in tuned else a for path, a in flat.items() if path[-1] not in LORA}
    )


def _flat(params: Any) -> dict:
    return traverse_util.flatten_dict(params)
