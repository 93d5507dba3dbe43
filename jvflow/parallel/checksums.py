"""Checksums of trees of arrays, independent of the sharding of the arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def tree_checksum(tree) -> str:
    """Returns the checksum of a tree of arrays as eight hexadecimal digits."""
    return f"{_tree_sum(tree):08x}"


def field_checksums(state) -> dict[str, int]:
    """Returns a checksum of 32 bits for each field of a dataclass or entry of a dict."""
    fields = state if isinstance(state, dict) else {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: _tree_sum(tree) for name, tree in fields.items()}


def _tree_sum(tree) -> int:
    total = 0
    for leaf in jax.device_get([_array_sum(leaf) for leaf in jax.tree.leaves(tree)]):
        total = (31 * total + int(leaf)) % 2**32
    return total


def _array_sum(array):
    """Returns sum_i (2 i + 1) bits_i modulo 2^32: every change of a single element changes it.

    Sums on the host, without compilation, unless the array is spread over several processes.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return _array_sum_on_devices(array)
    array = np.ravel(np.asarray(array))
    bits = array if array.dtype == bool else array.view(f"uint{8 * min(array.dtype.itemsize, 4)}")
    index = np.arange(bits.size, dtype=np.uint32)
    return np.sum((2 * index + 1) * bits.astype(np.uint32), dtype=np.uint32)


@jax.jit
def _array_sum_on_devices(array):
    if jnp.issubdtype(array.dtype, jnp.bool_):
        bits = array
    else:
        bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}"))
    index = jax.lax.iota(jnp.uint32, bits.size).reshape(bits.shape)
    return jnp.sum((2 * index + 1) * bits.astype(jnp.uint32), dtype=jnp.uint32)
