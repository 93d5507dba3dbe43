"""The U-Net of diffusion models on images (Ho et al., arXiv 2006.11239), in the shapes of the diffusers package.

Bi-flow's authors use it. With text it is the U-Net of Stable Diffusion (Rombach et al., arXiv 2112.10752).

    time     MLP(sines(t)), plus MLP(sines(noise level)) if there is a second coordinate
    down     residual blocks at each level, with attention at some levels, and a downsampling after all but the last
    middle   residual block, attention, residual block
    up       the reverse with one more block at each level; each block also takes a skip connection from down

Attention is over all pixels of the image; with text it is a transformer block: attention over pixels, attention to the
text, and an MLP. Images are (b, h, w, c); height and width are multiples of 2^(levels - 1).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from jvflow.networks.convolutional import Attention, Level, Middle, TextTransformer, convolution, group_norm
from jvflow.networks.layers import constrain, sinusoidal_features
from jvflow.networks.public_layers import TimeMLP
from jvflow.parallel.sharding import ROWS


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a `UNet`.

    Attributes:
      channels: channels of each level.
      attends: whether each level has attention.
      inputs, outputs: channels of the image, and of the result.
      blocks: residual blocks of each level of down; a level of up has one more.
      groups, epsilon: options of each group norm.
      head: channels of an attention head, unless `heads` is given.
      heads: number of heads of each attention; 0 to use `head`.
      text_width: width of the text's tokens, 0 for no text.
      level: whether there is a second coordinate, Bi-flow's noise level.
      frequency_shift: shift of the frequencies, see `layers.sinusoidal_features`.
      dtype: dtype of the computation; parameters are float32.
      remat: "none", or "full" to compute the inside of each level again in the backward pass.
    """

    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    inputs: int = 3
    outputs: int = 3
    blocks: int = 2
    groups: int = 32
    epsilon: float = 1e-5
    head: int = 8
    heads: int = 0
    text_width: int = 0
    level: bool = False
    frequency_shift: int = 0
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in ("none", "full"):
            raise ValueError(f"unknown remat {self.remat!r} of a U-Net: use none or full")
        if len(self.channels) != len(self.attends):
            raise ValueError(
                f"a U-Net of {len(self.channels)} levels needs as many entries in attends, got {len(self.attends)}"
            )
        uneven = [n for n in self.channels if n % self.groups or n % (self.heads or self.head)]
        if uneven:
            raise ValueError(
                f"channels {uneven} are no multiples of groups {self.groups} and "
                f"{'heads' if self.heads else 'head'} {self.heads or self.head}"
            )


class UNet(nnx.Module):
    """The network; see the top of the file."""

    def __init__(self, config: UNetConfig, *, rngs):
        channels, dtype = config.channels, jnp.dtype(config.dtype)
        first, last, width = channels[0], channels[-1], 4 * channels[0]
        options = dict(rngs=rngs, groups=config.groups, epsilon=config.epsilon, time_width=width, dtype=dtype)
        attention = lambda n: _attention(config, n, rngs)
        self.config = config
        self.conv_in = convolution(config.inputs, first, rngs, dtype=dtype)
        self.time_embedding = TimeMLP(first, width, rngs, dtype)
        if config.level:
            self.class_embedding = TimeMLP(first, width, rngs, dtype)  # diffusers' name for a second coordinate
        width_in, skips, downs = first, [first], []
        for i, (n, attends) in enumerate(zip(channels, config.attends)):
            down, inputs = i < len(channels) - 1, [width_in] + [n] * (config.blocks - 1)
            downs.append(Level(inputs, n, attention if attends else None, down=down, **options))
            skips += [n] * (config.blocks + down)
            width_in = n
        self.down_blocks = nnx.List(downs)
        self.mid_block = Middle(last, attention, **options)
        ups = []
        for i, (n, attends) in enumerate(zip(channels[::-1], config.attends[::-1])):
            inputs = []
            for _ in range(config.blocks + 1):
                inputs.append(width_in + skips.pop())
                width_in = n
            ups.append(Level(inputs, n, attention if attends else None, up=i < len(channels) - 1, **options))
        self.up_blocks = nnx.List(ups)
        self.conv_norm_out = group_norm(first, config.groups, rngs, config.epsilon)
        self.conv_out = convolution(first, config.outputs, rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Num[Array | np.ndarray, "b"],
        level: Num[Array | np.ndarray, "b"] | None = None,
        text: Float[Array, "b n d"] | None = None,
    ) -> Float[Array, "b h w o"]:
        config = self.config
        factor = 2 ** (len(config.channels) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"height and width must be multiples of {factor} for {len(config.channels)} levels, "
                f"got {x.shape[1]} x {x.shape[2]}"
            )
        if (level is not None) != config.level:
            raise ValueError(
                f"the network was built with{'' if config.level else 'out'} a noise level, "
                f"and got {'one' if level is not None else 'none'}"
            )
        if (text is not None) != bool(config.text_width):
            raise ValueError(
                f"the network was built with{'' if config.text_width else 'out'} text, "
                f"and got {'some' if text is not None else 'none'}"
            )
        features = lambda s: sinusoidal_features(s, config.channels[0], shift=config.frequency_shift)
        c = self.time_embedding(features(time))
        c = c + self.class_embedding(features(level)) if config.level else c
        remat = jax.checkpoint if config.remat == "full" else lambda function: function
        rows = lambda x: constrain(x, ROWS, None, None, None)
        x = rows(self.conv_in(x))
        skips = [x]
        for down in self.down_blocks:
            x, outputs = remat(down)(x, c, text)
            x, skips = rows(x), skips + outputs
        x = rows(remat(self.mid_block)(x, c, text))
        for up in self.up_blocks:
            count = len(up.resnets)
            (x, _), skips = remat(up)(x, c, text, skips[-count:]), skips[:-count]
            x = rows(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x))).astype(jnp.float32)


def _attention(config: UNetConfig, channels: int, rngs) -> nnx.Module:
    heads = config.heads or channels // config.head
    options = dict(heads=heads, groups=config.groups, dtype=jnp.dtype(config.dtype))
    if config.text_width:
        return TextTransformer(channels, config.text_width, rngs, **options)
    return Attention(channels, rngs, epsilon=config.epsilon, **options)
