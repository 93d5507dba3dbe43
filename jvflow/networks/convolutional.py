"""Layers of convolutional networks on images (b, h, w, c): residual blocks, attention over pixels, resampling.

Layers have the names that the diffusers package uses, so its tensors fit without a table of names, see
`jvflow.pretrained.layout.mirror`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jvflow.networks.public_layers import attend


def convolution(
    inputs: int, outputs: int, rngs, *, size: int = 3, stride: int = 1, padding=None, dtype=None
) -> nnx.Conv:
    """Returns a convolution that divides height and width by its stride."""
    around = size // 2 if padding is None else padding
    pads = ((around, around),) * 2 if isinstance(around, int) else around
    return nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=pads, rngs=rngs, dtype=dtype)


def group_norm(channels: int, groups: int, rngs, epsilon: float = 1e-6) -> nnx.GroupNorm:
    """Returns a group norm in float32, whose variance is the mean of squared deviations."""
    return nnx.GroupNorm(channels, num_groups=groups, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class ResnetBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))); a 1 x 1 convolution of the first x changes its channels."""

    def __init__(
        self, inputs: int, outputs: int, rngs, *, groups: int, epsilon: float = 1e-6, time_width: int = 0, dtype=None
    ):
        self.norm1 = group_norm(inputs, groups, rngs, epsilon)
        self.conv1 = convolution(inputs, outputs, rngs, dtype=dtype)
        if time_width:
            self.time_emb_proj = nnx.Linear(time_width, outputs, rngs=rngs, dtype=dtype)
        self.norm2 = group_norm(outputs, groups, rngs, epsilon)
        self.conv2 = convolution(outputs, outputs, rngs, dtype=dtype)
        if inputs != outputs:
            self.conv_shortcut = convolution(inputs, outputs, rngs, size=1, dtype=dtype)
        self.changes_channels = inputs != outputs

    def __call__(self, x, time=None):
        y = self.conv1(nnx.silu(self.norm1(x)))
        if time is not None:
            y = y + self.time_emb_proj(nnx.silu(time))[:, None, None]
        y = self.conv2(nnx.silu(self.norm2(y)))
        return (self.conv_shortcut(x) if self.changes_channels else x) + y


class Attention(nnx.Module):
    """x + attention of every pixel to all pixels of the image."""

    def __init__(self, channels: int, rngs, *, heads: int = 1, groups: int, epsilon: float = 1e-6, dtype=None):
        linear = lambda: nnx.Linear(channels, channels, rngs=rngs, dtype=dtype)
        self.group_norm = group_norm(channels, groups, rngs, epsilon)
        self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
        self.to_out = nnx.List([linear()])
        self.heads = heads

    def __call__(self, x, text=None):
        del text  # so that both kinds of attention have one signature
        y = rearrange(self.group_norm(x), "b h w c -> b (h w) c")
        y = self.to_out[0](attend(self.to_q(y), self.to_k(y), self.to_v(y), self.heads))
        return x + y.reshape(x.shape)


class TextTransformer(nnx.Module):
    """x + a transformer block over pixels that attends to text (b, n, text_width), between two layers over channels.

    Args:
      linear: whether these two are linear layers; else they are 1 x 1 convolutions, which compute the same.
    """

    def __init__(
        self, channels: int, text_width: int, rngs, *, heads: int, groups: int, linear: bool = False, dtype=None
    ):
        def layer():
            if linear:
                return nnx.Linear(channels, channels, rngs=rngs, dtype=dtype)
            return convolution(channels, channels, rngs, size=1, dtype=dtype)

        self.norm = group_norm(channels, groups, rngs)
        self.proj_in = layer()
        self.transformer_blocks = nnx.List([TextBlock(channels, text_width, rngs, heads=heads, dtype=dtype)])
        self.proj_out = layer()

    def __call__(self, x, text):
        y = self.proj_in(self.norm(x))
        y = self.transformer_blocks[0](rearrange(y, "b h w c -> b (h w) c"), text)
        return x + self.proj_out(y.reshape(x.shape))


class TextBlock(nnx.Module):
    """Attention to all pixels, attention to the text, and a gated MLP, each after a norm."""

    def __init__(self, width: int, text_width: int, rngs, *, heads: int, dtype=None):
        norm = lambda: nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.attn1 = _CrossAttention(width, width, rngs, heads=heads, dtype=dtype)
        self.attn2 = _CrossAttention(width, text_width, rngs, heads=heads, dtype=dtype)
        self.ff = _GatedMLP(width, rngs, dtype=dtype)

    def __call__(self, x, text):
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class _CrossAttention(nnx.Module):
    def __init__(self, width: int, others: int, rngs, *, heads: int, dtype=None):
        linear = lambda n, bias: nnx.Linear(n, width, use_bias=bias, rngs=rngs, dtype=dtype)
        self.to_q, self.to_k, self.to_v = linear(width, False), linear(others, False), linear(others, False)
        self.to_out = nnx.List([linear(width, True)])
        self.heads = heads

    def __call__(self, x, others):
        return self.to_out[0](attend(self.to_q(x), self.to_k(others), self.to_v(others), self.heads))


class _GatedMLP(nnx.Module):
    """Two linear layers: the first returns a and b, the second takes a gelu(b)."""

    def __init__(self, width: int, rngs, *, dtype=None):
        self.net = nnx.List(
            [
                _Projection(width, 8 * width, rngs, dtype),
                nnx.Module(),
                nnx.Linear(4 * width, width, rngs=rngs, dtype=dtype),
            ]
        )

    def __call__(self, x):
        a, b = jnp.split(self.net[0].proj(x), 2, axis=-1)
        return self.net[2](a * nnx.gelu(b, approximate=False))


class _Projection(nnx.Module):
    def __init__(self, inputs: int, outputs: int, rngs, dtype):
        self.proj = nnx.Linear(inputs, outputs, rngs=rngs, dtype=dtype)


class Downsample(nnx.Module):
    """Halves height and width by a convolution of stride 2, padded on all sides or at bottom and right only."""

    def __init__(self, channels: int, rngs, *, around: bool, dtype=None):
        self.conv = convolution(
            channels, channels, rngs, stride=2, padding=1 if around else ((0, 1), (0, 1)), dtype=dtype
        )

    def __call__(self, x):
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then applies a convolution."""

    def __init__(self, channels: int, rngs, *, dtype=None):
        self.conv = convolution(channels, channels, rngs, dtype=dtype)

    def __call__(self, x):
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


class Level(nnx.Module):
    """Residual blocks, each with optional attention after it, then an optional downsampling or upsampling.

    Args:
      inputs: input channels of each block.
      attention: `channels -> layer`, or None.
    """

    def __init__(
        self,
        inputs: list[int],
        outputs: int,
        attention: Callable | None,
        *,
        rngs,
        groups: int,
        dtype,
        epsilon: float = 1e-6,
        time_width: int = 0,
        down: bool = False,
        around: bool = True,
        up: bool = False,
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(n, outputs, rngs, groups=groups, epsilon=epsilon, time_width=time_width, dtype=dtype)
                for n in inputs
            ]
        )
        self.attentions = nnx.List([attention(outputs) for _ in inputs] if attention else [])
        if down:
            self.downsamplers = nnx.List([Downsample(outputs, rngs, around=around, dtype=dtype)])
        if up:
            self.upsamplers = nnx.List([Upsample(outputs, rngs, dtype=dtype)])
        self.down, self.up = down, up

    def __call__(self, x, c=None, text=None, skips: list | None = None):
        """Returns the image and the outputs of all layers; the blocks take `skips` from last to first."""
        outputs, skips = [], skips and skips[::-1]
        for i, block in enumerate(self.resnets):
            x = block(x if skips is None else jnp.concatenate([x, skips[i]], axis=-1), c)
            x = self.attentions[i](x, text) if len(self.attentions) else x
            outputs.append(x)
        if self.down:
            x = self.downsamplers[0](x)
            outputs.append(x)
        return (self.upsamplers[0](x) if self.up else x), outputs


class Middle(nnx.Module):
    """A residual block, optional attention, a residual block."""

    def __init__(
        self,
        channels: int,
        attention: Callable | None,
        *,
        rngs,
        groups: int,
        dtype,
        epsilon: float = 1e-6,
        time_width: int = 0,
    ):
        block = lambda: ResnetBlock(
            channels, channels, rngs, groups=groups, epsilon=epsilon, time_width=time_width, dtype=dtype
        )
        self.resnets = nnx.List([block(), block()])
        self.attentions = nnx.List([attention(channels)] if attention else [])

    def __call__(self, x, c=None, text=None):
        x = self.resnets[0](x, c)
        for attention in self.attentions:
            x = attention(x, text)
        return self.resnets[1](x, c)
