"""DiT: a diffusion transformer with adaLN-zero (Peebles and Xie, arXiv 2212.09748) over video patches.

    tokens = patches(x, context) + positions            a fixed sine table, space and time
    c      = sum_i MLP_i(sin(time_scale s_i)) + label    one MLP for each coordinate of s, which may differ by frame
    tokens = block(tokens, c)                            depth times; scale, shift and gate from c
    output = velocities of the shape of x                as many as `DiTConfig.velocities`

The blocks start as the identity and the output as exactly 0 (adaLN-zero).
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from jvflow.networks import Network, functional
from jvflow.networks.layers import (
    Conditioning,
    apply_gate,
    apply_layers,
    attention,
    check_remat,
    constrain,
    linear,
    make_layers,
    modulate,
    normalize,
    position_table,
)
from jvflow.parallel.mesh import check_split
from jvflow.parallel.sharding import FSDP, ROWS, SEQUENCE, TENSOR

RULES = (
    (r"(qkv|text_q|text_kv|mlp_in)/kernel$", (FSDP, TENSOR)),
    (r"(proj|text_proj|mlp_out)/kernel$", (TENSOR, FSDP)),
    (r"(qkv|text_q|text_kv|mlp_in)/bias$", (TENSOR,)),
)
"""How these parameters are split, see `jvflow.parallel.sharding`; the others have no axis of heads or hidden units."""


@dataclass(frozen=True)
class DiTConfig:
    """The sizes of a DiT.

    Attributes:
      width, depth, heads: sizes of the transformer; `heads` divides `width`.
      patch: patch size (frames, height, width).
      channels: channels of x, and of each velocity.
      context: channels of `condition.context`, 0 for none.
      coordinates: how many entries s has.
      velocities: how many outputs there are; usually one for each coordinate.
      labels: number of classes in `condition.label`, 0 for none; one more embedding stands for "no label".
      text_width: width of `condition.text` tokens for cross-attention in each block, 0 for none.
      local: whether a 3 x 3 depthwise convolution over neighbouring patches is added to the input of each MLP
        (compare the Mix-FFN of SANA, arXiv 2410.10629): small networks learn local motion sooner.
      scales: factor of each velocity; all 1 when empty.
      mlp_ratio: hidden width of the MLP, divided by `width`.
      time_scale: factor of the coordinates before their sines; 1000 maps [0, 1] to DiT's timesteps.
      frequency_shift: 0 as in the authors' code; 1 makes the lowest frequency 1 / 10000, as in the diffusers package.
      each_embeds: whether each block embeds coordinates and label itself, as DiT in the diffusers package does; the
        output layer then uses the first block's embedding.
      mlp_epsilon: epsilon of the norm before each MLP; the other norms have 1e-6.
      dtype: dtype of the computation; parameters are float32.
      attention: how many queries XLA computes at a time, so that memory is linear in the tokens; 0 for all at once.
      kernel: how attention is computed, see `layers.attention`.
      remat: checkpoint policy of each block, a key of `layers.REMAT`.
      scan: whether one block is compiled and scanned over the layers; parameters get a leading layer axis.
    """

    width: int
    depth: int
    heads: int
    patch: tuple[int, int, int]
    channels: int
    context: int = 0
    coordinates: int = 1
    velocities: int = 1
    labels: int = 0
    text_width: int = 0
    local: bool = False
    scales: tuple[float, ...] = ()
    mlp_ratio: float = 4.0
    time_scale: float = 1000.0
    frequency_shift: int = 0
    each_embeds: bool = False
    mlp_epsilon: float = 1e-6
    dtype: str = "float32"
    attention: int = 0
    kernel: str = "auto"
    remat: str = "none"
    scan: bool = False

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}: change one of them")
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4 for the sine position table")
        check_remat(self.remat)

    def grid(self, shape: tuple) -> tuple[int, int, int]:
        """Returns how many patches a video of shape (f, h, w, ...) has along each axis."""
        video = tuple(shape[:3])
        if any(n % p for n, p in zip(video, self.patch)):
            works = tuple(-(-n // p) * p for n, p in zip(video, self.patch))
            raise ValueError(
                f"patch {self.patch} does not divide video (frames, height, width) {video}: "
                f"use {works}, or another patch"
            )
        return tuple(n // p for n, p in zip(video, self.patch))

    def check_mesh(self, shape: tuple, mesh) -> None:
        """Raises ValueError if a mesh cannot split the heads, or the tokens of a video of shape (f, h, w, ...)."""
        check_split(self.heads, math.prod(self.grid(shape)), shape[:3], mesh)


def build(**sizes) -> Network:
    """Returns a DiT with these fields of `DiTConfig`."""
    return functional(DiT, DiTConfig(**sizes), RULES)


class Block(nnx.Module):
    """Self-attention, cross-attention to text if the network takes text, and an MLP; c gates the first and the last."""

    def __init__(self, config: DiTConfig, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        hidden = int(d * config.mlp_ratio)
        zeros = nnx.initializers.zeros
        self.qkv = linear(d, 3 * d, rngs, dtype)
        self.proj = linear(d, d, rngs, dtype)
        self.mlp_in = linear(d, hidden, rngs, dtype)
        self.mlp_out = linear(hidden, d, rngs, dtype)
        self.modulation = linear(d, 6 * d, rngs, dtype, zeros)
        if config.text_width:
            self.text_q = linear(d, d, rngs, dtype)
            self.text_kv = linear(config.text_width, 2 * d, rngs, dtype)
            self.text_proj = linear(d, d, rngs, dtype, zeros)
        if config.each_embeds:
            self.conditioning = Conditioning(config, rngs)
        if config.local:
            self.neighbours = nnx.Param(jnp.zeros((3, 3, d)))
        self.config = config

    def _split_heads(self, x, parts):
        """Splits channels so that a head's q, k and v lie together: they share a device if a mesh splits the heads."""
        return rearrange(x, "b n (h p d) -> p b n h d", h=self.config.heads, p=parts)

    def __call__(self, x, c, text, text_mask, grid):
        config = self.config
        c = self.conditioning(*c) if config.each_embeds else c
        modulation = constrain(self.modulation(nnx.silu(c)), ROWS, None, None)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(modulation, 6, axis=-1)
        q, k, v = self._split_heads(self.qkv(modulate(normalize(x), shift_a, scale_a)), 3)
        attended = attention(q, k, v, config.attention, kernel=config.kernel)
        x = x + apply_gate(self.proj(rearrange(attended, "b n h d -> b n (h d)")), gate_a)
        if config.text_width and text is not None:
            (q,) = self._split_heads(self.text_q(normalize(x)), 1)
            k, v = self._split_heads(self.text_kv(text), 2)
            any_text, mask = 1.0, None
            if text_mask is not None:  # an empty caption adds nothing
                any_text = text_mask.any(-1)[:, None, None].astype(x.dtype)
                mask = (text_mask | ~text_mask.any(-1, keepdims=True))[:, None, None]
            attended = attention(q, k, v, mask=mask, kernel=config.kernel)
            x = x + any_text * self.text_proj(rearrange(attended, "b n h d -> b n (h d)"))
        y = modulate(normalize(x, config.mlp_epsilon), shift_m, scale_m)
        if config.local:
            y = y + _depthwise(y, self.neighbours[...].astype(y.dtype), grid)
        return x + apply_gate(self.mlp_out(nnx.gelu(self.mlp_in(y), approximate=True)), gate_m)


def _depthwise(x, kernel, grid):
    """Convolves x (b, f h w, d) with a kernel (3, 3, d) over (h, w), zeros outside, as a sum of nine products."""
    f, h, w = grid
    x = rearrange(x, "b (f h w) d -> b f h w d", f=f, h=h, w=w)
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = kernel[:, :, None, None, None, None]
    y = sum(padded[:, :, i : i + h, j : j + w] * kernel[i, j] for i in range(3) for j in range(3))
    return rearrange(y, "b f h w d -> b (f h w) d")


class DiT(nnx.Module):
    """The DiT (see the top of the file), `(x (b, f, h, w, c), s, condition) -> velocities`, a tuple of arrays like x.

    Entries of s are (b,), or (b, f) with a value for each frame.
    """

    def __init__(self, config: DiTConfig, *, rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        volume = int(np.prod(config.patch))
        self.config = config
        self.patch_in = linear(volume * (config.channels + config.context), d, rngs, dtype)
        if not config.each_embeds:
            self.conditioning = Conditioning(config, rngs)
        self.blocks = make_layers(partial(Block, config), config.depth, rngs, scan=config.scan)
        zeros = nnx.initializers.zeros
        self.modulation = linear(d, 2 * d, rngs, dtype, zeros)
        out = volume * config.channels * config.velocities
        self.patch_out = linear(d, out, rngs, dtype, zeros)

    def __call__(self, x, s, condition=None):
        config = self.config
        if len(s) < config.coordinates:
            raise ValueError(f"the network is conditioned on {config.coordinates} coordinates, got {len(s)}")
        context = None if condition is None else condition.context
        if (0 if context is None else context.shape[-1]) != config.context:
            raise ValueError(
                f"the network was built for {config.context} context channels, "
                f"got {'none' if context is None else context.shape[-1]} in condition.context"
            )
        if x.shape[-1] != config.channels:
            raise ValueError(f"the network was built for {config.channels} channels, got {x.shape[-1]} in x {x.shape}")
        x_in = x if context is None else jnp.concatenate([x, context], axis=-1)
        (f, h, w), (pf, ph, pw) = config.grid(x.shape[1:]), config.patch
        sizes = dict(f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)
        tokens = self.patch_in(rearrange(x_in, "b (f pf) (h ph) (w pw) c -> b (f h w) (pf ph pw c)", **sizes))
        starts = (0.0,) if condition is None else tuple(start / pf for start in condition.starts)
        tokens = tokens + jnp.asarray(position_table((f, h, w), config.width, starts), tokens.dtype)[None]
        tokens = constrain(tokens, ROWS, SEQUENCE, None)
        s = tuple(a[:, ::pf] if a.ndim > 1 else a for a in s)  # a patch over several frames uses its first frame's s
        given = s, condition and condition.label
        text, mask = (None, None) if condition is None else (condition.text, condition.text_mask)
        c = None if config.each_embeds else self.conditioning(*given)
        tokens = self._layers(tokens, given if config.each_embeds else c, text, mask, (f, h, w))
        c = self._first_block().conditioning(*given) if config.each_embeds else c
        shift, scale = jnp.split(self.modulation(nnx.silu(c)), 2, axis=-1)
        tokens = modulate(normalize(tokens), shift, scale)
        y = self.patch_out(tokens).astype(jnp.float32)
        y = rearrange(y, "b (f h w) (pf ph pw c v) -> v b (f pf) (h ph) (w pw) c", v=config.velocities, **sizes)
        return tuple(v * scale for v, scale in zip(y, config.scales or (1.0,) * config.velocities, strict=True))

    def _first_block(self) -> Block:
        if not self.config.scan:
            return self.blocks[0]
        graph, layers = nnx.split(self.blocks)
        return nnx.merge(graph, jax.tree.map(lambda a: a[0], layers))

    def _layers(self, tokens, c, text, mask, grid):
        layer = lambda block, tokens: constrain(block(tokens, c, text, mask, grid), ROWS, SEQUENCE, None)
        return apply_layers(self.blocks, tokens, layer, scan=self.config.scan, remat=self.config.remat)
