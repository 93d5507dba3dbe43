"""The transformer of Wan 2.1 (arXiv 2503.20314), text to video: patches of the latents are tokens.

    tokens = W patches
    c      = MLP(sines(timestep))                      one for each group of tokens, or one for all tokens
    tokens = tokens + gate attention(modulate(norm(tokens)))
    tokens = tokens + attention of norm(tokens) to text
    tokens = tokens + gate mlp(modulate(norm(tokens)))      depth times; scale, shift, gate from c and a table per layer
    output = W' ((1 + scale) norm(tokens) + shift)     predicts noise - data

Norms subtract the mean and divide by the deviation, in float32. Queries and keys are normalized over their full width,
all heads together, and each head is rotated by the index n of its token's frame, row and column:

    angle_i = n 10000^(-2 i / k)                       i = 0 .. k / 2 - 1 for each axis

The index of a latent frame is the number of its last frame of video, divided by 4. A chunk that is encoded separately
begins with a latent frame of one frame again: after 17 frames (indices 0 to 4) it has the indices 4.25, 5.25 ...

Frames have k = 44 of a head's 128 channels, rows and columns 42 each. All tokens attend to the zeros that pad the text.
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


@dataclass(frozen=True)
class WanConfig(VideoConfig):
    """The sizes of a `Wan`, see `VideoConfig`; the defaults are the sizes of Wan 2.1 1.3B.

    Attributes:
      hidden: width of the MLPs' hidden layer.
      patch: latent pixels of a token (frames, rows, columns).
      frequencies: width of the timestep's sinusoidal features.
      norm_text: whether tokens are normalized before they attend to the text.
    """

    depth: int = 30
    heads: int = 12
    head: int = 128
    channels: int = 16
    outputs: int = 16
    hidden: int = 8960
    patch: tuple[int, int, int] = (1, 2, 2)
    frequencies: int = FREQUENCIES
    norm_text: bool = True

    def grid(self, shape: tuple) -> tuple[int, int, int]:
        """Returns how many tokens latents of shape (f, h, w, ...) have along each axis."""
        if any(n % p for n, p in zip(shape[:3], self.patch)):
            works = tuple(-(-n // p) * p for n, p in zip(shape[:3], self.patch))
            raise ValueError(
                f"patch {self.patch} does not divide latents (frames, height, width) {tuple(shape[:3])}: use {works}"
            )
        return tuple(n // p for n, p in zip(shape[:3], self.patch))


class Wan(nnx.Module):
    """The transformer (see the top of the file), `(latents, timestep, text) -> (b, f, h, w, outputs)`.

    Args:
      latents: (b, f, h, w, channels).
      timestep: in [0, 1000], (b, m), one for each of m groups of consecutive tokens, such as frames; m is 1 for all.
      text: (b, k, captions).
      starts: the index at which each separately encoded chunk of the latents begins.
    """

    def __init__(self, config: WanConfig, *, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.config = config
        self.patch_embedding = Patches(config.channels, d, config.patch, dtype=dtype, rngs=rngs)
        self.condition_embedder = ConditionEmbedder(config, rngs)
        self.blocks = make_layers(partial(Block, config), config.depth, rngs, scan=config.scan)
        self.proj_out = linear(d, config.outputs * math.prod(config.patch), rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (1, 2, d)) / d**0.5)

    def __call__(self, latents, timestep, text, starts=(0.0,)):
        x = self.patch_embedding(latents)
        shape = x.shape[1:4]
        x = constrain_tokens(rearrange(x, "b f h w d -> b (f h w) d"))
        c, embedded, text = self.condition_embedder(timestep, text)
        angles = rotary_embedding(shape, self.config, starts)
        layer = lambda block, x: block(x, c, text, angles)
        x = apply_layers(self.blocks, x, layer, scan=self.config.scan, remat=self.config.remat)
        shift, scale = jnp.moveaxis(self.scale_shift_table[...][:, None] + embedded[:, :, None], 2, 0)
        y = modulate(normalize(x.astype(jnp.float32), self.config.epsilon), shift, scale).astype(x.dtype)
        y = self.proj_out(y).astype(jnp.float32)
        f, h, w = shape
        p, q, r = self.config.patch
        return rearrange(y, "b (f h w) (p q r c) -> b (f p) (h q) (w r) c", f=f, h=h, w=w, p=p, q=q, r=r)


class Patches(nnx.Conv):
    """A convolution over patches that do not overlap, computed as one product of matrices.

    As a convolution, XLA doubles the gradient of its kernel where a mesh splits the tokens of a fused attention.
    """

    def __call__(self, x):
        p, q, r = self.kernel_size
        x = rearrange(x, "b (f p) (h q) (w r) c -> b f h w (p q r c)", p=p, q=q, r=r)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, self.kernel[...], self.bias[...]))
        return x @ kernel.reshape(-1, self.out_features) + jnp.expand_dims(bias, (0, 1, 2, 3))


class ConditionEmbedder(nnx.Module):
    """Embeds the text, and the timestep for the modulation of all layers and of the output."""

    def __init__(self, config: WanConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.frequencies = config.frequencies
        # in float32, as the public pipeline computes it
        self.time_embedder = TimeMLP(config.frequencies, d, rngs, jnp.dtype("float32"))
        self.time_proj = linear(d, 6 * d, rngs, dtype)
        self.text_embedder = Captions(config.captions, d, rngs, dtype)

    def __call__(self, timestep, text):
        features = sinusoidal_features(timestep, self.frequencies)
        embedded = constrain(self.time_embedder(features), ROWS, None, None)
        return constrain(self.time_proj(nnx.silu(embedded)), ROWS, None, None), embedded, self.text_embedder(text)


class Block(nnx.Module):
    """A layer: self-attention over all tokens, attention to the text, and an MLP."""

    def __init__(self, config: WanConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        options = dict(epsilon=config.epsilon, query_block=config.attention, kernel=config.kernel)
        attention = lambda: Attention(d, config.heads, rngs, dtype, **options)
        self.attn1, self.attn2 = attention(), attention()
        if config.norm_text:
            self.norm2 = nnx.LayerNorm(d, epsilon=config.epsilon, use_fast_variance=False, rngs=rngs)
        self.ffn = MLP(d, config.hidden, rngs, dtype)
        self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (1, 6, d)) / d**0.5)
        self.norm_text, self.epsilon = config.norm_text, config.epsilon

    def __call__(self, x, c, text, angles):
        values = self.scale_shift_table[...][:, None] + rearrange(c.astype(jnp.float32), "b n (k d) -> b n k d", k=6)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.moveaxis(values, 2, 0)
        y = self._modulate(x, shift_a, scale_a)
        x = _add_gated(x, self.attn1(y, y, angles=angles), gate_a)
        y = self.norm2(x.astype(jnp.float32)).astype(x.dtype) if self.norm_text else x
        x = constrain_tokens(x + self.attn2(y, text))
        return _add_gated(x, self.ffn(self._modulate(x, shift_m, scale_m)), gate_m)

    def _modulate(self, x, shift, scale):
        y = modulate(normalize(x.astype(jnp.float32), self.epsilon), shift, scale)
        return constrain_tokens(y.astype(x.dtype))


def _add_gated(x, y, gate):
    return constrain_tokens((x.astype(jnp.float32) + apply_gate(y.astype(jnp.float32), gate)).astype(x.dtype))


def rotary_embedding(
    shape: tuple[int, int, int], config: WanConfig, starts: tuple[float, ...] = (0.0,)
) -> tuple[Array, Array]:
    """Returns cosine and sine (1, n, width / 2) of the angles of tokens (f, h, w), the same for all heads.

    The chunks of the latents begin at the indices `starts`.
    """
    each = np.arange(shape[0] // len(starts))
    frames = np.add.outer(np.asarray(starts) / config.patch[0], each).reshape(-1)
    space = 2 * (config.head // 6)
    angles = []
    places = (frames, np.arange(shape[1]), np.arange(shape[2]))
    for axis, (place, channels) in enumerate(zip(places, (config.head - 2 * space, space, space))):
        along = np.outer(place, 10000.0 ** (-np.arange(0, channels, 2) / channels))
        dims = [1, 1, 1, -1]
        dims[axis] = len(place)
        angles.append(np.broadcast_to(along.reshape(dims), (*shape, along.shape[-1])))
    angles = repeat(np.concatenate(angles, axis=-1), "f h w m -> 1 (f h w) (heads m)", heads=config.heads)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


# --- as a field -----------------------------------------------------------------------------------


def build(*, channels: int, text_width: int, coordinates: int = 1, velocities: int = 1, **sizes) -> Network:
    """Returns a `Wan` with these fields of `WanConfig` as a field of latents, conditioned on captions."""
    check_objective("Wan", coordinates, velocities, text_width)
    network = functional(Wan, WanConfig(channels=channels, outputs=channels, captions=text_width, **sizes), RULES)
    return network._replace(apply=partial(field, network))


def field(
    network: Network, params, x: Float[Array | np.ndarray, "b f h w c"], s: tuple, condition: Condition | None = None
) -> tuple:
    """Returns (data - noise,) for latents at s = (t,), t = 1 - sigma of shape (b,) or (b, f). Masked text is zeroed.

    Raises:
      ValueError: if the condition has no text.
    """
    if condition is None or condition.text is None:
        raise ValueError("Wan is conditioned on captions: give condition.text")
    network.config.grid(x.shape[1:])
    text = condition.text if condition.text_mask is None else condition.text * condition.text_mask[..., None]
    return (-network.apply(params, x, 1000 * (1 - s[0].reshape(len(x), -1)), text, condition.starts),)
