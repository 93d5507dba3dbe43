"""Layers that networks share: linear ones, attention by heads, sines of numbers and places, and what coordinates and labels become."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from jvflow.parallel.constrain import LORA, ROWS, SEQUENCE, TENSOR, axis_size, constrain

FREQUENCIES = 256  # width of the sine features of a coordinate
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass finds of a block: all, its input alone, or the results of its matrix products but attention's."""


def check_remat(name: str) -> None:
    """Raises a ValueError for a name that is not of `REMAT`."""
    if name not in REMAT:
        raise ValueError(f"unknown remat {name!r}: use one of {', '.join(REMAT)}")


class Linear(nnx.Linear):
    """A linear layer over the last axis, as one product of two matrices.

    With the leading axes merged the weight's gradient is a plain product too, which XLA on a CPU
    runs about twice as fast as the same contraction over two axes.
    """

    def __call__(self, x):
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _tuned(kind: type[nnx.Linear]) -> type[nnx.Linear]:
    """The linear layer that is tuned by matrices of low rank, equation (1) of `jvflow.training.lora`."""

    class Tuned(kind):
        def __call__(self, x):
            dtype = self.dtype or jnp.result_type(x, self.lora_a[...])
            a, b, scale = (array[...].astype(dtype) for array in (self.lora_a, self.lora_b, self.lora_scale))
            return super().__call__(x) + scale * ((x.astype(dtype) @ a) @ b)

    return Tuned


TUNED = {kind: _tuned(kind) for kind in (nnx.Linear, Linear)}


def beside(module: nnx.Module, paths: frozenset) -> nnx.Module:
    """The module, with places for matrices of low rank in the linear layers at these paths."""
    for path, layer in nnx.iter_graph(module) if paths else ():
        if path in paths:
            layer.__class__ = TUNED[type(layer)]
            for name in LORA:
                setattr(layer, name, nnx.Param(jnp.zeros(())))
    return module


def linear(n, m, rngs, dtype, kernel=nnx.initializers.xavier_uniform()):
    return Linear(n, m, rngs=rngs, dtype=dtype, kernel_init=kernel)


def attended(q, k, v, heads: int, mask=None):
    """Queries (b, n, d) to keys and values (b, m, d), heads one after the other, where the mask (b or 1, 1, n or 1, m) lets them: (b, n, d)."""
    q, k, v = (rearrange(a, "b n (h d) -> b n h d", h=heads) for a in (q, k, v))
    return rearrange(jax.nn.dot_product_attention(q, k, v, mask=mask), "b n h d -> b n (h d)")


def attention(q, k, v, at_once: int = 0, seen=None):
    """softmax(q k^T / sqrt(d)) v of queries (b, n, heads, d), `at_once` of them at a time, each block again in the backward pass.

    The mask `seen` (b, 1, 1, m) says which keys are seen; all of them when None.
    """
    q, k, v = placed(q, k, v)
    n, parts = q.shape[1], axis_size(SEQUENCE)
    if not at_once or n <= at_once:
        return jax.nn.dot_product_attention(q, k, v, mask=seen)
    parts = parts if n % parts == 0 else 1
    blocks = -(-n // at_once)  # of each part of the sequence: a device has queries of its own in every block
    each = -(-n // (parts * blocks))
    q = rearrange(q, "b (s n) h d -> b s n h d", s=parts)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, blocks * each - n // parts), (0, 0), (0, 0)))
    block = jax.checkpoint(lambda q: jax.nn.dot_product_attention(q, k, v, mask=seen))
    attended = jax.lax.map(block, rearrange(q, "b s (m n) h d -> m b (s n) h d", m=blocks))
    return rearrange(attended, "m b (s n) h d -> b s (m n) h d", s=parts)[:, :, : n // parts].reshape(len(q), n, *q.shape[3:])


def placed(q, k, v):
    """On a mesh each device has the queries of its part of the sequence, and all keys and values, for any number of heads."""
    return constrain(q, ROWS, SEQUENCE, TENSOR), *(constrain(a, ROWS, None, TENSOR) for a in (k, v))


def normed(x, epsilon: float = 1e-6, *, centre: bool = True):
    """The last axis over its deviation, or over its root mean square; in float32, and nothing in it is learned."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True) if centre else y
    return (y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + epsilon)).astype(x.dtype)


def modulated(x, shift, scale):
    """Tokens (b, n, d) under shift and scale (b, m, d), one for each of m groups of n / m tokens that follow one another."""
    return (_groups(x, scale) * (1 + scale[:, :, None]) + shift[:, :, None]).reshape(x.shape)


def gated(x, gate):
    """Tokens (b, n, d) times (b, m, d), as of `modulated`."""
    return (_groups(x, gate) * gate[:, :, None]).reshape(x.shape)


def _groups(x, of):
    return x.reshape(len(x), of.shape[1], -1, x.shape[-1])


def layers_of(make, depth: int, rngs, *, scan: bool):
    """So many layers that are alike, `make(rngs)` each: a list, or with `scan` one module whose parameters have a leading layer axis. See `through`."""
    return nnx.vmap(make)(rngs.split(depth)) if scan else nnx.List([make(rngs) for _ in range(depth)])


def through(blocks, x, layer, *, scan: bool, remat: str):
    """`x` through layers that are alike, one after the other: `layer(block, x)`.

    Args:
      blocks: a list of modules, or with `scan` one whose parameters have a leading layer axis; it is compiled once then.
      remat: a name of `REMAT`.
    """

    def step(graph, x, parameters):
        return layer(nnx.merge(graph, parameters), x)

    step = jax.checkpoint(step, static_argnums=0, policy=REMAT[remat]) if REMAT[remat] else step
    if scan:
        graph, layers = nnx.split(blocks)
        return jax.lax.scan(lambda x, parameters: (step(graph, x, parameters), None), x, layers)[0]
    for graph, parameters in [nnx.split(block) for block in blocks]:
        x = step(graph, x, parameters)
    return x


class TimeMLP(nnx.Module):
    """Sines of a time to what modulates the layers, under the names that the public checkpoints have for it."""

    def __init__(self, inputs: int, width: int, rngs, dtype=None):
        self.linear_1 = nnx.Linear(inputs, width, rngs=rngs, dtype=dtype)
        self.linear_2 = nnx.Linear(width, width, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        return self.linear_2(nnx.silu(self.linear_1(x)))


def sines(s, width: int, *, shift: int = 0):
    """Numbers (...) -> (..., width): half cosines and then half sines, of frequencies 10000^(-i / (half - shift)), i = 0 .. half - 1."""
    half = width // 2
    omega = jnp.asarray(np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)), jnp.float32)
    angles = s[..., None].astype(jnp.float32) * omega.reshape((1,) * s.ndim + (half,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Embedder(nnx.Module):
    """A coordinate (b,) or (b, frames) -> (b, 1 or frames, width), through its sines and an MLP."""

    def __init__(self, width: int, *, scale: float, shift: int, dtype, rngs):
        normal = nnx.initializers.normal(0.02)
        self.hidden = linear(FREQUENCIES, width, rngs, dtype, normal)
        self.out = linear(width, width, rngs, dtype, normal)
        self.scale, self.shift = scale, shift

    def __call__(self, s):
        s = self.scale * (s[:, None] if s.ndim == 1 else s).astype(jnp.float32)
        return self.out(nnx.silu(self.hidden(sines(s, FREQUENCIES, shift=self.shift))))


class Conditioning(nnx.Module):
    """Coordinates and labels -> c (b, 1 or frames, width): one embedder for each coordinate, and a table of labels where there are some."""

    def __init__(self, config, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        of = dict(scale=config.time_scale, shift=config.frequency_shift, dtype=dtype, rngs=rngs)
        self.embedders = nnx.List([Embedder(d, **of) for _ in range(config.coordinates)])
        if config.labels:
            self.labels = nnx.Embed(config.labels + 1, d, rngs=rngs, dtype=dtype, embedding_init=nnx.initializers.normal(0.02))
        self.none = config.labels

    def __call__(self, s: tuple, label=None):
        c = sum(embed(coordinate) for embed, coordinate in zip(self.embedders, s))
        if self.none and label is not None:
            c = c + self.labels(jnp.where(label < 0, self.none, label))[:, None]
        return c


def position_table(grid: tuple[int, int, int], width: int) -> np.ndarray:
    """The fixed sine table (tokens, width): half the width for rows, half for columns; frames are added.

    At one frame it is the table of DiT.
    """

    def sines(positions, width):
        omega = 10000.0 ** -(np.arange(width // 2) / (width / 2))
        angles = positions[:, None] * omega
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    f, h, w = (np.arange(n, dtype=np.float64) for n in grid)
    space = np.concatenate(
        [np.broadcast_to(sines(w, width // 2)[None], (len(h), len(w), width // 2)),
         np.broadcast_to(sines(h, width // 2)[:, None], (len(h), len(w), width // 2))], axis=-1)
    table = space[None] + (sines(f, width)[:, None, None] if len(f) > 1 else 0)
    return table.reshape(-1, width).astype(np.float32)
