"""The autoencoder of Wan 2.1 (arXiv 2503.20314): 8 x 8 pixels and 4 frames to a place of the latents, of which the first frame has one for itself.

    encoder    levels of residual blocks, each with half of height and width after it, and some with half of the frames
    decoder    the same the other way; all frames see those before them alone, before which there are zeros
    middle     a block, attention within each frame, a block
    block      x + conv(silu(norm(conv(silu(norm(x))))))            norm is over the length of the channels, times sqrt(channels)

Frames are halved by a convolution over three of them, and doubled by one whose channels are two frames each. The first frame goes through neither,
and is zeros for those that are doubled.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from jvflow.networks.streaming import WHOLE

Video = Float[Array, "b f h w c"]


@dataclass(frozen=True)
class WanVAEConfig:
    """The sizes of a `WanVAE`; the defaults are those of Wan 2.1.

    Attributes:
      width, decoder_width: channels of the levels are these times `levels`.
      levels: from the first of the encoder on.
      blocks: of each level of the encoder; those of the decoder have one more.
      halves: of each level but the last, whether frames are halved after it.
      latent: channels of the latents.
    """

    width: int = 96
    decoder_width: int = 96
    levels: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    halves: tuple[bool, ...] = (False, True, True)
    latent: int = 16


class WanVAE(nnx.Module):
    """See the top of the file. Latents are as the encoder has them."""

    def __init__(self, config: WanVAEConfig, *, rngs: nnx.Rngs):
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)
        self.quant_conv, self.post_quant_conv = (_convolution(n, n, 1, rngs) for n in (2 * config.latent, config.latent))

    def encode(self, video: Video, frames=WHOLE) -> tuple[Video, Video]:
        """Video (b, 4 k + 1, h, w, 3) in [-1, 1], or a piece of it -> mean and log variance (b, k + 1, h / 8, w / 8, latent)."""
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(video, frames)), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(self, latents: Video, frames=WHOLE) -> Video:
        """Latents, or a piece of them -> video in [-1, 1]."""
        return jnp.clip(self.decoder(self.post_quant_conv(latents), frames), -1, 1)


class Encoder(nnx.Module):
    """Video to what the mean and the log variance are made of."""

    def __init__(self, config: WanVAEConfig, rngs):
        before = config.width
        self.conv_in = Causal(3, before, rngs)
        layers = []
        for i, level in enumerate(config.levels):
            for _ in range(config.blocks):
                layers.append(Block(before, config.width * level, rngs))
                before = config.width * level
            if i < len(config.levels) - 1:
                layers.append(Down(before, config.halves[i], rngs))
        self.down_blocks = nnx.List(layers)
        self.mid_block = Middle(before, rngs)
        self.norm_out = Norm(before, 4)
        self.conv_out = Causal(before, 2 * config.latent, rngs)

    def __call__(self, x, frames):
        x = self.conv_in(x, frames)
        for layer in self.down_blocks:
            x = layer(x, frames)
        return self.conv_out(nnx.silu(self.norm_out(self.mid_block(x, frames))), frames)


class Decoder(nnx.Module):
    """Latents to video."""

    def __init__(self, config: WanVAEConfig, rngs):
        channels = [config.decoder_width * level for level in config.levels[::-1]]
        self.conv_in = Causal(config.latent, channels[0], rngs)
        self.mid_block = Middle(channels[0], rngs)
        levels, before = [], channels[0]
        for i, n in enumerate(channels):
            last = i == len(channels) - 1
            levels.append(UpLevel(before, n, config.blocks + 1, None if last else config.halves[::-1][i], rngs))
            before = n // 2
        self.up_blocks = nnx.List(levels)
        self.norm_out = Norm(channels[-1], 4)
        self.conv_out = Causal(channels[-1], 3, rngs)

    def __call__(self, x, frames):
        x = self.mid_block(self.conv_in(x, frames), frames)
        for level in self.up_blocks:
            x = level(x, frames)
        return self.conv_out(nnx.silu(self.norm_out(x)), frames)


class UpLevel(nnx.Module):
    """Residual blocks, and twice the height and the width after them, with half the channels; `doubles` says whether twice the frames too, None that neither."""

    def __init__(self, inputs: int, outputs: int, blocks: int, doubles: bool | None, rngs):
        self.resnets = nnx.List([Block(outputs if i else inputs, outputs, rngs) for i in range(blocks)])
        self.upsamplers = nnx.List([] if doubles is None else [Up(outputs, doubles, rngs)])

    def __call__(self, x, frames):
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x, frames)
        return x


class Middle(nnx.Module):
    """A block, attention within each frame, a block."""

    def __init__(self, channels: int, rngs):
        self.resnets = nnx.List([Block(channels, channels, rngs) for _ in range(2)])
        self.attentions = nnx.List([Attention(channels, rngs)])

    def __call__(self, x, frames):
        return self.resnets[1](self.attentions[0](self.resnets[0](x, frames)), frames)


class Block(nnx.Module):
    """A residual block, see the top of the file."""

    def __init__(self, inputs: int, outputs: int, rngs):
        self.norm1, self.conv1 = Norm(inputs, 4), Causal(inputs, outputs, rngs)
        self.norm2, self.conv2 = Norm(outputs, 4), Causal(outputs, outputs, rngs)
        self.changes = inputs != outputs
        if self.changes:
            self.conv_shortcut = _convolution(inputs, outputs, 1, rngs)

    def __call__(self, x, frames):
        y = self.conv1(nnx.silu(self.norm1(x)), frames)
        y = self.conv2(nnx.silu(self.norm2(y)), frames)
        return y + (self.conv_shortcut(x) if self.changes else x)


class Attention(nnx.Module):
    """Of all places of a frame to one another, with one head."""

    def __init__(self, channels: int, rngs):
        self.norm = Norm(channels, 3)
        self.to_qkv, self.proj = (nnx.Conv(channels, n, (1, 1), rngs=rngs) for n in (3 * channels, channels))

    def __call__(self, x):
        b, _, h, w, _ = x.shape
        frames = rearrange(x, "b f h w c -> (b f) h w c")
        qkv = rearrange(self.to_qkv(self.norm(frames)), "n h w (three c) -> three n (h w) 1 c", three=3)
        y = rearrange(jax.nn.dot_product_attention(*qkv), "n (h w) 1 c -> n h w c", h=h, w=w)
        return x + rearrange(self.proj(y), "(b f) h w c -> b f h w c", b=b)


class Down(nnx.Module):
    """Half of height and width, and with `halves` of the frames."""

    def __init__(self, channels: int, halves: bool, rngs):
        self.resample = nnx.List([nnx.Module(), nnx.Conv(channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), rngs=rngs)])
        if halves:
            self.time_conv = Causal(channels, channels, rngs, size=(3, 1, 1), stride=2)
        self.halves = halves

    def __call__(self, x, frames):
        x = _by_frame(self.resample[1], x)
        if not self.halves:
            return x
        y = self.time_conv(x, frames)
        return jnp.where(frames.numbers(y) == 0, frames.ends(x, 2), y)


class Up(nnx.Module):
    """Twice the height and the width with half the channels, and with `doubles` twice the frames before."""

    def __init__(self, channels: int, doubles: bool, rngs):
        self.resample = nnx.List([nnx.Module(), nnx.Conv(channels, channels // 2, (3, 3), rngs=rngs)])
        if doubles:
            self.time_conv = Causal(channels, 2 * channels, rngs, size=(3, 1, 1))
        self.doubles = doubles

    def __call__(self, x, frames):
        if self.doubles:
            y = self.time_conv(jnp.where(frames.numbers(x) == 0, 0, x), frames)
            y = frames.unpaired(rearrange(y, "b f h w (two c) -> b (f two) h w c", two=2))
            same = frames.unpaired(jnp.repeat(x, 2, axis=1))
            frames.ungrouped()
            x = jnp.where(frames.numbers(y) == 0, same, y)
        return _by_frame(self.resample[1], jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


class Causal(nnx.Conv):
    """A convolution over frames, rows and columns, before the first of which there are zeros."""

    def __init__(self, inputs: int, outputs: int, rngs, *, size: tuple[int, int, int] = (3, 3, 3), stride: int = 1):
        around = size[1] // 2
        super().__init__(inputs, outputs, size, strides=(stride, 1, 1), padding=((0, 0), (around, around), (around, around)), rngs=rngs)
        self.before, self.every = size[0] - 1, stride

    def __call__(self, x, frames):
        return super().__call__(frames.around(x, self.before, stride=self.every, zeros=True))


class Norm(nnx.Module):
    """Over the length of the channels, times the square root of their number; `axes` is how many the public tensor has."""

    def __init__(self, channels: int, axes: int):
        self.gamma = nnx.Param(jnp.ones((channels, *[1] * (axes - 1))))

    def __call__(self, x):
        size = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
        return x / jnp.maximum(size, 1e-12) * x.shape[-1] ** 0.5 * self.gamma[...].reshape((1,) * (x.ndim - 1) + (-1,))


def _convolution(inputs: int, outputs: int, size: int, rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size,) * 3, rngs=rngs)


def _by_frame(layer, x: Video) -> Video:
    """A layer of images on each frame."""
    return rearrange(layer(rearrange(x, "b f h w c -> (b f) h w c")), "(b f) h w c -> b f h w c", b=len(x))
