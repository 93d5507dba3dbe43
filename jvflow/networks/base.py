"""What a network is."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
from flax import nnx, traverse_util
from jaxtyping import Array, Key

from jvflow.parallel.constrain import FSDP, LORA, SEQUENCE, TENSOR, Rules
from jvflow.networks.layers import beside


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      apply: `(params, x, s, condition) -> velocities`; of a public model (`jvflow.pretrained`), in that model's own layout.
      params: its parameters, where it came with some; else None.
      config: its sizes.
      init: `key -> params`, where it can start from nothing.
      rules: how its parameters are split over a mesh, see `jvflow.parallel.mesh`.
      field: of a public model that is a field: the same function as `apply` of one of ours.
    """

    apply: Callable
    params: Any = None
    config: Any = None
    init: Callable | None = None
    rules: Rules = ()
    field: Callable | None = None


class Keys:
    """The keys of a module's layers, those that `nnx.Rngs(params=key)` gives.

    That one counts in an array, and looks at each count again: inside a trace its time is quadratic in the number of layers, half a minute for the two
    U-Nets of Bi-flow.
    """

    def __init__(self, key: Key[Array, ""]):
        self._key, self._count = key, 0

    def params(self) -> Key[Array, ""]:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)

    def split(self, count: int) -> nnx.Rngs:
        """Of so many layers that are made at once."""
        return nnx.Rngs(params=jax.random.split(self.params(), count))


def check_split(heads: int, tokens: int, video: tuple, mesh) -> None:
    """Raises a ValueError when a mesh cannot split so many heads, or the tokens of a video (frames, height, width)."""
    tensor, sequence = mesh.shape[TENSOR], mesh.shape[SEQUENCE]
    works = lambda n, size: max(k for k in range(1, size + 1) if n % k == 0 and size % k == 0)
    if heads % tensor:
        size = works(heads, tensor)
        raise ValueError(
            f"config.run.mesh.tensor={tensor} does not divide the {heads} heads: use "
            f"--config.run.mesh.tensor={size} --config.run.mesh.sequence={tensor // size * sequence}, which splits the tokens"
        )
    if tokens % sequence:
        size = works(tokens, sequence)
        raise ValueError(
            f"config.run.mesh.sequence={sequence} does not divide the {tokens} tokens of a video {tuple(video)}: "
            f"use --config.run.mesh.sequence={size} --config.run.mesh.fsdp={sequence // size * mesh.shape[FSDP]}"
        )


def functional(module: type[nnx.Module], config, rules: Rules = ()) -> Network:
    """A module, `module(config, rngs=...)`, as pure functions; `apply(params, ..., method=NAME)` calls another of its methods.

    Linear layers whose parameters hold matrices of low rank beside the kernel add these, see `jvflow.training.lora`.
    """

    def init(key):
        return nnx.to_pure_dict(nnx.state(module(config, rngs=Keys(key)), nnx.Param))

    @cache
    def structure(tuned: frozenset):
        return nnx.graphdef(nnx.eval_shape(lambda: beside(module(config, rngs=Keys(jax.random.key(0))), tuned)))

    def apply(params, *inputs, method="__call__", **named):
        tuned = frozenset(path[:-1] for path in traverse_util.flatten_dict(params) if path[-1] == LORA[0])
        return getattr(nnx.merge(structure(tuned), params), method)(*inputs, **named)

    return Network(apply=apply, config=config, init=init, rules=rules)
