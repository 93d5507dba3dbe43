"""Sharding of the train state over a mesh.

The sharding of an array follows from its path and shape, before any array exists: from the network's table of rules
(`Network.rules`) if a rule matches, otherwise from the sizes of the axes. Parameters, their average and the optimizer's
state follow the same rules. Every array has a `Decision` that gives the reason.

The axes of a mesh (`jvflow.parallel.mesh`):

    data        rows of the batch; parameters are copied
    fsdp        rows of the batch; parameters, their average and the optimizer's state are split
    sequence    tokens of each video
    tensor      attention heads, and the hidden layer of each MLP
"""

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA, FSDP, SEQUENCE, TENSOR = AXES = ("data", "fsdp", "sequence", "tensor")
ROWS = (DATA, FSDP)
"""The mesh axes that the rows of a batch are split over."""

LORA = ("lora_a", "lora_b", "lora_scale")
"""Names of LoRA parameters (`jvflow.training.lora`) for a kernel (in, out), in the same layer: (in, r), (r, out) and a
scalar. Each inherits the kernel's sharding on the axis that both share."""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]
"""Sharding rules of a network: (regular expression, mesh axes of an array's last axes). The first expression that
matches a part of the array's path applies."""

MIN_ELEMENTS = 2**14
"""Smaller arrays are copied to every device."""


class Decision(NamedTuple):
    """The sharding of one array, and the reason."""

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    why: str

    def __str__(self) -> str:
        spec = ", ".join(str(axis) for axis in self.spec) or "copied"
        return f"{self.path} {self.shape}: {spec}; {self.why}"


def decide(tree, rules: Rules, mesh: Mesh) -> list[Decision]:
    """Returns the sharding of each leaf of a tree (an array or its shape) over the mesh, in the order of the leaves."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return [_decide(name(path), leaf.shape, rules, mesh) for path, leaf in jax.tree.leaves_with_path(tree)]


def shardings(tree, rules: Rules, mesh: Mesh) -> Any:
    """Returns the tree with the sharding of each array in its place, see `decide`."""
    found = [NamedSharding(mesh, decision.spec) for decision in decide(tree, rules, mesh)]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _decide(path: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> Decision:
    if int(np.prod(shape)) < MIN_ELEMENTS:
        return Decision(path, shape, PartitionSpec(), f"fewer than {MIN_ELEMENTS} elements")
    pattern, last = _rule(path, rules)
    wanted = [None] * (len(shape) - len(last)) + list(last)
    why = [f"rule {pattern!r}" if pattern else "no rule"]
    spec = [axis if axis and mesh.shape[axis] > 1 else None for axis in wanted]
    for i, axis in enumerate(spec):
        if axis and shape[i] % mesh.shape[axis]:
            why.append(f"{axis} {mesh.shape[axis]} does not divide {shape[i]}")
            spec[i] = None
    if mesh.shape[FSDP] > 1 and FSDP not in spec:
        fits = [i for i, n in enumerate(shape) if spec[i] is None and n % mesh.shape[FSDP] == 0]
        if fits:
            i = max(fits, key=lambda i: (shape[i], i))
            spec[i] = FSDP
            why.append(f"fsdp on the largest axis that it divides, {shape[i]}")
        else:
            why.append(f"fsdp {mesh.shape[FSDP]} divides no axis")
    while spec and spec[-1] is None:
        spec.pop()
    return Decision(path, shape, PartitionSpec(*spec), "; ".join(why))


def _rule(path: str, rules: Rules) -> tuple[str, tuple]:
    """Returns the pattern that matches a path, and the mesh axes of the array's last axes; ("", ()) if none matches."""
    layer, _, name = path.rpartition("/")
    kernel = f"{layer}/kernel" if name in LORA else path
    pattern, last = next(((p, axes) for p, axes in rules if re.search(p, kernel)), ("", ()))
    lora = {"lora_a": (*last[:1], None), "lora_b": (None, *last[1:]), "lora_scale": ()}
    return pattern, lora.get(name, last) if last else ()
