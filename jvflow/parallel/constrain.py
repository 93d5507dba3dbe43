"""Names of mesh axes, and constraints on arrays inside a compiled program.

    data        rows of the batch; parameters are copied
    fsdp        rows of the batch; parameters, their average and the optimizer's state are split
    sequence    tokens of each video
    tensor      attention heads, and the hidden layer of each MLP

`jvflow.parallel.mesh` makes the mesh, `jvflow.parallel.sharding` decides how the train state is split.
"""

import jax
import numpy as np
from jax.sharding import PartitionSpec

DATA, FSDP, SEQUENCE, TENSOR = AXES = ("data", "fsdp", "sequence", "tensor")
ROWS = (DATA, FSDP)
"""The mesh axes that the rows of a batch are split over."""

LORA = ("lora_a", "lora_b", "lora_scale")
"""Names of LoRA parameters (`jvflow.training.lora`), in the layer of the kernel (in, out) that they tune: (in, r),
(r, out) and a number. They are split as the kernel is, along the axis that each shares with it."""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]
"""How a network's parameters are split: (regular expression, mesh axes of an array's last axes). The first expression
that is found in the path of the array counts."""


def constrain(x, *axes: str | tuple[str, ...] | None):
    """Puts the first axes of `x` on these axes of the current mesh, and leaves the others to the compiler.

    Returns `x` itself if no mesh is set. An axis that its mesh axes do not divide is left to the compiler, because a
    network also runs on single examples.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    names = lambda axis: (axis,) if isinstance(axis, str) else axis or ()
    size = lambda axis: int(np.prod([mesh.shape[name] for name in names(axis)]))
    free = PartitionSpec.UNCONSTRAINED
    spec = [axis if n % size(axis) == 0 else free for axis, n in zip(axes, x.shape)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec, *[free] * (x.ndim - len(spec))))


def axis_size(axis: str) -> int:
    """Returns the size of an axis of the current mesh, 1 if no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[axis]


def split_microbatches(tree, count: int):
    """Reshapes arrays (b, ...) to (count, b / count, ...).

    Each device's rows are spread over all microbatches, so nothing moves between devices.
    """
    split = lambda a: a.reshape(len(a) // count, count, *a.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(lambda a: constrain(split(a), None, ROWS), tree)
