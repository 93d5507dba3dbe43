"""Checksums of trees of arrays, whatever devices the arrays are on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def checksums(state) -> dict[str, int]:
    """A number of 32 bits for each field of a state; it does not depend on how the arrays are sharded."""
    fields = state if isinstance(state, dict) else {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    sums = {}
    for name, tree in fields.items():
        total = 0
        for leaf in jax.device_get([_checksum(leaf) for leaf in jax.tree.leaves(tree)]):
            total = (31 * total + int(leaf)) % 2**32
        sums[name] = total
    return sums


def checksum_of(tree) -> str:
    """That of a single tree, as eight hexadecimal digits."""
    return f"{checksums({'': tree})['']:08x}"


def _checksum(array):
    """sum_i (2 i + 1) bits_i modulo 2^32: every change of a single element changes it.

    On the host, where nothing has to be compiled for each shape; on the devices of an array that no one process holds.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return _checksum_on_devices(array)
    array = np.ravel(np.asarray(array))
    bits = array if array.dtype == bool else array.view(f"uint{8 * min(array.dtype.itemsize, 4)}")
    index = np.arange(bits.size, dtype=np.uint32)
    return np.sum((2 * index + 1) * bits.astype(np.uint32), dtype=np.uint32)


@jax.jit
def _checksum_on_devices(array):
    if jnp.issubdtype(array.dtype, jnp.bool_):
        bits = array
    else:
        bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}"))
    index = jax.lax.iota(jnp.uint32, bits.size).reshape(bits.shape)
    return jnp.sum((2 * index + 1) * bits.astype(jnp.uint32), dtype=jnp.uint32)
