"""The transformer of Wan 2.1 (arXiv 2503.20314), text to video: patches of the latents are tokens.

    tokens = W patches                                c = MLP(sines(timestep)), one for each group of tokens or for all
    tokens = tokens + gate attention(...), + attention to text of norm(tokens), + gate mlp(...)      depth times; scale, shift and gate as of LTX-Video
    output = W' ((1 + scale) norm(tokens) + shift)    noise - data

Norms are over mean and deviation, in float32. Queries and keys are normed over their full width, heads together, and each head is rotated by the
number of its token's frame, row and column:

    angle_i = n 10000^(-2 i / k)                      i = 0 .. k / 2 - 1, for each axis; of a head of 128 channels frames have k = 44, rows and columns 42

The text is padded with zeros, which all tokens see.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from jvflow.flow.field import Condition
from jvflow.parallel.constrain import ROWS, constrain
from jvflow.networks.base import Network, check_split, functional
from jvflow.networks.layers import FREQUENCIES, TimeMLP, gated, layers_of, modulated, normed, sines, through
from jvflow.networks.video import MLP, VIDEO_RULES, Attention, Captions, VideoConfig, by_row, check_told, line

RULES = VIDEO_RULES
"""How its parameters are split, see `jvflow.parallel.mesh`."""


@dataclass(frozen=True)
class WanConfig(VideoConfig):
    """The sizes of a `Wan`, see `VideoConfig`; the defaults are those of Wan 2.1 1.3B.

    Attributes:
      hidden: of the MLPs.
      patch: places of the latents to a token (frames, rows, columns).
      norm_text: the tokens are normed before they attend to the text.
    """

    depth: int = 30
    heads: int = 12
    head: int = 128
    channels: int = 16
    outputs: int = 16
    hidden: int = 8960
    patch: tuple[int, int, int] = (1, 2, 2)
    norm_text: bool = True


class Wan(nnx.Module):
    """See the top of the file.

    `(latents (b, f, h, w, channels), timestep (b, m) of 0 .. 1000, text (b, k, captions)) -> (b, f, h, w, outputs)`; a timestep for all tokens,
    for each, or for each of m groups that follow one another, such as frames.
    """

    def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.config = config
        self.patch_embedding = nnx.Conv(config.channels, d, config.patch, strides=config.patch, padding="VALID", dtype=dtype, rngs=rngs)
        self.condition_embedder = ConditionEmbedder(config, rngs)
        self.blocks = layers_of(partial(Block, config), config.depth, rngs, scan=config.scan)
        self.proj_out = line(d, config.outputs * math.prod(config.patch), rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (1, 2, d)) / d**0.5)

    def __call__(self, latents, timestep, text):
        x = self.patch_embedding(latents)
        shape = x.shape[1:4]
        x = by_row(rearrange(x, "b f h w d -> b (f h w) d"))
        c, embedded, text = self.condition_embedder(timestep, text)
        angles = rotation(shape, self.config)
        x = through(self.blocks, x, lambda block, x: block(x, c, text, angles), scan=self.config.scan, remat=self.config.remat)
        shift, scale = jnp.moveaxis(self.scale_shift_table[...][:, None] + embedded[:, :, None], 2, 0)
        y = self.proj_out(modulated(normed(x.astype(jnp.float32), self.config.epsilon), shift, scale).astype(x.dtype)).astype(jnp.float32)
        f, h, w = shape
        p, q, r = self.config.patch
        return rearrange(y, "b (f h w) (p q r c) -> b (f p) (h q) (w r) c", f=f, h=h, w=w, p=p, q=q, r=r)


class ConditionEmbedder(nnx.Module):
    """The timestep, embedded, what modulates all layers, and the text."""

    def __init__(self, config: WanConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.time_embedder = TimeMLP(FREQUENCIES, d, rngs, dtype)
        self.time_proj = line(d, 6 * d, rngs, dtype)
        self.text_embedder = Captions(config.captions, d, rngs, dtype)

    def __call__(self, timestep, text):
        embedded = constrain(self.time_embedder(sines(timestep, FREQUENCIES)), ROWS, None, None)
        return constrain(self.time_proj(nnx.silu(embedded)), ROWS, None, None), embedded, self.text_embedder(text)


class Block(nnx.Module):
    """A layer: attention of all tokens to all, to the text, and an MLP."""

    def __init__(self, config: WanConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        attention = lambda: Attention(d, config.heads, rngs, dtype, epsilon=config.epsilon, at_once=config.attention)
        self.attn1, self.attn2 = attention(), attention()
        if config.norm_text:
            self.norm2 = nnx.LayerNorm(d, epsilon=config.epsilon, use_fast_variance=False, rngs=rngs)
        self.ffn = MLP(d, config.hidden, rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (1, 6, d)) / d**0.5)
        self.norm_text, self.epsilon = config.norm_text, config.epsilon

    def __call__(self, x, c, text, angles):
        values = self.scale_shift_table[...][:, None] + rearrange(c.astype(jnp.float32), "b n (k d) -> b n k d", k=6)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.moveaxis(values, 2, 0)
        into = lambda shift, scale: by_row(modulated(normed(x.astype(jnp.float32), self.epsilon), shift, scale).astype(x.dtype))
        plus = lambda y, gate: by_row((x.astype(jnp.float32) + gated(y.astype(jnp.float32), gate)).astype(x.dtype))
        y = into(shift_a, scale_a)
        x = plus(self.attn1(y, y, angles=angles), gate_a)
        y = self.norm2(x.astype(jnp.float32)).astype(x.dtype) if self.norm_text else x
        x = by_row(x + self.attn2(y, text))
        return plus(self.ffn(into(shift_m, scale_m)), gate_m)


def rotation(shape: tuple[int, int, int], config: WanConfig) -> tuple[Array, Array]:
    """Cosine and sine (1, n, width / 2) of the angles of tokens (f, h, w): the same in all heads."""
    of_space = 2 * (config.head // 6)
    angles = []
    for axis, (count, channels) in enumerate(zip(shape, (config.head - 2 * of_space, of_space, of_space))):
        turns = np.outer(np.arange(count), 10000.0 ** (-np.arange(0, channels, 2) / channels))
        around = [1, 1, 1, -1]
        around[axis] = count
        angles.append(np.broadcast_to(turns.reshape(around), (*shape, turns.shape[-1])))
    angles = repeat(np.concatenate(angles, axis=-1), "f h w m -> 1 (f h w) (heads m)", heads=config.heads)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


# --- as a field -----------------------------------------------------------------------------------


def build(*, channels: int, text_width: int, coordinates: int = 1, velocities: int = 1, **sizes) -> Network:
    """The network of these fields of `WanConfig` as a field of latents of so many channels, told captions of this width."""
    check_told("Wan", coordinates, velocities, text_width)
    network = functional(Wan, WanConfig(channels=channels, outputs=channels, captions=text_width, **sizes), RULES)
    return network._replace(apply=partial(field, network))


def grid(config: WanConfig, shape: tuple) -> tuple[int, int, int]:
    """The tokens of latents of shape (f, h, w, ...) along each axis."""
    if any(n % p for n, p in zip(shape[:3], config.patch)):
        cure = tuple(-(-n // p) * p for n, p in zip(shape[:3], config.patch))
        raise ValueError(f"patch {config.patch} does not divide latents (frames, height, width) {tuple(shape[:3])}: use {cure}")
    return tuple(n // p for n, p in zip(shape[:3], config.patch))


def check_mesh(config: WanConfig, shape: tuple, mesh) -> None:
    """Raises a ValueError when a mesh cannot split the heads, or the tokens of latents of shape (f, h, w, ...)."""
    check_split(config.heads, math.prod(grid(config, shape)), shape[:3], mesh)


def field(network: Network, params, x: Float[Array, "b f h w c"], s: tuple, condition: Condition | None = None) -> tuple:
    """data - noise of latents at s = (t,), t = 1 - sigma of (b,) or (b, f). The condition has text and its mask, beyond which text is 0."""
    if condition is None or condition.text is None:
        raise ValueError("Wan is conditioned on captions: give condition.text")
    grid(network.config, x.shape[1:])
    text = condition.text if condition.text_mask is None else condition.text * condition.text_mask[..., None]
    return (-network.apply(params, x, 1000 * (1 - s[0].reshape(len(x), -1)), text),)
