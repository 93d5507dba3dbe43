"""The autoencoders of LTX-Video (HaCohen et al., arXiv 2501.00103), versions 0.9.0, 0.9.1 and 0.9.5 to 0.9.8.

A latent pixel stands for 32 x 32 pixels and 8 frames; the first latent frame stands for one frame.

    encoder    4 x 4 pixels as channels, then levels of residual blocks with downsampling; frames see no later frames
    decoder    the reverse; frames see later frames too. From 0.9.1 on it takes the latents' noise level, in [0, 1]
    block      x + conv(silu(norm(conv(silu(norm(x))))))      norm divides by the channels' root mean square

Downsampling in 0.9.5 is a convolution after which neighbouring pixels become channels; the mean of the neighbours is
added. In 0.9.0 it is a convolution of stride 2. Copies of the first frame, or of first and last frame, pad the frames;
zeros pad height and width. All channels of a latent pixel share one log variance.

In 0.9.1 some blocks of the decoder add noise after both convolutions: one image of noise for all frames, times a
learned scale of each channel. Here the noise of each block has a fixed key: the same latents give the same video.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jaxtyping import Array, Float

from jvflow.networks import layers
from jvflow.networks.layers import FREQUENCIES, sinusoidal_features
from jvflow.networks.public_layers import TimeMLP
from jvflow.networks.streaming import WHOLE

Video = Float[Array, "b f h w c"]
Resized = Float[Array, "b _ _ _ _"]
STRIDES = dict(spatial=(1, 2, 2), temporal=(2, 1, 1), spatiotemporal=(2, 2, 2))

normalize = partial(layers.normalize, epsilon=1e-8, centre=False)
"""Divides the channels by their root mean square."""


@dataclass(frozen=True)
class LTXVAEConfig:
    """The sizes of an `LTXVAE`; the defaults are the sizes of 0.9.5.

    Attributes:
      channels: channels of the encoder's levels; in 0.9.5 followed by the channels of the last level's output.
      blocks: residual blocks of each level of the encoder, then of its middle.
      downs: how each level downsamples: a key of `STRIDES`, "conv" for a convolution of stride 2 (0.9.0), "" if not.
      decoder_channels, decoder_blocks: sizes of the decoder's levels, from last to first, then blocks of its middle.
      ups: whether each level of the decoder doubles frames, height and width, from last to first.
      residual, factor: whether each upsampling adds its input, and by which factor it divides the channels.
      noise: whether each level of the decoder adds noise, from last to first, then its middle; () for none.
      latent: channels of the latents.
      timed: whether the decoder takes a time.
      patch: pixels of a patch along each side.
      epsilon: epsilon of the norms before convolutions that change the channels.
      causal, decoder_causal: whether frames see no later frames, in the encoder and in the decoder.
    """

    channels: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    blocks: tuple[int, ...] = (4, 6, 6, 2, 2)
    downs: tuple[str, ...] = ("spatial", "temporal", "spatiotemporal", "spatiotemporal")
    decoder_channels: tuple[int, ...] = (256, 512, 1024)
    decoder_blocks: tuple[int, ...] = (5, 5, 5, 5)
    ups: tuple[bool, ...] = (True, True, True)
    residual: tuple[bool, ...] = (True, True, True)
    factor: tuple[int, ...] = (2, 2, 2)
    noise: tuple[bool, ...] = ()
    latent: int = 128
    timed: bool = True
    patch: int = 4
    epsilon: float = 1e-6
    causal: bool = True
    decoder_causal: bool = False


class LTXVAE(nnx.Module):
    """The autoencoder; see the top of the file.

    The encoder does not normalize latents; `latents_mean` and `latents_std` are the statistics of their channels.
    """

    def __init__(self, config: LTXVAEConfig, *, rngs):
        self.latents_mean, self.latents_std = nnx.Param(jnp.zeros(config.latent)), nnx.Param(jnp.ones(config.latent))
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)

    def encode(self, video: Video, stream=WHOLE) -> tuple[Resized, Resized]:
        """Maps a video (b, 8 k + 1, h, w, 3) in [-1, 1] to mean and log variance (b, k + 1, h / 32, w / 32, c)."""
        return self.encoder(video, stream)

    def decode(self, latents: Video, time: Float[Array, "b"] | None = None, stream=WHOLE) -> Resized:
        """Returns a video in about [-1, 1]; `time` is the noise level of the latents, for a decoder that takes it."""
        return self.decoder(latents, time, stream)


class Encoder(nnx.Module):
    """Maps a video to mean and log variance."""

    def __init__(self, config: LTXVAEConfig, rngs):
        options = dict(rngs=rngs, causal=config.causal)
        width = config.channels[0]
        self.conv_in = Convolution(3 * config.patch**2, width, **options)
        levels = []
        for i, (down, blocks) in enumerate(zip(config.downs, config.blocks)):
            width_out = config.channels[min(i + 1, len(config.channels) - 1)]
            levels.append(DownLevel(width, width_out, blocks, down, epsilon=config.epsilon, **options))
            width = width_out
        self.down_blocks = nnx.List(levels)
        self.mid_block = Middle(width, config.blocks[-1], timed=False, **options)
        self.conv_out = Convolution(width, config.latent + 1, **options)
        self.patch = config.patch

    def __call__(self, video, stream=WHOLE):
        x = rearrange(video, "b f (h p) (w q) c -> b f h w (c q p)", p=self.patch, q=self.patch)
        x = self.conv_in(x, stream)
        for level in self.down_blocks:
            x = level(x, stream)
        x = self.conv_out(nnx.silu(normalize(self.mid_block(x, stream))), stream)
        mean, log_variance = x[..., :-1], x[..., -1:]
        return mean, jnp.broadcast_to(log_variance, mean.shape)


class Decoder(nnx.Module):
    """Maps latents to a video."""

    def __init__(self, config: LTXVAEConfig, rngs):
        options = dict(rngs=rngs, causal=config.decoder_causal, timed=config.timed)
        channels, blocks = config.decoder_channels[::-1], config.decoder_blocks[::-1]
        noise, seeds = config.noise[::-1] or (False,) * len(blocks), itertools.count()
        width = channels[0]
        self.conv_in = Convolution(config.latent, width, rngs=rngs, causal=config.decoder_causal)
        self.mid_block = Middle(width, blocks[0], seeds=seeds if noise[0] else None, **options)
        levels = []
        sizes = zip(channels, blocks[1:], noise[1:], config.ups[::-1], config.residual[::-1], config.factor[::-1])
        for n, count, noisy, *upsampling in sizes:
            factor, more = upsampling[-1], dict(epsilon=config.epsilon, seeds=seeds if noisy else None)
            levels.append(UpLevel(width // factor, n // factor, count, upsampling, **more, **options))
            width = n // factor
        self.up_blocks = nnx.List(levels)
        self.conv_out = Convolution(width, 3 * config.patch**2, rngs=rngs, causal=config.decoder_causal)
        if config.timed:
            self.timestep_scale_multiplier = nnx.Param(jnp.float32(1000.0))
            self.time_embedder = TimeEmbedder(2 * width, rngs)
            self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (2, width)) / width**0.5)
        self.timed, self.patch = config.timed, config.patch

    def __call__(self, latents, time=None, stream=WHOLE):
        if (time is not None) != self.timed:
            raise ValueError(
                f"this decoder takes {'a' if self.timed else 'no'} time, "
                f"and got {'one' if time is not None else 'none'}"
            )
        time = self.timestep_scale_multiplier[...] * time if self.timed else None
        x = self.mid_block(stream.run(self.conv_in, latents), stream, time)
        for level in self.up_blocks:
            x = level(x, stream, time)
        x = normalize(x)
        if self.timed:
            shift, scale = modulation(self.time_embedder(time), self.scale_shift_table[...])
            x = x * (1 + scale) + shift
        x = stream.run(self.conv_out, nnx.silu(x))
        return rearrange(x, "b f h w (c q p) -> b f (h p) (w q) c", p=self.patch, q=self.patch)


class DownLevel(nnx.Module):
    """Residual blocks and a downsampling; in 0.9.0 also a block that changes the channels."""

    def __init__(self, inputs: int, outputs: int, blocks: int, down: str, *, rngs, causal: bool, epsilon: float):
        self.resnets = nnx.List([Block(inputs, inputs, rngs=rngs, causal=causal) for _ in range(blocks)])
        if down == "conv":
            self.downsamplers = nnx.List([Convolution(inputs, inputs, rngs=rngs, causal=causal, stride=2)])
        elif down:
            self.downsamplers = nnx.List([Fold(inputs, outputs, STRIDES[down], rngs=rngs, causal=causal)])
        self.changes_channels = down in ("conv", "") and inputs != outputs
        if self.changes_channels:
            self.conv_out = Block(inputs, outputs, rngs=rngs, causal=causal, epsilon=epsilon)
        self.down = bool(down)

    def __call__(self, x, stream):
        for block in self.resnets:
            x = block(x, stream)
        x = self.downsamplers[0](x, stream) if self.down else x
        return self.conv_out(x, stream) if self.changes_channels else x


class Middle(nnx.Module):
    """Residual blocks; they add noise if there are `seeds` for it."""

    def __init__(self, channels: int, blocks: int, *, rngs, causal: bool, timed: bool, seeds: Iterator | None = None):
        if timed:
            self.time_embedder = TimeEmbedder(4 * channels, rngs)
        options = dict(rngs=rngs, causal=causal, timed=timed, seeds=seeds)
        self.resnets = nnx.List([Block(channels, channels, **options) for _ in range(blocks)])
        self.timed = timed

    def __call__(self, x, stream, time=None):
        c = self.time_embedder(time) if self.timed else None
        for block in self.resnets:
            x = stream.run(partial(block, c=c), x)
        return x


class UpLevel(nnx.Module):
    """A block if the channels change, an upsampling, and residual blocks."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, upsampling, *, rngs, causal, timed: bool, epsilon: float, seeds
    ):
        up, residual, factor = upsampling
        if timed:
            self.time_embedder = TimeEmbedder(4 * inputs, rngs)
        self.changes_channels = inputs != outputs
        if self.changes_channels:
            self.conv_in = Block(inputs, outputs, rngs=rngs, causal=causal, epsilon=epsilon)
        if up:
            self.upsamplers = nnx.List([Unfold(outputs * factor, residual, factor, rngs=rngs, causal=causal)])
        options = dict(rngs=rngs, causal=causal, timed=timed, seeds=seeds)
        self.resnets = nnx.List([Block(outputs, outputs, **options) for _ in range(blocks)])
        self.timed, self.up = timed, up

    def __call__(self, x, stream, time=None):
        x = stream.run(self.conv_in, x) if self.changes_channels else x
        c = self.time_embedder(time) if self.timed else None
        x = stream.run(self.upsamplers[0], x) if self.up else x
        for block in self.resnets:
            x = stream.run(partial(block, c=c), x)
        return x


class Block(nnx.Module):
    """A residual block, see the top of the file; x passes a norm and a convolution if the channels change.

    Args:
      seeds: gives the block two seeds for its noise; None for no noise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs,
        causal: bool,
        timed: bool = False,
        epsilon: float = 1e-6,
        seeds: Iterator[int] | None = None,
    ):
        self.conv1 = Convolution(inputs, outputs, rngs=rngs, causal=causal)
        self.conv2 = Convolution(outputs, outputs, rngs=rngs, causal=causal)
        self.changes_channels = inputs != outputs
        if self.changes_channels:
            self.norm3 = nnx.LayerNorm(inputs, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
            self.conv_shortcut = Convolution(inputs, outputs, rngs=rngs, causal=causal, size=1)
        if timed:
            self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (4, inputs)) / inputs**0.5)
        self.seeds = None if seeds is None else (next(seeds), next(seeds))
        if self.seeds:
            zeros = lambda: nnx.Param(jnp.zeros((inputs, 1, 1)))
            self.per_channel_scale1, self.per_channel_scale2 = zeros(), zeros()

    def __call__(self, x, stream, c=None):
        shift, scale, shift_2, scale_2 = (0.0,) * 4 if c is None else modulation(c, self.scale_shift_table[...])
        y = self.conv1(nnx.silu(normalize(x) * (1 + scale) + shift), stream)
        y = _add_noise(y, self.seeds[0], self.per_channel_scale1[...]) if self.seeds else y
        y = self.conv2(nnx.silu(normalize(y) * (1 + scale_2) + shift_2), stream)
        y = _add_noise(y, self.seeds[1], self.per_channel_scale2[...]) if self.seeds else y
        x = stream.delay(x, self.conv1.after + self.conv2.after)
        return y + (self.conv_shortcut(self.norm3(x), stream) if self.changes_channels else x)


class Fold(nnx.Module):
    """Downsampling: after a convolution neighbours become channels, and the mean of the input's neighbours is added."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int], *, rngs, causal: bool):
        f, h, w = stride
        self.conv = Convolution(inputs, outputs // (f * h * w), rngs=rngs, causal=causal)
        self.stride, self.outputs = stride, outputs

    def __call__(self, x, stream):
        f, h, w = self.stride
        x = stream.complete_first_group(x, f)
        y = self.conv(x, stream)
        stream.merge_groups(f)
        fold = lambda x: rearrange(x, "b (f i) (h j) (w k) c -> b f h w (c i j k)", i=f, j=h, k=w)
        return fold(y) + reduce(fold(x), "b f h w (c g) -> b f h w c", "mean", c=self.outputs)


class Unfold(nnx.Module):
    """Upsampling: after a convolution channels become neighbours; `residual` adds the input, upsampled likewise."""

    def __init__(self, channels: int, residual: bool, factor: int, *, rngs, causal: bool):
        self.conv = Convolution(channels, 8 * channels // factor, rngs=rngs, causal=causal)
        self.residual, self.repeats = residual, 8 // factor

    def __call__(self, x, stream):
        unfold = lambda x: stream.trim_first_pair(
            rearrange(x, "b f h w (c i j k) -> b (f i) (h j) (w k) c", i=2, j=2, k=2)
        )
        y = unfold(self.conv(x, stream))
        x = stream.delay(x, self.conv.after)
        y = y + repeat(unfold(x), "b f h w c -> b f h w (n c)", n=self.repeats) if self.residual else y
        stream.split_pairs()
        return y


class Convolution(nnx.Module):
    """A convolution over frames, rows and columns."""

    def __init__(self, inputs: int, outputs: int, *, rngs, causal: bool, size: int = 3, stride: int = 1):
        around = size // 2
        padding = ((0, 0), (around, around), (around, around))
        self.conv = nnx.Conv(inputs, outputs, (size,) * 3, strides=stride, padding=padding, rngs=rngs)
        self.before, self.after, self.stride = *((size - 1, 0) if causal else (around, around)), stride

    def __call__(self, x, stream):
        return self.conv(stream.pad(x, self.before, self.after, self.stride))


class TimeEmbedder(nnx.Module):
    """Embeds a time for the modulation of blocks."""

    def __init__(self, width: int, rngs):
        self.timestep_embedder = TimeMLP(FREQUENCIES, width, rngs)

    def __call__(self, time):
        return self.timestep_embedder(sinusoidal_features(time, FREQUENCIES))


def draw_noise(seed: int, size: tuple[int, int]) -> Float[Array, "h w"]:
    """Returns the noise of one layer, the same for all videos, frames and channels."""
    return jax.random.normal(jax.random.key(seed), size)


def _add_noise(y: Video, seed: int, scale: Float[Array, "c 1 1"]) -> Video:
    return y + draw_noise(seed, y.shape[2:4])[None, None, :, :, None] * scale.reshape(1, 1, 1, 1, -1)


def modulation(c: Float[Array, "b kd"], table: Float[Array, "k d"]) -> Float[Array, "k b 1 1 1 d"]:
    """Returns shifts and scales: an embedded time plus the layer's own table."""
    return rearrange(rearrange(c, "b (k d) -> k b d", k=len(table)) + table[:, None], "k b d -> k b 1 1 1 d")
