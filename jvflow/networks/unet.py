"""The U-Net of diffusion models on images (Ho et al., arXiv 2006.11239), of the shapes that the diffusers package gives it: Bi-flow's network,
and with text that of Stable Diffusion (Rombach et al., arXiv 2112.10752).

    time     MLP(sines(t)) + MLP(sines(level)) where there is a level
    down     per level residual blocks, with attention where the level attends, and a halving but at the last
    middle   residual, attention, residual
    up       the same the other way with one block more at each level, each with what the way down had beside it

Attention is over all places of the image; with text it is a transformer block, over places, to the text, and an MLP. Images are (b, h, w, c); height and width are multiples of 2^(levels - 1).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jvflow.parallel.constrain import ROWS, constrain
from jvflow.networks.convolutional import Attention, Level, Middle, TextTransformer, convolution, group_norm
from jvflow.networks.layers import TimeMLP, sines


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a `UNet`.

    Attributes:
      channels: of each level.
      attends: of each level on the way down, whether it attends.
      inputs, outputs: channels of the image, and of what is said of it.
      blocks: residual blocks of a level on the way down; one more on the way up.
      groups, epsilon: of each group norm.
      head: channels of a head of attention, where `heads` does not say how many there are.
      heads: of each attention; 0 goes by `head`.
      text_width: of the text's tokens, 0 without.
      level: whether there is a second coordinate beside time, Bi-flow's noise level.
      frequency_shift: of the sines, see `layers.sines`.
      dtype: of the computation; parameters are float32.
      remat: "none", or "full": the backward pass computes the inside of each level again.
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
            raise ValueError(f"a U-Net of {len(self.channels)} levels has as many answers on attention, got {len(self.attends)}")
        uneven = [n for n in self.channels if n % self.groups or n % (self.heads or self.head)]
        if uneven:
            raise ValueError(f"channels {uneven} are no multiples of groups {self.groups} and {'heads' if self.heads else 'head'} {self.heads or self.head}")


class UNet(nnx.Module):
    """See the top of the file. `(x (b, h, w, c), time (b,), level (b,) or None, text (b, n, d) or None) -> (b, h, w, outputs)`."""

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        channels, dtype = config.channels, jnp.dtype(config.dtype)
        first, last, width = channels[0], channels[-1], 4 * channels[0]
        of = dict(rngs=rngs, groups=config.groups, epsilon=config.epsilon, time_width=width, dtype=dtype)
        attention = lambda n: _attention(config, n, rngs)
        self.config = config
        self.conv_in = convolution(config.inputs, first, rngs, dtype=dtype)
        self.time_embedding = TimeMLP(first, width, rngs, dtype)
        if config.level:
            self.class_embedding = TimeMLP(first, width, rngs, dtype)  # the package's name for a second time
        before, skips, downs = first, [first], []
        for i, (n, attends) in enumerate(zip(channels, config.attends)):
            halves = i < len(channels) - 1
            downs.append(Level([before] + [n] * (config.blocks - 1), n, attention if attends else None, down=halves, **of))
            skips += [n] * (config.blocks + halves)
            before = n
        self.down_blocks = nnx.List(downs)
        self.mid_block = Middle(last, attention, **of)
        ups = []
        for i, (n, attends) in enumerate(zip(channels[::-1], config.attends[::-1])):
            inputs = []
            for _ in range(config.blocks + 1):
                inputs.append(before + skips.pop())
                before = n
            ups.append(Level(inputs, n, attention if attends else None, up=i < len(channels) - 1, **of))
        self.up_blocks = nnx.List(ups)
        self.conv_norm_out = group_norm(first, config.groups, rngs, config.epsilon)
        self.conv_out = convolution(first, config.outputs, rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b"], level: Float[Array, "b"] | None = None, text: Float[Array, "b n d"] | None = None
    ) -> Float[Array, "b h w o"]:
        config = self.config
        factor = 2 ** (len(config.channels) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(f"height and width must be multiples of {factor} for {len(config.channels)} levels, got {x.shape[1]} x {x.shape[2]}")
        if (level is not None) != config.level:
            raise ValueError(f"the network was built with{'' if config.level else 'out'} a noise level, and got {'one' if level is not None else 'none'}")
        if (text is not None) != bool(config.text_width):
            raise ValueError(f"the network was built with{'' if config.text_width else 'out'} text, and got {'some' if text is not None else 'none'}")
        features = lambda s: sines(s, config.channels[0], shift=config.frequency_shift)
        c = self.time_embedding(features(time))
        c = c + self.class_embedding(features(level)) if config.level else c
        again = jax.checkpoint if config.remat == "full" else lambda function: function
        rows = lambda x: constrain(x, ROWS, None, None, None)
        x = rows(self.conv_in(x))
        kept = [x]
        for down in self.down_blocks:
            x, seen = again(down)(x, c, text)
            x, kept = rows(x), kept + seen
        x = rows(again(self.mid_block)(x, c, text))
        for up in self.up_blocks:
            count = len(up.resnets)
            (x, _), kept = again(up)(x, c, text, kept[-count:]), kept[:-count]
            x = rows(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x))).astype(jnp.float32)


def _attention(config: UNetConfig, channels: int, rngs) -> nnx.Module:
    of = dict(heads=config.heads or channels // config.head, groups=config.groups, dtype=jnp.dtype(config.dtype))
    if config.text_width:
        return TextTransformer(channels, config.text_width, rngs, **of)
    return Attention(channels, rngs, epsilon=config.epsilon, **of)
