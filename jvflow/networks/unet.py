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
from functools import partial

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
      attends: whether each level has attention on the way down.
      attends_up: the same on the way up, also from the first level to the last; () for the same levels.
      inputs, outputs: channels of the image, and of the result.
      blocks: residual blocks of each level of down; a level of up has one more.
      groups, epsilon: options of each group norm.
      middle_groups: groups of the middle's attention, 0 for `groups`.
      middle_attends: whether the middle has attention.
      head: channels of an attention head, unless `heads` is given.
      heads: number of heads of each level's attention; () to use `head`.
      text_width: width of the text's tokens, 0 for no text.
      linear: whether the layers around attention to text are linear layers instead of 1 x 1 convolutions.
      level: whether there is a second coordinate, Bi-flow's noise level.
      frequency_shift: shift of the frequencies, see `layers.sinusoidal_features`.
      sines_first: whether the sines of a coordinate come before its cosines.
      around: whether zeros pad an image on all sides before a downsampling, or at bottom and right only.
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
    heads: tuple[int, ...] = ()
    text_width: int = 0
    linear: bool = False
    level: bool = False
    frequency_shift: int | float = 0
    sines_first: bool = False
    around: bool = True
    attends_up: tuple[bool, ...] = ()
    middle_groups: int = 0
    middle_attends: bool = True
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in ("none", "full"):
            raise ValueError(f"unknown remat {self.remat!r} of a U-Net: use none or full")
        if len(self.channels) != len(self.attends):
            raise ValueError(
                f"a U-Net of {len(self.channels)} levels needs as many entries in attends, got {len(self.attends)}"
            )
        uneven = [n for n in self.channels if n % self.groups]
        if uneven:
            raise ValueError(f"channels {uneven} are no multiples of groups {self.groups}")
        levels = list(zip(self.channels, self.attends, self.attends_up or self.attends, strict=True))
        for number, (n, down, up) in enumerate(levels):
            attends = down or up or (self.middle_attends and number == len(levels) - 1)
            unit = (self.heads[number] if self.heads else self.head) if attends else 1
            if n % unit:
                name = "heads" if self.heads else "head"
                raise ValueError(f"channels {n} of level {number} are no multiple of {name} {unit}")
        if self.middle_groups and self.channels[-1] % self.middle_groups:
            raise ValueError(f"channels {self.channels[-1]} are no multiple of middle_groups {self.middle_groups}")


class UNet(nnx.Module):
    """The network; see the top of the file."""

    def __init__(self, config: UNetConfig, *, rngs):
        channels, dtype = config.channels, jnp.dtype(config.dtype)
        first, last, width = channels[0], channels[-1], 4 * channels[0]
        options = dict(rngs=rngs, groups=config.groups, epsilon=config.epsilon, time_width=width, dtype=dtype)
        attention = lambda level, attends=True: partial(_attention, config, level, rngs) if attends else None
        last_level = len(channels) - 1
        self.config = config
        self.conv_in = convolution(config.inputs, first, rngs, dtype=dtype)
        self.time_embedding = TimeMLP(first, width, rngs, dtype)
        if config.level:
            self.class_embedding = TimeMLP(first, width, rngs, dtype)  # diffusers' name for a second coordinate
        width_in, skips, downs = first, [first], []
        for i, (n, attends) in enumerate(zip(channels, config.attends)):
            down, inputs = i < last_level, [width_in] + [n] * (config.blocks - 1)
            downs.append(Level(inputs, n, attention(i, attends), down=down, around=config.around, **options))
            skips += [n] * (config.blocks + down)
            width_in = n
        self.down_blocks = nnx.List(downs)
        middle = partial(_attention, config, last_level, rngs, groups=config.middle_groups or config.groups)
        self.mid_block = Middle(last, middle if config.middle_attends else None, **options)
        ups = []
        for i, (n, attends) in reversed(list(enumerate(zip(channels, config.attends_up or config.attends)))):
            inputs = []
            for _ in range(config.blocks + 1):
                inputs.append(width_in + skips.pop())
                width_in = n
            ups.append(Level(inputs, n, attention(i, attends), up=i > 0, **options))
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
        features = partial(_features, config)
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


def _features(config: UNetConfig, s) -> Float[Array, "b d"]:
    features = sinusoidal_features(s, config.channels[0], shift=config.frequency_shift)
    return jnp.roll(features, features.shape[-1] // 2, axis=-1) if config.sines_first else features


def _attention(config: UNetConfig, level: int, rngs, channels: int, groups: int = 0) -> nnx.Module:
    heads = config.heads[level] if config.heads else channels // config.head
    options = dict(heads=heads, groups=groups or config.groups, dtype=jnp.dtype(config.dtype))
    if config.text_width:
        return TextTransformer(channels, config.text_width, rngs, linear=config.linear, **options)
    return Attention(channels, rngs, epsilon=config.epsilon, **options)
