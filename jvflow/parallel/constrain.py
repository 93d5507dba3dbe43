"""Names of mesh axes, and constraints on arrays inside a compiled program.

    data        rows of the batch; parameters are copied
    fsdp        rows of the batch; parameters, their average and the optimizer's state are split
    sequence    tokens of each video
    tensor      attention heads, and the hidden layer of each MLP

`jvflow.parallel.mesh` makes the mesh and decides how the train state is split.
"""

import jax
import numpy as np
from jax.sharding import PartitionSpec

DATA, FSDP, SEQUENCE, TENSOR = AXES = ("data", "fsdp", "sequence", "tensor")
ROWS = (DATA, FSDP)
"""The axes that the rows of a batch are split over."""

LORA = ("lora_a", "lora_b", "lora_scale")
"""Names of what is beside a tuned kernel (in, out), see `jvflow.training.lora`: (in, r), (r, out) and a number; split as the kernel is along the axis that each shares with it."""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]
"""Of a network: (expression searched in the path of an array, mesh axes of its last axes), the first that fits."""


def constrain(x, *axes: str | tuple[str, ...] | None):
    """`x` with its first axes on these axes of the mesh that is set, the others as the compiler likes; `x` itself where none is set.

    An axis that its mesh axes do not divide is left to the compiler: the network also runs on single examples.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    size = lambda axis: int(np.prod([mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis or ())]))
    free = PartitionSpec.UNCONSTRAINED
    spec = [axis if n % size(axis) == 0 else free for axis, n in zip(axes, x.shape)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec, *[free] * (x.ndim - len(spec))))


def axis_size(axis: str) -> int:
    """Of an axis of the mesh that is set, 1 where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[axis]
