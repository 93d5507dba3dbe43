"""Meshes and shardings: where arrays live.

    data        rows of the batch; parameters are copied
    fsdp        rows of the batch too; parameters, their average and the optimizer's state are split
    sequence    tokens of each video: each device attends from its part of them to all
    tensor      heads, and the hidden layer of each MLP

A mesh has all four axes, most of size 1; one device is a mesh too, and the same code. How the train
state is split is decided for all of it from shapes, before any array exists: by the table of rules
of its network (`Network.rules`), and where an axis does not divide, by what is said in `Decision`.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jvflow.parallel.constrain import AXES, DATA, FSDP, LORA, ROWS, SEQUENCE, TENSOR, Rules, constrain

SMALL = 2**14
"""Arrays of fewer elements are copied to every device."""



def make(sizes: dict[str, int] | None = None, devices: Sequence | None = None) -> Mesh:
    """A mesh over all devices of all processes, or over those given. Its axes are Auto: the compiler propagates shardings.

    Args:
      sizes: of the axes, 1 where absent; -1 for one of them takes the devices that are left. All are on `data` when None.

    Raises:
      ValueError: when the sizes do not multiply to the devices; names a mesh that would work.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dict.fromkeys(AXES, 1) | ({DATA: -1} if sizes is None else dict(sizes))
    given = ", ".join(f"{axis}={sizes[axis]}" for axis in AXES)
    if set(sizes) - set(AXES):
        raise ValueError(f"a mesh has the axes {', '.join(AXES)}, got {given}")
    free = [axis for axis in AXES if sizes[axis] == -1]
    if len(free) > 1 or any(size < 1 for axis, size in sizes.items() if axis not in free):
        raise ValueError(f"sizes of mesh axes are 1 or more, and -1 for at most one that takes what is left, got {given}")
    taken = int(np.prod([sizes[axis] for axis in AXES if axis not in free]))
    if free:
        sizes[free[0]] = len(devices) // taken
    if int(np.prod(list(sizes.values()))) != len(devices):
        works = dict(_working(sizes, len(devices)))
        raise ValueError(
            f"config.run.mesh ({given}) does not multiply to the {len(devices)} devices: use for example "
            + " ".join(f"--config.run.mesh.{axis}={size}" for axis, size in works.items())
        )
    # an axis may be a part of an axis of the slice: 16 of 8 x 8 chips
    grid = mesh_utils.create_device_mesh(tuple(sizes[axis] for axis in AXES), devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _working(sizes: dict[str, int], devices: int):
    """Sizes near those given that multiply to the devices: the inner axes keep what divides, `data` takes the rest."""
    left = devices
    for axis in (TENSOR, SEQUENCE, FSDP):
        size = max(n for n in range(1, left + 1) if left % n == 0 and n <= max(sizes[axis], 1))
        left //= size
        yield axis, size
    yield DATA, left


def describe(mesh: Mesh) -> str:
    """The axes of a mesh that are split, such as "8 devices, data 4, fsdp 2"."""
    split = [f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1]
    return ", ".join([f"{mesh.size} device{'s' * (mesh.size > 1)}", *split])


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


# --- batches --------------------------------------------------------------------------------------


def check_batch(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises a ValueError when the global batch cannot be split over the mesh, in so many parts one after the other."""
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


def rows(batch_size: int, mesh: Mesh) -> list[int]:
    """The rows of the global batch that this process has to read: those of its devices, which other processes may need too."""
    slices = batched(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})


def put(batch, mesh: Mesh, batch_size: int):
    """The process's `rows` of a batch (NumPy) as global arrays of `batch_size` rows."""
    sharding = batched(mesh)
    one = lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a), (batch_size, *np.shape(a)[1:]))
    return jax.tree.map(one, batch)


def microbatched(tree, count: int):
    """Arrays (b, ...) as (count, b / count, ...), each device's rows spread over all parts: nothing moves between devices."""
    split = lambda a: a.reshape(len(a) // count, count, *a.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(lambda a: constrain(split(a), None, ROWS), tree)


# --- the train state ------------------------------------------------------------------------------


class Decision(NamedTuple):
    """How one array is split, and why so."""

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    why: str

    def __str__(self) -> str:
        spec = ", ".join(str(axis) for axis in self.spec) or "copied"
        return f"{self.path} {self.shape}: {spec}; {self.why}"


def decide(tree, rules: Rules, mesh: Mesh) -> list[Decision]:
    """How each array of a tree (of arrays or their shapes) is split over the mesh, in the order of its leaves."""
    return [_decide(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, rules, mesh) for path, leaf in jax.tree.leaves_with_path(tree)]


def shardings(tree, rules: Rules, mesh: Mesh) -> Any:
    """The tree with the sharding of each array in its place, see `decide`."""
    found = [NamedSharding(mesh, decision.spec) for decision in decide(tree, rules, mesh)]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _decide(path: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> Decision:
    if int(np.prod(shape)) < SMALL:
        return Decision(path, shape, PartitionSpec(), f"fewer than {SMALL} elements")
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
    """The expression that fits a path, and the mesh axes of its last axes; nothing where none fits."""
    layer, _, name = path.rpartition("/")
    kernel = f"{layer}/kernel" if name in LORA else path
    pattern, last = next(((p, axes) for p, axes in rules if re.search(p, kernel)), ("", ()))
    return pattern, {"lora_a": (*last[:1], None), "lora_b": (None, *last[1:]), "lora_scale": ()}.get(name, last) if last else ()


def here() -> Mesh:
    """The devices of this process, rows split over all of them: for work that each process does alone."""
    return make(devices=jax.local_devices())


def local(tree):
    """Arrays on a mesh, each whole on every device of this process, see `here`. All processes must ask."""
    if not all(array.is_fully_replicated for array in jax.tree.leaves(tree)):
        everywhere = jax.tree.map(lambda array: NamedSharding(array.sharding.mesh, PartitionSpec()), tree)
        tree = jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)
    everywhere = replicated(here())
    return jax.tree.map(lambda array: jax.device_put(array.addressable_data(0), everywhere), tree)
