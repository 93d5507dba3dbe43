"""Ways to compute attention: as one kernel of the device, by a rule, or in blocks of queries.

    GPU    cuDNN's flash attention: in bfloat16 and float16, for heads of at most 128 channels, a multiple of 8
    TPU    splash attention of `jax.experimental.pallas`: from `LONG` logits of a head on
    else   XLA, in blocks of queries where `config.network.attention` asks for them

A kernel never writes the logits (b, h, n, m) to memory, in either direction. `config.network.kernel` replaces the
rule "auto" by the name of a kernel, or by "xla". On a mesh each device computes its rows, its heads and its queries.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import AxisType, PartitionSpec

from jvflow.parallel.sharding import ROWS, SEQUENCE, TENSOR

LONG = 2**20
"""Logits of a head from which splash attention pays: for 256 tokens XLA is as fast."""
BLOCK = 512
"""Queries and keys that splash attention holds at a time."""
LANES = 128
"""The sizes of splash attention's blocks are multiples of this."""
MAX_HEAD = 128
"""Channels of a head that cuDNN takes on every GPU."""


def choose(name: str, platform: str, q, k) -> Callable | None:
    """Returns the kernel for q (b, n, h, d) and k (b, m, h, d), `(q, k, v, mask) -> (b, n, h, d)`; None for XLA.

    Args:
      name: "auto" for the rule above, a name of `KERNELS`, or "xla".
      platform: "cpu", "gpu" or "tpu": where the program runs.

    Raises:
      ValueError: for an unknown name, or inputs that the named kernel does not take.
    """
    n, d = q.shape[1], q.shape[-1]
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and d <= MAX_HEAD and d % 8 == 0
    if name == "auto":
        gpu, tpu = platform == "gpu" and fits, platform == "tpu" and n * k.shape[1] >= LONG
        name = "cudnn" if gpu else "splash" if tpu else "xla"
    if name == "xla":
        return None
    if name not in KERNELS:
        raise ValueError(f"unknown attention kernel {name!r}: use auto, {', '.join(KERNELS)} or xla")
    if platform != (needed := dict(cudnn="gpu", splash="tpu")[name]):
        raise ValueError(
            f"the attention kernel {name!r} runs on a {needed.upper()}, and this program on a {platform.upper()}: use "
            "config.network.kernel=auto"
        )
    if name == "cudnn" and not fits:
        raise ValueError(
            f"cudnn takes bfloat16 or float16 and heads of at most {MAX_HEAD} channels, a multiple of 8; got {q.dtype} "
            f"and {d}: use config.network.dtype=bfloat16, or config.network.kernel=xla"
        )
    return partial(on_mesh, KERNELS[name])


def cudnn(q, k, v, mask=None, *, implementation: str = "cudnn"):
    """Returns the attention by cuDNN; a mask (b, 1, 1, m) becomes the number of keys, which move to the front."""
    if mask is None:
        return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    mask = jnp.broadcast_to(mask[:, 0, 0], (len(q), k.shape[1]))
    order = jnp.argsort(~mask, axis=-1, stable=True)[:, :, None, None]
    k, v = (jnp.take_along_axis(a, order, axis=1) for a in (k, v))
    count = mask.sum(-1, dtype=jnp.int32)
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=count, implementation=implementation)


def splash(q, k, v, mask=None, *, interpret: bool = False):
    """Returns the attention by splash attention. Fills up queries and keys to whole blocks; `interpret` runs anywhere.

    The mask (b, 1, 1, m) is True for the keys that are attended to.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention  # takes a second

    (b, n, h, d), m = q.shape, k.shape[1]
    fill = lambda size: -(-size // LANES) * LANES if size <= BLOCK else -(-size // BLOCK) * BLOCK
    rows, keys = fill(n), fill(m)
    pad = lambda a, to: jnp.pad(a, ((0, 0), (0, to - a.shape[1]), (0, 0), (0, 0))).swapaxes(1, 2)
    q, k, v = pad(q * jnp.asarray(d**-0.5, q.dtype), rows), pad(k, keys), pad(v, keys)
    segments = None
    if mask is not None or keys > m:
        known = jnp.ones((b, m), bool) if mask is None else jnp.broadcast_to(mask[:, 0, 0], (b, m))
        known = jnp.pad(known, ((0, 0), (0, keys - m))).astype(jnp.int32)
        segments = splash_attention.SegmentIds(jnp.ones((b, rows), jnp.int32), known)
    one, other = min(BLOCK, rows), min(BLOCK, keys)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([splash_attention.FullMask((rows, keys))] * h),
        block_sizes=splash_attention.BlockSizes(**dict(zip(names, (one, other) * 3))),
        interpret=interpret,
    )
    return jax.vmap(kernel)(q, k, v, segments).swapaxes(1, 2)[:, :n]


def on_mesh(kernel: Callable, q, k, v, mask=None):
    """Calls a kernel on each device of the current mesh, for its rows, its heads, and its part of the queries."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return kernel(q, k, v, mask)

    def axis(name: str | tuple[str, ...], size: int):
        names = (name,) if isinstance(name, str) else name
        devices = 1
        for each in names:
            devices *= mesh.shape[each]
        return name if size % devices == 0 else None

    rows, heads = axis(ROWS, len(q)), axis(TENSOR, q.shape[2])
    queries = PartitionSpec(rows, axis(SEQUENCE, q.shape[1]), heads)
    arrays, specs = (q, k, v), (queries, PartitionSpec(rows, None, heads), PartitionSpec(rows, None, heads))
    if mask is not None:
        arrays, specs = (*arrays, jnp.broadcast_to(mask, (len(q), 1, 1, k.shape[1]))), (*specs, PartitionSpec(rows))
    return jax.shard_map(kernel, in_specs=specs, out_specs=queries, check_vma=False)(*arrays)


def in_blocks(q, k, v, query_block: int, mask=None, parts: int = 1):
    """Returns the attention by XLA, `query_block` queries at a time; the backward pass computes each block again.

    Each of `parts` equal parts of the queries, which may lie on different devices, is divided into blocks.
    """
    n = q.shape[1]
    parts = parts if n % parts == 0 else 1
    blocks = -(-n // query_block)  # per part of the sequence: every device has queries in every block
    each = -(-n // (parts * blocks))
    q = rearrange(q, "b (s n) h d -> b s n h d", s=parts)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, blocks * each - n // parts), (0, 0), (0, 0)))
    block = jax.checkpoint(lambda q: jax.nn.dot_product_attention(q, k, v, mask=mask))
    out = jax.lax.map(block, rearrange(q, "b s (m n) h d -> m b (s n) h d", m=blocks))
    out = rearrange(out, "m b (s n) h d -> b s (m n) h d", s=parts)[:, :, : n // parts]
    return out.reshape(len(q), n, *out.shape[3:])


KERNELS = {"cudnn": cudnn, "splash": splash}
