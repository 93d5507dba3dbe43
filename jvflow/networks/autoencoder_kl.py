"""The autoencoder of Stable Diffusion (Rombach et al., arXiv 2112.10752): maps images in [-1, 1] to Gaussian latents.

    encoder   conv; residual blocks at each level, with a downsampling after all but the last; the middle; norm, conv
    middle    residual block, attention, residual block
    decoder   the reverse, with one more block at each level, and upsampling
    moments   mean and log variance, from the encoder through a 1 x 1 convolution

Height and width are divided by 2^(levels - 1).
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jvflow.networks.convolutional import Attention, Level, Middle, convolution, group_norm

LOG_VARIANCE = (-30.0, 20.0)
"""Range that the log variance is clamped to."""


@dataclass(frozen=True)
class KLConfig:
    """The sizes of an `Autoencoder`; the defaults are the sizes of Stable Diffusion 1.5.

    Attributes:
      channels: channels of each level.
      blocks: residual blocks at each level of the encoder; the decoder has one more.
      latent: channels of the latents.
      groups: groups in each group norm.
      attention: whether the middle has attention over all pixels.
      moments: whether there are 1 x 1 convolutions after the encoder and before the decoder.
      dtype: dtype of the computation; parameters are float32.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent: int = 4
    groups: int = 32
    attention: bool = True
    moments: bool = True
    dtype: str = "float32"


class Autoencoder(nnx.Module):
    """The autoencoder; see the top of the file."""

    def __init__(self, config: KLConfig, *, rngs):
        dtype = jnp.dtype(config.dtype)
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)
        if config.moments:
            self.quant_conv = convolution(2 * config.latent, 2 * config.latent, rngs, size=1, dtype=dtype)
            self.post_quant_conv = convolution(config.latent, config.latent, rngs, size=1, dtype=dtype)
        self.moments = config.moments

    def encode(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b h8 w8 c"], Float[Array, "b h8 w8 c"]]:
        """Returns mean and log variance of the latents."""
        moments = self.encoder(images)
        moments = self.quant_conv(moments) if self.moments else moments
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def decode(self, latents: Float[Array, "b h8 w8 c"]) -> Float[Array, "b h w 3"]:
        """Returns images, approximately in [-1, 1] and not clamped."""
        return self.decoder(self.post_quant_conv(latents) if self.moments else latents).astype(jnp.float32)


class Encoder(nnx.Module):
    """Maps images to moments."""

    def __init__(self, config: KLConfig, rngs):
        options, attention = _options(config, rngs)
        first, last = config.channels[0], config.channels[-1]
        self.conv_in = convolution(3, first, rngs, dtype=options["dtype"])
        levels, width = [], first
        for i, n in enumerate(config.channels):
            down, inputs = i < len(config.channels) - 1, [width] + [n] * (config.blocks - 1)
            levels.append(Level(inputs, n, None, down=down, around=False, **options))
            width = n
        self.down_blocks = nnx.List(levels)
        self.mid_block = Middle(last, attention, **options)
        self.conv_norm_out = group_norm(last, config.groups, rngs)
        self.conv_out = convolution(last, 2 * config.latent, rngs, dtype=options["dtype"])

    def __call__(self, x):
        x = self.conv_in(x)
        for level in self.down_blocks:
            x, _ = level(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """Maps latents to images."""

    def __init__(self, config: KLConfig, rngs):
        options, attention = _options(config, rngs)
        channels = config.channels[::-1]
        self.conv_in = convolution(config.latent, channels[0], rngs, dtype=options["dtype"])
        self.mid_block = Middle(channels[0], attention, **options)
        levels, width = [], channels[0]
        for i, n in enumerate(channels):
            levels.append(Level([width] + [n] * config.blocks, n, None, up=i < len(channels) - 1, **options))
            width = n
        self.up_blocks = nnx.List(levels)
        self.conv_norm_out = group_norm(channels[-1], config.groups, rngs)
        self.conv_out = convolution(channels[-1], 3, rngs, dtype=options["dtype"])

    def __call__(self, x):
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x, _ = level(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))


def _options(config: KLConfig, rngs):
    """Returns the options of all levels, and the function that makes the middle's attention, or None."""
    options = dict(groups=config.groups, dtype=jnp.dtype(config.dtype))
    attention = lambda channels: Attention(channels, rngs, **options)
    return options | dict(rngs=rngs), attention if config.attention else None
