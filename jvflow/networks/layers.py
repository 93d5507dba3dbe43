"""Layers that networks share: linear layers, attention, modulation, stacks of layers, and embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jvflow.networks import attention as ways
from jvflow.parallel.sharding import ROWS, SEQUENCE, TENSOR

FREQUENCIES = 256
"""Width of the sinusoidal features of a coordinate."""

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""The checkpoint policies. For the backward pass they save everything, only a layer's input, or the results of its
matrix products outside attention."""


def check_remat(name: str) -> None:
    """Raises ValueError if `REMAT` has no such name."""
    if name not in REMAT:
        raise ValueError(f"unknown remat {name!r}: use one of {', '.join(REMAT)}")


class Linear(nnx.Linear):
    """A linear layer over the last axis, computed as one product of two matrices.

    It merges the leading axes, so the kernel's gradient is a plain matrix product too. XLA on a CPU runs that about
    twice as fast as the same contraction over two axes.
    """

    def __call__(self, x):
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def linear(n, m, rngs, dtype, kernel=nnx.initializers.xavier_uniform()):  # noqa: B008 (a pure function)
    return Linear(n, m, rngs=rngs, dtype=dtype, kernel_init=kernel)


def attention(q, k, v, query_block: int = 0, mask=None, kernel: str = "auto"):
    """Returns softmax(q k^T / sqrt(d)) v for q (b, n, h, d), k and v (b, m, h, d).

    Args:
      query_block: how many queries XLA computes at a time, so that memory is linear in n; 0 for all at once. The
        backward pass computes each block again.
      mask: (b, 1, 1, m), True for the keys that are attended to; None for all keys.
      kernel: "auto" for the rule of `jvflow.networks.attention`, or the name of a kernel there; "xla" for none.
    """
    q, k, v = constrain_qkv(q, k, v)
    if (kernel, platform()) != ("auto", "cpu") and (fused := ways.choose(kernel, platform(), q, k)):
        return fused(q, k, v, mask)
    if not query_block or q.shape[1] <= query_block:
        return jax.nn.dot_product_attention(q, k, v, mask=mask)
    return ways.in_blocks(q, k, v, query_block, mask, axis_size(SEQUENCE))


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


def platform() -> str:
    """Returns where the program runs that is being traced: "cpu", "gpu" or "tpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def axis_size(axis: str) -> int:
    """Returns the size of an axis of the current mesh, 1 if no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[axis]


def constrain_qkv(q, k, v):
    """Gives each device of a mesh, for its heads, all keys and values and the queries of its part of the sequence."""
    return constrain(q, ROWS, SEQUENCE, TENSOR), *(constrain(a, ROWS, None, TENSOR) for a in (k, v))


def normalize(x, epsilon: float = 1e-6, *, centre: bool = True):
    """Divides the last axis by its root mean square in float32, with `centre` after subtracting its mean."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True) if centre else y
    return (y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + epsilon)).astype(x.dtype)


def modulate(x, shift, scale):
    """Scales and shifts tokens (b, n, d) by (b, m, d), one for each of m groups of n / m consecutive tokens."""
    groups = x.reshape(len(x), scale.shape[1], -1, x.shape[-1])
    return (groups * (1 + scale[:, :, None]) + shift[:, :, None]).reshape(x.shape)


def apply_gate(x, gate):
    """Multiplies tokens (b, n, d) by gates (b, m, d), one for each group as in `modulate`."""
    return (x.reshape(len(x), gate.shape[1], -1, x.shape[-1]) * gate[:, :, None]).reshape(x.shape)


def make_layers(make, depth: int, rngs, *, scan: bool):
    """Returns `depth` layers `make(rngs)` as a list, or with `scan` as one module with a leading layer axis."""
    return nnx.vmap(make)(rngs.split(depth)) if scan else nnx.List([make(rngs) for _ in range(depth)])


def apply_layers(layers, x, apply, *, scan: bool, remat: str):
    """Applies `x = apply(layer, x)` for each layer of `make_layers`.

    Args:
      scan: as in `make_layers`; the layer is then compiled only once.
      remat: a key of `REMAT`.
    """

    def step(graph, x, parameters):
        return apply(nnx.merge(graph, parameters), x)

    step = jax.checkpoint(step, static_argnums=0, policy=REMAT[remat]) if REMAT[remat] else step
    if scan:
        graph, stacked = nnx.split(layers)
        return jax.lax.scan(lambda x, parameters: (step(graph, x, parameters), None), x, stacked)[0]
    for graph, parameters in [nnx.split(layer) for layer in layers]:
        x = step(graph, x, parameters)
    return x


def sinusoidal_features(s, width: int, *, shift: int = 0):
    """Returns cosines and then sines of s (...), as (..., width).

    The frequencies are 10000^(-i / (half - shift)), i = 0 .. half - 1, with half = width / 2.
    """
    half = width // 2
    omega = jnp.asarray(np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)), jnp.float32)
    angles = s[..., None].astype(jnp.float32) * omega.reshape((1,) * s.ndim + (half,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Embedder(nnx.Module):
    """An MLP over the sinusoidal features of a coordinate: (b,) or (b, frames) -> (b, 1 or frames, width)."""

    def __init__(self, width: int, *, scale: float, shift: int, dtype, rngs):
        normal = nnx.initializers.normal(0.02)
        self.hidden = linear(FREQUENCIES, width, rngs, dtype, normal)
        self.out = linear(width, width, rngs, dtype, normal)
        self.scale, self.shift = scale, shift

    def __call__(self, s):
        s = self.scale * (s[:, None] if s.ndim == 1 else s).astype(jnp.float32)
        return self.out(nnx.silu(self.hidden(sinusoidal_features(s, FREQUENCIES, shift=self.shift))))


class Conditioning(nnx.Module):
    """The sum c (b, 1 or frames, width) of the embeddings of coordinates and class labels."""

    def __init__(self, config, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        options = dict(scale=config.time_scale, shift=config.frequency_shift, dtype=dtype, rngs=rngs)
        self.embedders = nnx.List([Embedder(d, **options) for _ in range(config.coordinates)])
        if config.labels:
            normal = nnx.initializers.normal(0.02)
            self.labels = nnx.Embed(config.labels + 1, d, rngs=rngs, dtype=dtype, embedding_init=normal)
        self.no_label = config.labels

    def __call__(self, s: tuple, label=None):
        c = sum(embed(coordinate) for embed, coordinate in zip(self.embedders, s))
        if self.no_label and label is not None:
            c = c + self.labels(jnp.where(label < 0, self.no_label, label))[:, None]
        return c


def position_table(grid: tuple[int, int, int], width: int, starts: tuple[float, ...] = (0.0,)) -> np.ndarray:
    """Returns the sine table (tokens, width): columns use half of the channels, rows the other half, frames all."""

    def sines(positions, width):
        angles = positions[:, None] * 10000.0 ** -(np.arange(width // 2) / (width / 2))
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    f, h, w = (np.arange(n, dtype=np.float64) for n in grid)
    f = np.add.outer(starts, f[: len(f) // len(starts)]).reshape(-1)  # chunks of equal length begin at `starts`
    columns, rows = sines(w, width // 2)[None], sines(h, width // 2)[:, None]
    half = (len(h), len(w), width // 2)
    space = np.concatenate([np.broadcast_to(columns, half), np.broadcast_to(rows, half)], axis=-1)
    table = space[None] + (sines(f, width)[:, None, None] if len(f) > 1 else 0)
    return table.reshape(-1, width).astype(np.float32)
