"""Meshes of devices, and batches on them.

    data        rows of the batch; parameters are copied
    fsdp        rows of the batch; parameters, their average and the optimizer's state are split
    sequence    tokens of each video: each device computes the attention of its tokens to all tokens
    tensor      attention heads, and the hidden layer of each MLP

A mesh has all four axes, most of them of size 1. One device is a mesh too, and runs the same code.
`jvflow.parallel.sharding` decides how the train state is split.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jvflow.parallel.sharding import AXES, DATA, FSDP, ROWS, SEQUENCE, TENSOR

# --- meshes ---------------------------------------------------------------------------------------


def make_mesh(sizes=None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over `devices`, by default over all devices of all processes.

    Its axes are Auto: the compiler propagates shardings.

    Args:
      sizes: a dict or `config.run.mesh`: the sizes of the axes, 1 if absent. One size may be -1: this axis takes the
        remaining devices. None puts all devices on `data`.

    Raises:
      ValueError: if the product of the sizes is not the number of devices; suggests a mesh that works.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dict.fromkeys(AXES, 1) | ({DATA: -1} if sizes is None else dict(sizes))
    given = ", ".join(f"{axis}={sizes[axis]}" for axis in AXES)
    if set(sizes) - set(AXES):
        raise ValueError(f"a mesh has the axes {', '.join(AXES)}, got {given}")
    free = [axis for axis in AXES if sizes[axis] == -1]
    if len(free) > 1 or any(size < 1 for axis, size in sizes.items() if axis not in free):
        raise ValueError(
            f"mesh axes have sizes of 1 or more, and at most one has -1 (the remaining devices), got {given}"
        )
    taken = int(np.prod([sizes[axis] for axis in AXES if axis not in free]))
    if free:
        sizes[free[0]] = len(devices) // taken
    if int(np.prod(list(sizes.values()))) != len(devices):
        works = dict(_working_sizes(sizes, len(devices)))
        raise ValueError(
            f"config.run.mesh ({given}) does not multiply to the {len(devices)} devices: use for example "
            + " ".join(f"--config.run.mesh.{axis}={size}" for axis, size in works.items())
        )
    # an axis may need a part of an axis of the slice: 16 of 8 x 8 chips
    grid = mesh_utils.create_device_mesh(tuple(sizes[axis] for axis in AXES), devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _working_sizes(sizes: dict[str, int], devices: int) -> Iterator[tuple[str, int]]:
    """Yields axis sizes near `sizes` whose product is the number of devices; `data` takes the remaining devices."""
    left = devices
    for axis in (TENSOR, SEQUENCE, FSDP):
        size = max(n for n in range(1, left + 1) if left % n == 0 and n <= max(sizes[axis], 1))
        left //= size
        yield axis, size
    yield DATA, left


def local_mesh() -> Mesh:
    """Returns a mesh over the devices of this process, all on `data`: for work that each process does alone."""
    return make_mesh(devices=jax.local_devices())


def describe(mesh: Mesh) -> str:
    """Returns the devices of a mesh and its axes that are split, such as "8 TPU v5 lite devices, data 4, fsdp 2"."""
    split = [f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1]
    device = mesh.devices.flat[0]
    return ", ".join([name_devices(mesh.size, device.platform, device.device_kind), *split])


def name_devices(count: int, platform: str, kind: str) -> str:
    """Returns a number of devices with their platform and kind, such as "1 CPU device", "2 GPU NVIDIA H200 devices"."""
    platform = platform.upper()
    rest = kind[len(platform) :] if kind.upper().startswith(platform) else f" {kind}"
    return f"{count} {platform}{rest} device{'s' if count > 1 else ''}"


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that holds the whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def to_local_devices(tree):
    """Replicates the arrays of a mesh on the devices of this process (`local_mesh`). All processes must call it."""
    if not all(array.is_fully_replicated for array in jax.tree.leaves(tree)):
        everywhere = jax.tree.map(lambda array: replicated(array.sharding.mesh), tree)
        tree = jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)
    here = replicated(local_mesh())
    return jax.tree.map(lambda array: jax.device_put(array.addressable_data(0), here), tree)


# --- batches --------------------------------------------------------------------------------------


def check_batch(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises ValueError if data x fsdp x `microbatches` does not divide the global batch size."""
    if microbatches < 1:
        raise ValueError(f"config.run.microbatches must be 1 or more, got {microbatches}")
    parts = mesh.shape[DATA] * mesh.shape[FSDP] * microbatches
    if batch_size % parts:
        each = f" in {microbatches} microbatches" if microbatches > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of the {mesh.shape[DATA] * mesh.shape[FSDP]} devices "
            f"(data {mesh.shape[DATA]} x fsdp {mesh.shape[FSDP]}){each}: use {-(-batch_size // parts) * parts}, "
            "or give devices to config.run.mesh.sequence or tensor"
        )


def check_split(heads: int, tokens: int, video: tuple, mesh) -> None:
    """Raises ValueError if a mesh cannot split the heads, or the tokens of a video (frames, height, width)."""
    tensor, sequence = mesh.shape[TENSOR], mesh.shape[SEQUENCE]
    works = lambda n, size: max(k for k in range(1, size + 1) if n % k == 0 and size % k == 0)
    if heads % tensor:
        size = works(heads, tensor)
        raise ValueError(
            f"config.run.mesh.tensor={tensor} does not divide the {heads} heads: use "
            f"--config.run.mesh.tensor={size} --config.run.mesh.sequence={tensor // size * sequence}, "
            "which splits the tokens"
        )
    if tokens % sequence:
        size = works(tokens, sequence)
        raise ValueError(
            f"config.run.mesh.sequence={sequence} does not divide the {tokens} tokens of a video {tuple(video)}: "
            f"use --config.run.mesh.sequence={size} --config.run.mesh.fsdp={sequence // size * mesh.shape[FSDP]}"
        )


def local_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """Returns the rows of the global batch on this process's devices; other processes may read some of them too."""
    slices = batched(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})


def put_batch(batch, mesh: Mesh, batch_size: int):
    """Makes global arrays of `batch_size` rows from NumPy arrays with this process's `local_rows`."""
    sharding = batched(mesh)
    put = lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a), (batch_size, *np.shape(a)[1:]))
    return jax.tree.map(put, batch)
