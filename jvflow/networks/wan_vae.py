"""The autoencoder of Wan 2.1 (arXiv 2503.20314).

A latent pixel stands for 8 x 8 pixels and 4 frames; the first latent frame stands for one frame.

    encoder    levels of residual blocks; all but the last halve height and width, and some also halve the frames
    decoder    the reverse; in both a frame sees no later frames, and zeros pad the frames before the first one
    middle     a block, attention within each frame, a block
    block      x + conv(silu(norm(conv(silu(norm(x))))))      norm divides by the channels' length / sqrt(channels)

A convolution over three frames halves their number. A convolution with twice the channels doubles it: its channels are
two frames. Both leave the first frame as it is, and the doubling convolution sees zeros in its place.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from jvflow.networks.layers import attention
from jvflow.networks.streaming import WHOLE

Video = Float[Array, "b f h w c"]
Resized = Float[Array, "b _ _ _ _"]
QUERIES = 2048
"""Pixels of a frame that attend at a time: the one head is too wide for a kernel, and a large frame has many."""


@dataclass(frozen=True)
class WanVAEConfig:
    """The sizes of a `WanVAE`; the defaults are the sizes of Wan 2.1.

    Attributes:
      width, decoder_width: channels of encoder and decoder; `levels` multiplies them at each level.
      levels: channel factors of the encoder's levels, from first to last.
      blocks: residual blocks of each level of the encoder; a level of the decoder has one more.
      halves: whether each level but the last halves the number of frames.
      latent: channels of the latents.
    """

    width: int = 96
    decoder_width: int = 96
    levels: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    halves: tuple[bool, ...] = (False, True, True)
    latent: int = 16


class WanVAE(nnx.Module):
    """The autoencoder; see the top of the file. The encoder does not normalize latents."""

    def __init__(self, config: WanVAEConfig, *, rngs):
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)
        self.quant_conv, self.post_quant_conv = (
            _convolution(n, n, 1, rngs) for n in (2 * config.latent, config.latent)
        )

    def encode(self, video: Video, stream=WHOLE) -> tuple[Resized, Resized]:
        """Maps a video (b, 4 k + 1, h, w, 3) in [-1, 1] to mean and log variance (b, k + 1, h / 8, w / 8, latent)."""
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(video, stream)), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(self, latents: Video, stream=WHOLE) -> Resized:
        """Returns a video in [-1, 1]."""
        return jnp.clip(self.decoder(self.post_quant_conv(latents), stream), -1, 1)


class Encoder(nnx.Module):
    """Maps a video to mean and log variance, before their 1 x 1 convolution."""

    def __init__(self, config: WanVAEConfig, rngs):
        width = config.width
        self.conv_in = Causal(3, width, rngs)
        layers = []
        for i, level in enumerate(config.levels):
            for _ in range(config.blocks):
                layers.append(Block(width, config.width * level, rngs))
                width = config.width * level
            if i < len(config.levels) - 1:
                layers.append(Down(width, config.halves[i], rngs))
        self.down_blocks = nnx.List(layers)
        self.mid_block = Middle(width, rngs)
        self.norm_out = Norm(width, 4)
        self.conv_out = Causal(width, 2 * config.latent, rngs)

    def __call__(self, x, stream):
        x = self.conv_in(x, stream)
        for layer in self.down_blocks:
            x = layer(x, stream)
        return self.conv_out(nnx.silu(self.norm_out(self.mid_block(x, stream))), stream)


class Decoder(nnx.Module):
    """Maps latents to a video."""

    def __init__(self, config: WanVAEConfig, rngs):
        channels = [config.decoder_width * level for level in config.levels[::-1]]
        self.conv_in = Causal(config.latent, channels[0], rngs)
        self.mid_block = Middle(channels[0], rngs)
        levels, width = [], channels[0]
        for i, n in enumerate(channels):
            last = i == len(channels) - 1
            levels.append(UpLevel(width, n, config.blocks + 1, None if last else config.halves[::-1][i], rngs))
            width = n // 2
        self.up_blocks = nnx.List(levels)
        self.norm_out = Norm(channels[-1], 4)
        self.conv_out = Causal(channels[-1], 3, rngs)

    def __call__(self, x, stream):
        x = self.mid_block(self.conv_in(x, stream), stream)
        for level in self.up_blocks:
            x = level(x, stream)
        return self.conv_out(nnx.silu(self.norm_out(x)), stream)


class UpLevel(nnx.Module):
    """Residual blocks, and an upsampling after them that halves the channels.

    Args:
      doubles: whether the upsampling doubles the frames too; None for no upsampling.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, doubles: bool | None, rngs):
        self.resnets = nnx.List([Block(outputs if i else inputs, outputs, rngs) for i in range(blocks)])
        self.upsamplers = nnx.List([] if doubles is None else [Up(outputs, doubles, rngs)])

    def __call__(self, x, stream):
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x, stream)
        return x


class Middle(nnx.Module):
    """A block, attention within each frame, a block."""

    def __init__(self, channels: int, rngs):
        self.resnets = nnx.List([Block(channels, channels, rngs) for _ in range(2)])
        self.attentions = nnx.List([Attention(channels, rngs)])

    def __call__(self, x, stream):
        return self.resnets[1](self.attentions[0](self.resnets[0](x, stream)), stream)


class Block(nnx.Module):
    """A residual block, see the top of the file."""

    def __init__(self, inputs: int, outputs: int, rngs):
        self.norm1, self.conv1 = Norm(inputs, 4), Causal(inputs, outputs, rngs)
        self.norm2, self.conv2 = Norm(outputs, 4), Causal(outputs, outputs, rngs)
        self.changes_channels = inputs != outputs
        if self.changes_channels:
            self.conv_shortcut = _convolution(inputs, outputs, 1, rngs)

    def __call__(self, x, stream):
        y = self.conv1(nnx.silu(self.norm1(x)), stream)
        y = self.conv2(nnx.silu(self.norm2(y)), stream)
        return y + (self.conv_shortcut(x) if self.changes_channels else x)


class Attention(nnx.Module):
    """Attention of all pixels of a frame to one another, with one head."""

    def __init__(self, channels: int, rngs):
        self.norm = Norm(channels, 3)
        self.to_qkv, self.proj = (nnx.Conv(channels, n, (1, 1), rngs=rngs) for n in (3 * channels, channels))

    def __call__(self, x):
        b, _, h, w, _ = x.shape
        frames = rearrange(x, "b f h w c -> (b f) h w c")
        qkv = rearrange(self.to_qkv(self.norm(frames)), "n h w (three c) -> three n (h w) 1 c", three=3)
        y = rearrange(attention(*qkv, QUERIES), "n (h w) 1 c -> n h w c", h=h, w=w)
        return x + rearrange(self.proj(y), "(b f) h w c -> b f h w c", b=b)


class Down(nnx.Module):
    """Halves height and width, and with `halves` the frames."""

    def __init__(self, channels: int, halves: bool, rngs):
        self.resample = nnx.List(
            [nnx.Module(), nnx.Conv(channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), rngs=rngs)]
        )
        if halves:
            self.time_conv = Causal(channels, channels, rngs, size=(3, 1, 1), stride=2)
        self.halves = halves

    def __call__(self, x, stream):
        x = _by_frame(self.resample[1], x)
        if not self.halves:
            return x
        y = self.time_conv(x, stream)
        return jnp.where(stream.indices(y) == 0, stream.last_of_groups(x, 2), y)


class Up(nnx.Module):
    """Doubles the frames with `doubles`, then height and width, and halves the channels."""

    def __init__(self, channels: int, doubles: bool, rngs):
        self.resample = nnx.List([nnx.Module(), nnx.Conv(channels, channels // 2, (3, 3), rngs=rngs)])
        if doubles:
            self.time_conv = Causal(channels, 2 * channels, rngs, size=(3, 1, 1))
        self.doubles = doubles

    def __call__(self, x, stream):
        if self.doubles:
            y = self.time_conv(jnp.where(stream.indices(x) == 0, 0, x), stream)
            y = stream.trim_first_pair(rearrange(y, "b f h w (two c) -> b (f two) h w c", two=2))
            unchanged = stream.trim_first_pair(jnp.repeat(x, 2, axis=1))
            stream.split_pairs()
            x = jnp.where(stream.indices(y) == 0, unchanged, y)
        return _by_frame(self.resample[1], jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


class Causal(nnx.Conv):
    """A convolution over frames, rows and columns, in which a frame sees no later frames."""

    def __init__(self, inputs: int, outputs: int, rngs, *, size: tuple[int, int, int] = (3, 3, 3), stride: int = 1):
        around = size[1] // 2
        super().__init__(
            inputs,
            outputs,
            size,
            strides=(stride, 1, 1),
            padding=((0, 0), (around, around), (around, around)),
            rngs=rngs,
        )
        self.before, self.stride = size[0] - 1, stride

    def __call__(self, x, stream):
        return super().__call__(stream.pad(x, self.before, stride=self.stride, zeros=True))


class Norm(nnx.Module):
    """Divides the channels by their length, and multiplies by the square root of their number.

    Args:
      axes: number of axes of the public tensor.
    """

    def __init__(self, channels: int, axes: int):
        self.gamma = nnx.Param(jnp.ones((channels, *[1] * (axes - 1))))

    def __call__(self, x):
        length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
        return (
            x / jnp.maximum(length, 1e-12) * x.shape[-1] ** 0.5 * self.gamma[...].reshape((1,) * (x.ndim - 1) + (-1,))
        )


def _convolution(inputs: int, outputs: int, size: int, rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size,) * 3, rngs=rngs)


def _by_frame(layer, x: Video) -> Resized:
    """Applies an image layer to each frame."""
    return rearrange(layer(rearrange(x, "b f h w c -> (b f) h w c")), "(b f) h w c -> b f h w c", b=len(x))
