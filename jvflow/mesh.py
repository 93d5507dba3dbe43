"""Meshes and shardings: where arrays live.

One mesh axis, `data`: the global batch is split along it over all devices of all processes, the
train state is replicated. A mesh of one device is the same code.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make() -> Mesh:
    """A mesh over all devices of all processes. Axes are Auto: the compiler propagates shardings."""
    return jax.make_mesh((len(jax.devices()),), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over `data`."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises a ValueError when the global batch cannot be split over the mesh."""
    devices = mesh.shape[DATA]
    if batch_size % devices:
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of the {devices} devices: "
            f"use {-(-batch_size // devices) * devices}"
        )


def put(batch, mesh: Mesh):
    """The process's rows of a batch (NumPy) as global arrays, split over `data`."""
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(batched(mesh), np.asarray(a)), batch)
