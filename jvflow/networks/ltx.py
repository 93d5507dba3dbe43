"""The transformer of LTX-Video (HaCohen et al., arXiv 2501.00103): every place of the latents is a token.

    tokens = W x                                      c = MLP(sines(timestep)), one for each token, for each frame or for all
    tokens = tokens + gate attention(...), + attention to text, + gate mlp(...)      depth times; scale, shift and gate from c and a table of each layer
    output = W' ((1 + scale) norm(tokens) + shift)    noise - data

Queries and keys are normed over their full width, heads together, and rotated by where their token is in seconds and pixels:

    angle_i = pi / 2 theta^(i / (m - 1)) (2 p - 1)    p seconds / 20, or pixels / 2048; i = 0 .. m - 1 for each of the three axes

Of m = width // 6 frequencies each axis has all; the first channels that are left over are not rotated. A latent frame stands for 8 frames of video: by one
public convention it is at 8 f / fps seconds, by the other, which knows that the first one stands for one frame, at max(8 f - 7, 0) / fps.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from jvflow.flow.field import Condition
from jvflow.parallel.constrain import ROWS, constrain
from jvflow.networks.base import Network, check_split, functional
from jvflow.networks.layers import FREQUENCIES, TimeMLP, gated, layers_of, modulated, normed, sines, through
from jvflow.networks.video import MLP, VIDEO_RULES, Attention, Captions, VideoConfig, by_row, check_told, line

RULES = VIDEO_RULES
"""How its parameters are split, see `jvflow.parallel.mesh`."""
SPAN = (20.0, 2048.0, 2048.0)
"""Seconds and pixels that p is a fraction of."""
SPACE, TIME = 32, 8
"""Pixels and frames to a place of the latents."""


@dataclass(frozen=True)
class LTXConfig(VideoConfig):
    """The sizes of an `LTX`, see `VideoConfig`; the defaults are those of LTX-Video 2B.

    Attributes:
      causal: the first latent frame stands for one frame of video, see the top of the file.
    """

    depth: int = 28
    heads: int = 32
    head: int = 64
    channels: int = 128
    outputs: int = 128
    causal: bool = True


class LTX(nnx.Module):
    """See the top of the file.

    `(tokens (b, n, channels), places (b or 1, n, 3) as p, timestep (b, m) of 0 .. 1000, text (b, k, captions), mask (b, k)) -> (b, n, outputs)`;
    a timestep for all tokens, for each, or for each of m groups of n / m that follow one another, such as frames.
    """

    def __init__(self, config: LTXConfig, *, rngs: nnx.Rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.config = config
        self.proj_in = line(config.channels, d, rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (2, d)) / d**0.5)
        self.time_embed = TimeEmbed(d, rngs, dtype)
        self.caption_projection = Captions(config.captions, d, rngs, dtype)
        self.transformer_blocks = layers_of(partial(Block, config), config.depth, rngs, scan=config.scan)
        self.proj_out = line(d, config.outputs, rngs, dtype)

    def __call__(self, tokens, places, timestep, text, mask=None):
        x = by_row(self.proj_in(tokens))
        c, embedded = self.time_embed(timestep)
        text = self.caption_projection(text)
        angles = rotation(places, self.config.width)
        layer = lambda block, x: block(x, c, text, mask, angles)
        x = through(self.transformer_blocks, x, layer, scan=self.config.scan, remat=self.config.remat)
        shift, scale = jnp.moveaxis(self.scale_shift_table[...][None, None] + embedded[:, :, None], 2, 0)
        return self.proj_out(modulated(normed(x), shift.astype(x.dtype), scale.astype(x.dtype))).astype(jnp.float32)


class TimeEmbed(nnx.Module):
    """The timestep, embedded, and what modulates all layers, under the names of the public checkpoints."""

    def __init__(self, width: int, rngs, dtype):
        self.emb = nnx.Module()
        self.emb.timestep_embedder = TimeMLP(FREQUENCIES, width, rngs, dtype)
        self.linear = line(width, 6 * width, rngs, dtype)

    def __call__(self, timestep):
        embedded = constrain(self.emb.timestep_embedder(sines(timestep, FREQUENCIES)), ROWS, None, None)
        return constrain(self.linear(nnx.silu(embedded)), ROWS, None, None), embedded


class Block(nnx.Module):
    """A layer: attention of all tokens to all, to the text, and an MLP."""

    def __init__(self, config: LTXConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        attention = lambda: Attention(d, config.heads, rngs, dtype, epsilon=1e-5, at_once=config.attention)
        self.attn1, self.attn2 = attention(), attention()
        self.ff = MLP(d, 4 * d, rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (6, d)) / d**0.5)
        self.epsilon = config.epsilon

    def __call__(self, x, c, text, mask, angles):
        values = self.scale_shift_table[...][None, None] + rearrange(c, "b n (k d) -> b n k d", k=6)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.moveaxis(values.astype(x.dtype), 2, 0)
        y = by_row(modulated(normed(x, self.epsilon, centre=False), shift_a, scale_a))
        x = by_row(x + gated(self.attn1(y, y, angles=angles), gate_a))
        x = by_row(x + self.attn2(x, text, mask))
        y = by_row(modulated(normed(x, self.epsilon, centre=False), shift_m, scale_m))
        return by_row(x + gated(self.ff(y), gate_m))


# --- as a field -----------------------------------------------------------------------------------


def build(*, channels: int, text_width: int, coordinates: int = 1, velocities: int = 1, **sizes) -> Network:
    """The network of these fields of `LTXConfig` as a field of latents of so many channels, told captions of this width."""
    check_told("LTX-Video", coordinates, velocities, text_width)
    network = functional(LTX, LTXConfig(channels=channels, outputs=channels, captions=text_width, **sizes), RULES)
    return network._replace(apply=partial(field, network))


def grid(config: LTXConfig, shape: tuple) -> tuple[int, int, int]:
    """The tokens of latents of shape (f, h, w, ...) along each axis: every place is one."""
    del config
    return tuple(shape[:3])


def check_mesh(config: LTXConfig, shape: tuple, mesh) -> None:
    """Raises a ValueError when a mesh cannot split the heads, or the tokens of latents of shape (f, h, w, ...)."""
    check_split(config.heads, math.prod(shape[:3]), shape[:3], mesh)


def field(network: Network, params, x: Float[Array, "b f h w c"], s: tuple, condition: Condition | None = None) -> tuple:
    """data - noise of latents at s = (t,), t = 1 - sigma of (b,), (b, f) or (b, f h w). The condition has text, its mask, and the rate of each video."""
    if condition is None or condition.text is None or condition.fps is None:
        raise ValueError("LTX-Video is conditioned on captions and frame rates: give condition.text and condition.fps")
    (f, h, w), t = x.shape[1:4], s[0]
    t = t.reshape(len(x), -1)
    at = places((f, h, w), condition.fps, network.config.causal)
    said = network.apply(params, rearrange(x, "b f h w c -> b (f h w) c"), at, 1000 * (1 - t), condition.text, condition.text_mask)
    return (-rearrange(said, "b (f h w) c -> b f h w c", f=f, h=h, w=w),)


# --- places ---------------------------------------------------------------------------------------


def places(shape: tuple[int, int, int], fps: Float[Array, "b"], causal: bool) -> Float[Array, "b n 3"]:
    """p of all tokens of latents of shape (f, h, w), of videos at these rates."""
    frames, rows, columns = (axis.reshape(-1) for axis in np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    frames = np.maximum(TIME * frames - (TIME - 1), 0) if causal else TIME * frames
    seconds = jnp.asarray(frames)[None] / jnp.asarray(fps, jnp.float32)[:, None] / SPAN[0]
    still = [jnp.broadcast_to(jnp.asarray(SPACE * axis / span)[None], seconds.shape) for axis, span in ((rows, SPAN[1]), (columns, SPAN[2]))]
    return jnp.stack([seconds, *still], axis=-1)


def rotation(places: Float[Array, "b n 3"], width: int) -> tuple[Array, Array]:
    """Cosine and sine (b, n, width / 2) of the angle of each pair of channels."""
    count = width // 6
    steps = np.arange(count) * float(np.float32(1) / np.float32(max(count - 1, 1)))
    powers = np.where(np.arange(count) < max(count // 2, 1), steps, 1 - steps[::-1]).astype(np.float32).astype(float)  # rounded from either end as the original has them: angles reach thousands
    frequencies = jnp.asarray((10000.0**powers).astype(np.float32) * np.float32(np.pi / 2))
    angles = (2 * jnp.asarray(places, jnp.float32) - 1)[..., None, :] * frequencies[None, None, :, None]
    angles = rearrange(angles, "b n m i -> b n (m i)")
    angles = jnp.pad(angles, ((0, 0), (0, 0), (width // 2 - angles.shape[-1], 0)))
    return jnp.cos(angles), jnp.sin(angles)
