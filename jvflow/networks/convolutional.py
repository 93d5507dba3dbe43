"""What convolutional networks on images share: residual blocks, attention over all places, halving and doubling. Images are (b, h, w, c).

Names of layers are those of the diffusers package, so that its tensors fit without a table of names (`jvflow.pretrained.mirrored`).
"""

from collections.abc import Callable

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jvflow.networks.layers import attended


def convolution(inputs: int, outputs: int, rngs, *, size: int = 3, stride: int = 1, padding=None, dtype=None) -> nnx.Conv:
    """A convolution that keeps height and width, but for its stride."""
    around = size // 2 if padding is None else padding
    pads = ((around, around),) * 2 if isinstance(around, int) else around
    return nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=pads, rngs=rngs, dtype=dtype)


def group_norm(channels: int, groups: int, rngs, epsilon: float = 1e-6) -> nnx.GroupNorm:
    """Group norm in float32; the variance from differences, not from a difference of squares."""
    return nnx.GroupNorm(channels, num_groups=groups, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class ResnetBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))), the first part through a 1 x 1 convolution where channels change."""

    def __init__(self, inputs: int, outputs: int, rngs, *, groups: int, epsilon: float = 1e-6, time_width: int = 0, dtype=None):
        self.norm1 = group_norm(inputs, groups, rngs, epsilon)
        self.conv1 = convolution(inputs, outputs, rngs, dtype=dtype)
        if time_width:
            self.time_emb_proj = nnx.Linear(time_width, outputs, rngs=rngs, dtype=dtype)
        self.norm2 = group_norm(outputs, groups, rngs, epsilon)
        self.conv2 = convolution(outputs, outputs, rngs, dtype=dtype)
        if inputs != outputs:
            self.conv_shortcut = convolution(inputs, outputs, rngs, size=1, dtype=dtype)
        self.changes = inputs != outputs

    def __call__(self, x, time=None):
        y = self.conv1(nnx.silu(self.norm1(x)))
        if time is not None:
            y = y + self.time_emb_proj(nnx.silu(time))[:, None, None]
        y = self.conv2(nnx.silu(self.norm2(y)))
        return (self.conv_shortcut(x) if self.changes else x) + y


class Attention(nnx.Module):
    """x + attention of every place to all places of the image."""

    def __init__(self, channels: int, rngs, *, heads: int = 1, groups: int, epsilon: float = 1e-6, dtype=None):
        line = lambda: nnx.Linear(channels, channels, rngs=rngs, dtype=dtype)
        self.group_norm = group_norm(channels, groups, rngs, epsilon)
        self.to_q, self.to_k, self.to_v = line(), line(), line()
        self.to_out = nnx.List([line()])
        self.heads = heads

    def __call__(self, x, text=None):
        del text  # for `TextTransformer`
        y = rearrange(self.group_norm(x), "b h w c -> b (h w) c")
        y = self.to_out[0](attended(self.to_q(y), self.to_k(y), self.to_v(y), self.heads))
        return x + y.reshape(x.shape)


class TextTransformer(nnx.Module):
    """x + a transformer block over its places, between two 1 x 1 convolutions, which attends to text (b, n, text_width) besides."""

    def __init__(self, channels: int, text_width: int, rngs, *, heads: int, groups: int, dtype=None):
        self.norm = group_norm(channels, groups, rngs)
        self.proj_in = convolution(channels, channels, rngs, size=1, dtype=dtype)
        self.transformer_blocks = nnx.List([TextBlock(channels, text_width, rngs, heads=heads, dtype=dtype)])
        self.proj_out = convolution(channels, channels, rngs, size=1, dtype=dtype)

    def __call__(self, x, text):
        y = self.proj_in(self.norm(x))
        y = self.transformer_blocks[0](rearrange(y, "b h w c -> b (h w) c"), text)
        return x + self.proj_out(y.reshape(x.shape))


class TextBlock(nnx.Module):
    """Attention to all places, attention to the text, and an MLP with gates, each after a norm."""

    def __init__(self, width: int, text_width: int, rngs, *, heads: int, dtype=None):
        norm = lambda: nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.attn1 = _ToOthers(width, width, rngs, heads=heads, dtype=dtype)
        self.attn2 = _ToOthers(width, text_width, rngs, heads=heads, dtype=dtype)
        self.ff = _Gated(width, rngs, dtype=dtype)

    def __call__(self, x, text):
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class _ToOthers(nnx.Module):
    def __init__(self, width: int, others: int, rngs, *, heads: int, dtype=None):
        line = lambda n, bias: nnx.Linear(n, width, use_bias=bias, rngs=rngs, dtype=dtype)
        self.to_q, self.to_k, self.to_v = line(width, False), line(others, False), line(others, False)
        self.to_out = nnx.List([line(width, True)])
        self.heads = heads

    def __call__(self, x, others):
        return self.to_out[0](attended(self.to_q(x), self.to_k(others), self.to_v(others), self.heads))


class _Gated(nnx.Module):
    """a gelu(b) of one layer that gives both, and a layer."""

    def __init__(self, width: int, rngs, *, dtype=None):
        self.net = nnx.List([_Both(width, 8 * width, rngs, dtype), nnx.Module(), nnx.Linear(4 * width, width, rngs=rngs, dtype=dtype)])

    def __call__(self, x):
        a, b = jnp.split(self.net[0].proj(x), 2, axis=-1)
        return self.net[2](a * nnx.gelu(b, approximate=False))


class _Both(nnx.Module):
    def __init__(self, inputs: int, outputs: int, rngs, dtype):
        self.proj = nnx.Linear(inputs, outputs, rngs=rngs, dtype=dtype)


class Downsample(nnx.Module):
    """Half of height and width by a convolution of stride 2, with a row and a column of zeros after the image, or around it."""

    def __init__(self, channels: int, rngs, *, around: bool, dtype=None):
        self.conv = convolution(channels, channels, rngs, stride=2, padding=1 if around else ((0, 1), (0, 1)), dtype=dtype)

    def __call__(self, x):
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice height and width by nearest neighbours, and a convolution."""

    def __init__(self, channels: int, rngs, *, dtype=None):
        self.conv = convolution(channels, channels, rngs, dtype=dtype)

    def __call__(self, x):
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


class Level(nnx.Module):
    """Residual blocks of so many input channels each, attention after each where there is any, and a halving or a doubling.

    `attention` makes one of a number of channels.
    """

    def __init__(
        self, inputs: list[int], outputs: int, attention: Callable | None, *, rngs, groups: int, dtype, epsilon: float = 1e-6, time_width: int = 0,
        down: bool = False, around: bool = True, up: bool = False,
    ):
        self.resnets = nnx.List([ResnetBlock(n, outputs, rngs, groups=groups, epsilon=epsilon, time_width=time_width, dtype=dtype) for n in inputs])
        self.attentions = nnx.List([attention(outputs) for _ in inputs] if attention else [])
        if down:
            self.downsamplers = nnx.List([Downsample(outputs, rngs, around=around, dtype=dtype)])
        if up:
            self.upsamplers = nnx.List([Upsample(outputs, rngs, dtype=dtype)])
        self.down, self.up = down, up

    def __call__(self, x, c=None, text=None, kept: list | None = None):
        """The image, and all that was on the way; each block has one of `kept` beside it, the last one first."""
        seen, kept = [], kept and kept[::-1]
        for i, block in enumerate(self.resnets):
            x = block(x if kept is None else jnp.concatenate([x, kept[i]], axis=-1), c)
            x = self.attentions[i](x, text) if len(self.attentions) else x
            seen.append(x)
        if self.down:
            x = self.downsamplers[0](x)
            seen.append(x)
        return (self.upsamplers[0](x) if self.up else x), seen


class Middle(nnx.Module):
    """A residual block, attention where there is any, a residual block."""

    def __init__(self, channels: int, attention: Callable | None, *, rngs, groups: int, dtype, epsilon: float = 1e-6, time_width: int = 0):
        block = lambda: ResnetBlock(channels, channels, rngs, groups=groups, epsilon=epsilon, time_width=time_width, dtype=dtype)
        self.resnets = nnx.List([block(), block()])
        self.attentions = nnx.List([attention(channels)] if attention else [])

    def __call__(self, x, c=None, text=None):
        x = self.resnets[0](x, c)
        for attention in self.attentions:
            x = attention(x, text)
        return self.resnets[1](x, c)
