"""The transformer of LTX-Video (HaCohen et al., arXiv 2501.00103): each pixel of the latents is a token.

    tokens = W x
    c      = MLP(sines(timestep))                      one for each token, one for each frame, or one for all tokens
    tokens = tokens + gate attention(modulate(norm(tokens)))
    tokens = tokens + attention to text
    tokens = tokens + gate mlp(modulate(norm(tokens)))      depth times; scale, shift, gate from c and a table per layer
    output = W' ((1 + scale) norm(tokens) + shift)     predicts noise - data

Queries and keys are normalized over their full width, all heads together, and rotated by the token's position p:

    angle_i = pi / 2 theta^(i / (m - 1)) (2 p - 1)     p is seconds / 20, or pixels / 2048; i = 0 .. m - 1 for each axis

Each axis has all m = width // 6 frequencies; the channels left over come first and are not rotated. A latent frame
stands for 8 frames of video. One public convention places latent frame f at 8 f / fps seconds. In the other one the
first latent frame stands for one frame, and latent frame f is at max(8 f - 7, 0) / fps seconds. A chunk that is encoded
separately begins with a latent frame of one frame again: after 17 frames (0, 1, 9) it is at 17, 18, 26 ...
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from jvflow.flow.field import Condition
from jvflow.networks import Network, functional
from jvflow.networks.layers import (
    FREQUENCIES,
    apply_gate,
    apply_layers,
    constrain,
    make_layers,
    modulate,
    normalize,
    sinusoidal_features,
)
from jvflow.networks.public_layers import TimeMLP
from jvflow.networks.video import (
    MLP,
    VIDEO_RULES,
    Attention,
    Captions,
    VideoConfig,
    check_objective,
    constrain_tokens,
    linear,
)
from jvflow.parallel.sharding import ROWS

RULES = VIDEO_RULES
"""How the parameters are split, see `jvflow.parallel.sharding`."""
SPAN = (20.0, 2048.0, 2048.0)
"""The time in seconds, row and column in pixels at which p is 1."""
SPACE, TIME = 32, 8
"""A latent pixel stands for SPACE x SPACE pixels and TIME frames."""


@dataclass(frozen=True)
class LTXConfig(VideoConfig):
    """The sizes of an `LTX`, see `VideoConfig`; the defaults are the sizes of LTX-Video 2B.

    Attributes:
      causal: whether the first latent frame stands for one frame of video, see the top of the file.
    """

    depth: int = 28
    heads: int = 32
    head: int = 64
    channels: int = 128
    outputs: int = 128
    causal: bool = True

    def grid(self, shape: tuple) -> tuple[int, int, int]:
        """Returns how many tokens latents of shape (f, h, w, ...) have along each axis."""
        return tuple(shape[:3])


class LTX(nnx.Module):
    """The transformer (see the top of the file), `(tokens, positions, timestep, text, mask) -> (b, n, outputs)`.

    Args:
      tokens: (b, n, channels).
      positions: p of each token, (b or 1, n, 3).
      timestep: in [0, 1000], (b, m), one for each of m groups of consecutive tokens, such as frames; m is 1 for all.
      text: (b, k, captions).
      mask: (b, k), True for the text tokens that are attended to; None for all.
    """

    def __init__(self, config: LTXConfig, *, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.config = config
        self.proj_in = linear(config.channels, d, rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (2, d)) / d**0.5)
        self.time_embed = TimeEmbed(d, rngs, dtype)
        self.caption_projection = Captions(config.captions, d, rngs, dtype)
        self.transformer_blocks = make_layers(partial(Block, config), config.depth, rngs, scan=config.scan)
        self.proj_out = linear(d, config.outputs, rngs, dtype)

    def __call__(self, tokens, positions, timestep, text, mask=None):
        x = constrain_tokens(self.proj_in(tokens))
        c, embedded = self.time_embed(timestep)
        text = self.caption_projection(text)
        angles = rotary_embedding(positions, self.config.width)
        layer = lambda block, x: block(x, c, text, mask, angles)
        x = apply_layers(self.transformer_blocks, x, layer, scan=self.config.scan, remat=self.config.remat)
        shift, scale = jnp.moveaxis(self.scale_shift_table[...][None, None] + embedded[:, :, None], 2, 0)
        return self.proj_out(modulate(normalize(x), shift.astype(x.dtype), scale.astype(x.dtype))).astype(jnp.float32)


class TimeEmbed(nnx.Module):
    """Embeds the timestep for the modulation of all layers and of the output."""

    def __init__(self, width: int, rngs, dtype):
        self.emb = nnx.Module()
        self.emb.timestep_embedder = TimeMLP(FREQUENCIES, width, rngs, dtype)
        self.linear = linear(width, 6 * width, rngs, dtype)

    def __call__(self, timestep):
        embedded = constrain(self.emb.timestep_embedder(sinusoidal_features(timestep, FREQUENCIES)), ROWS, None, None)
        return constrain(self.linear(nnx.silu(embedded)), ROWS, None, None), embedded


class Block(nnx.Module):
    """A layer: self-attention over all tokens, attention to the text, and an MLP."""

    def __init__(self, config: LTXConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        options = dict(epsilon=1e-5, query_block=config.attention, kernel=config.kernel)
        attention = lambda: Attention(d, config.heads, rngs, dtype, **options)
        self.attn1, self.attn2 = attention(), attention()
        self.ff = MLP(d, 4 * d, rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (6, d)) / d**0.5)
        self.epsilon = config.epsilon

    def __call__(self, x, c, text, mask, angles):
        values = self.scale_shift_table[...][None, None] + rearrange(c, "b n (k d) -> b n k d", k=6)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.moveaxis(values.astype(x.dtype), 2, 0)
        y = constrain_tokens(modulate(normalize(x, self.epsilon, centre=False), shift_a, scale_a))
        x = constrain_tokens(x + apply_gate(self.attn1(y, y, angles=angles), gate_a))
        x = constrain_tokens(x + self.attn2(x, text, mask))
        y = constrain_tokens(modulate(normalize(x, self.epsilon, centre=False), shift_m, scale_m))
        return constrain_tokens(x + apply_gate(self.ff(y), gate_m))


# --- as a field -----------------------------------------------------------------------------------


def build(*, channels: int, text_width: int, coordinates: int = 1, velocities: int = 1, **sizes) -> Network:
    """Returns an `LTX` with these fields of `LTXConfig` as a field of latents, conditioned on captions."""
    check_objective("LTX-Video", coordinates, velocities, text_width)
    network = functional(LTX, LTXConfig(channels=channels, outputs=channels, captions=text_width, **sizes), RULES)
    return network._replace(apply=partial(field, network), takes_fps=True)


def field(
    network: Network, params, x: Float[Array | np.ndarray, "b f h w c"], s: tuple, condition: Condition | None = None
) -> tuple:
    """Returns (data - noise,) for latents at s = (t,), where t = 1 - sigma has shape (b,), (b, f) or (b, f h w).

    Raises:
      ValueError: if the condition lacks text or the frame rate of each video.
    """
    if condition is None or condition.text is None or condition.fps is None:
        raise ValueError("LTX-Video is conditioned on captions and frame rates: give condition.text and condition.fps")
    (f, h, w), t = x.shape[1:4], s[0]
    t = t.reshape(len(x), -1)
    positions = token_positions((f, h, w), condition.fps, network.config.causal, condition.starts)
    tokens = rearrange(x, "b f h w c -> b (f h w) c")
    text, mask = condition.text, condition.text_mask
    if mask is not None:  # a caption without tokens is the null of guidance: zeros
        text = jnp.where(jnp.asarray(mask).any(-1)[:, None, None], text, 0)
    output = network.apply(params, tokens, positions, 1000 * (1 - t), text, mask)
    return (-rearrange(output, "b (f h w) c -> b f h w c", f=f, h=h, w=w),)


# --- positions ------------------------------------------------------------------------------------


def token_positions(
    shape: tuple[int, int, int], fps: Float[Array | np.ndarray, "b"], causal: bool, starts: tuple[float, ...] = (0.0,)
) -> Float[Array, "b n 3"]:
    """Returns the position p of each token of latents (f, h, w), for videos at `fps` frames per second.

    The chunks of the latents begin `starts` times 8 frames after the first one.
    """
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    frames, rows, columns = (axis.reshape(-1) for axis in axes)
    each = shape[0] // len(starts)
    first = np.float32(TIME) * np.asarray(starts, np.float32)[(frames // each).astype(int)]
    frames = TIME * (frames % each)
    frames = first + (np.maximum(frames - (TIME - 1), 0) if causal else frames)
    seconds = jnp.asarray(frames)[None] / jnp.asarray(fps, jnp.float32)[:, None] / SPAN[0]
    space = [
        jnp.broadcast_to(jnp.asarray(SPACE * axis / span)[None], seconds.shape)
        for axis, span in ((rows, SPAN[1]), (columns, SPAN[2]))
    ]
    return jnp.stack([seconds, *space], axis=-1)


def rotary_embedding(positions: Float[Array, "b n 3"], width: int) -> tuple[Array, Array]:
    """Returns cosine and sine (b, n, width / 2) of the angle of each pair of channels."""
    count = width // 6
    steps = np.arange(count) * float(np.float32(1) / np.float32(max(count - 1, 1)))
    # angles reach thousands, so rounding matters: rounds from both ends, as the original code does
    powers = np.where(np.arange(count) < max(count // 2, 1), steps, 1 - steps[::-1]).astype(np.float32).astype(float)
    frequencies = jnp.asarray((10000.0**powers).astype(np.float32) * np.float32(np.pi / 2))
    angles = (2 * jnp.asarray(positions, jnp.float32) - 1)[..., None, :] * frequencies[None, None, :, None]
    angles = rearrange(angles, "b n m i -> b n (m i)")
    angles = jnp.pad(angles, ((0, 0), (0, 0), (width // 2 - angles.shape[-1], 0)))
    return jnp.cos(angles), jnp.sin(angles)
