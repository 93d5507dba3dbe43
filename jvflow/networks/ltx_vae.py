"""The autoencoder of LTX-Video (HaCohen et al., arXiv 2501.00103), of versions 0.9.0 and 0.9.5: 32 x 32 pixels and 8 frames to a place of the latents.

    encoder    patches of 4 x 4 pixels as channels, then levels of residual blocks, each with a reduction; frames see those before them alone
    decoder    the same the other way; frames see one another. In 0.9.5 it is told how much noise there is in the latents (a time of 0 .. 1)
    block      x + conv(silu(norm(conv(silu(norm(x))))))        norm divides by the root mean square of the channels, and has nothing that is learned

Reductions of 0.9.5 are a convolution and all that is left out of a place as channels, added to the mean of what they stand for; those of 0.9.0
convolutions of stride 2. Frames are padded by repeating the first one, or both ends; height and width by zeros. The log variance of a place is one number.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jaxtyping import Array, Float

from jvflow.networks import layers
from jvflow.networks.layers import FREQUENCIES, TimeMLP, sines
from jvflow.networks.streaming import WHOLE

Video = Float[Array, "b f h w c"]
STRIDES = dict(spatial=(1, 2, 2), temporal=(2, 1, 1), spatiotemporal=(2, 2, 2))


@dataclass(frozen=True)
class LTXVAEConfig:
    """The sizes of an `LTXVAE`; the defaults are those of 0.9.5.

    Attributes:
      channels: of the encoder's levels, and one more of the last one's output; in 0.9.0 of its levels.
      blocks: of each level of the encoder, and of its middle.
      downs: of each level: a name of `STRIDES`, "conv" for a convolution of stride 2 in all three (0.9.0), "" for none.
      decoder_channels, decoder_blocks: of the decoder's levels, from the last to the first; blocks of its middle last.
      ups: of each level of the decoder, whether it doubles all three; from the last to the first, as the two that follow.
      residual, factor: whether what is doubled is added to the doubling, and how many times fewer channels it has.
      latent: channels of the latents.
      timed: the decoder is told a time.
      patch: pixels of a patch, each way.
      epsilon: of the norms before convolutions that change the channels.
      causal, decoder_causal: frames see those before them alone.
    """

    channels: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    blocks: tuple[int, ...] = (4, 6, 6, 2, 2)
    downs: tuple[str, ...] = ("spatial", "temporal", "spatiotemporal", "spatiotemporal")
    decoder_channels: tuple[int, ...] = (256, 512, 1024)
    decoder_blocks: tuple[int, ...] = (5, 5, 5, 5)
    ups: tuple[bool, ...] = (True, True, True)
    residual: tuple[bool, ...] = (True, True, True)
    factor: tuple[int, ...] = (2, 2, 2)
    latent: int = 128
    timed: bool = True
    patch: int = 4
    epsilon: float = 1e-6
    causal: bool = True
    decoder_causal: bool = False


class LTXVAE(nnx.Module):
    """See the top of the file. Latents are as the encoder has them; `latents_mean` and `latents_std` are those of their channels."""

    def __init__(self, config: LTXVAEConfig, *, rngs: nnx.Rngs):
        self.latents_mean, self.latents_std = nnx.Param(jnp.zeros(config.latent)), nnx.Param(jnp.ones(config.latent))
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)

    def encode(self, video: Video, frames=WHOLE) -> tuple[Video, Video]:
        """Video (b, 8 k + 1, h, w, 3) in [-1, 1], or a piece of it -> mean and log variance (b, k + 1, h / 32, w / 32, latent)."""
        return self.encoder(video, frames)

    def decode(self, latents: Video, time: Float[Array, "b"] | None = None, frames=WHOLE) -> Video:
        """Latents or a piece of them, and how much noise there is in them where the decoder is told so -> video in about [-1, 1]."""
        return self.decoder(latents, time, frames)


class Encoder(nnx.Module):
    """Video to mean and log variance."""

    def __init__(self, config: LTXVAEConfig, rngs):
        of = dict(rngs=rngs, causal=config.causal)
        before = config.channels[0]
        self.conv_in = Convolution(3 * config.patch**2, before, **of)
        levels = []
        for i, (down, blocks) in enumerate(zip(config.downs, config.blocks)):
            after = config.channels[min(i + 1, len(config.channels) - 1)]
            levels.append(DownLevel(before, after, blocks, down, epsilon=config.epsilon, **of))
            before = after
        self.down_blocks = nnx.List(levels)
        self.mid_block = Middle(before, config.blocks[-1], timed=False, **of)
        self.conv_out = Convolution(before, config.latent + 1, **of)
        self.patch = config.patch

    def __call__(self, video, frames=WHOLE):
        x = rearrange(video, "b f (h p) (w q) c -> b f h w (c q p)", p=self.patch, q=self.patch)
        x = self.conv_in(x, frames)
        for level in self.down_blocks:
            x = level(x, frames)
        x = self.conv_out(nnx.silu(normed(self.mid_block(x, frames))), frames)
        mean, log_variance = x[..., :-1], x[..., -1:]
        return mean, jnp.broadcast_to(log_variance, mean.shape)


class Decoder(nnx.Module):
    """Latents to video."""

    def __init__(self, config: LTXVAEConfig, rngs):
        of = dict(rngs=rngs, causal=config.decoder_causal, timed=config.timed)
        channels, blocks = config.decoder_channels[::-1], config.decoder_blocks[::-1]
        before = channels[0]
        self.conv_in = Convolution(config.latent, before, rngs=rngs, causal=config.decoder_causal)
        self.mid_block = Middle(before, blocks[0], **of)
        levels = []
        for n, count, up, residual, factor in zip(channels, blocks[1:], config.ups[::-1], config.residual[::-1], config.factor[::-1]):
            levels.append(UpLevel(before // factor, n // factor, count, up, residual, factor, epsilon=config.epsilon, **of))
            before = n // factor
        self.up_blocks = nnx.List(levels)
        self.conv_out = Convolution(before, 3 * config.patch**2, rngs=rngs, causal=config.decoder_causal)
        if config.timed:
            self.timestep_scale_multiplier = nnx.Param(jnp.float32(1000.0))
            self.time_embedder = TimeEmbedder(2 * before, rngs)
            self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (2, before)) / before**0.5)
        self.timed, self.patch = config.timed, config.patch

    def __call__(self, latents, time=None, frames=WHOLE):
        if (time is not None) != self.timed:
            raise ValueError(f"this decoder is {'' if self.timed else 'not '}told a time, and got {'one' if time is not None else 'none'}")
        time = self.timestep_scale_multiplier[...] * time if self.timed else None
        x = self.mid_block(frames.through(self.conv_in, latents), frames, time)
        for level in self.up_blocks:
            x = level(x, frames, time)
        x = normed(x)
        if self.timed:
            shift, scale = modulation(self.time_embedder(time), self.scale_shift_table[...])
            x = x * (1 + scale) + shift
        x = frames.through(self.conv_out, nnx.silu(x))
        return rearrange(x, "b f h w (c q p) -> b f (h p) (w q) c", p=self.patch, q=self.patch)


class DownLevel(nnx.Module):
    """Residual blocks and a reduction; in 0.9.0 one block more where the channels change."""

    def __init__(self, inputs: int, outputs: int, blocks: int, down: str, *, rngs, causal: bool, epsilon: float):
        self.resnets = nnx.List([Block(inputs, inputs, rngs=rngs, causal=causal) for _ in range(blocks)])
        if down == "conv":
            self.downsamplers = nnx.List([Convolution(inputs, inputs, rngs=rngs, causal=causal, stride=2)])
        elif down:
            self.downsamplers = nnx.List([Fold(inputs, outputs, STRIDES[down], rngs=rngs, causal=causal)])
        self.changes = down in ("conv", "") and inputs != outputs
        if self.changes:
            self.conv_out = Block(inputs, outputs, rngs=rngs, causal=causal, epsilon=epsilon)
        self.down = bool(down)

    def __call__(self, x, frames):
        for block in self.resnets:
            x = block(x, frames)
        x = self.downsamplers[0](x, frames) if self.down else x
        return self.conv_out(x, frames) if self.changes else x


class Middle(nnx.Module):
    """Residual blocks."""

    def __init__(self, channels: int, blocks: int, *, rngs, causal: bool, timed: bool):
        if timed:
            self.time_embedder = TimeEmbedder(4 * channels, rngs)
        self.resnets = nnx.List([Block(channels, channels, rngs=rngs, causal=causal, timed=timed) for _ in range(blocks)])
        self.timed = timed

    def __call__(self, x, frames, time=None):
        c = self.time_embedder(time) if self.timed else None
        for block in self.resnets:
            x = frames.through(partial(block, c=c), x)
        return x


class UpLevel(nnx.Module):
    """A block where the channels change, a doubling, and residual blocks."""

    def __init__(self, inputs: int, outputs: int, blocks: int, up: bool, residual: bool, factor: int, *, rngs, causal: bool, timed: bool, epsilon: float):
        if timed:
            self.time_embedder = TimeEmbedder(4 * inputs, rngs)
        self.changes = inputs != outputs
        if self.changes:
            self.conv_in = Block(inputs, outputs, rngs=rngs, causal=causal, epsilon=epsilon)
        if up:
            self.upsamplers = nnx.List([Unfold(outputs * factor, residual, factor, rngs=rngs, causal=causal)])
        self.resnets = nnx.List([Block(outputs, outputs, rngs=rngs, causal=causal, timed=timed) for _ in range(blocks)])
        self.timed, self.up = timed, up

    def __call__(self, x, frames, time=None):
        x = frames.through(self.conv_in, x) if self.changes else x
        c = self.time_embedder(time) if self.timed else None
        x = frames.through(self.upsamplers[0], x) if self.up else x
        for block in self.resnets:
            x = frames.through(partial(block, c=c), x)
        return x


class Block(nnx.Module):
    """A residual block, see the top of the file; what is added to goes through a norm and a convolution where the channels change."""

    def __init__(self, inputs: int, outputs: int, *, rngs, causal: bool, timed: bool = False, epsilon: float = 1e-6):
        self.conv1, self.conv2 = Convolution(inputs, outputs, rngs=rngs, causal=causal), Convolution(outputs, outputs, rngs=rngs, causal=causal)
        self.changes = inputs != outputs
        if self.changes:
            self.norm3 = nnx.LayerNorm(inputs, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
            self.conv_shortcut = Convolution(inputs, outputs, rngs=rngs, causal=causal, size=1)
        if timed:
            self.scale_shift_table = nnx.Param(jax.random.normal(rngs.params(), (4, inputs)) / inputs**0.5)

    def __call__(self, x, frames, c=None):
        shift, scale, shift_2, scale_2 = (0.0,) * 4 if c is None else modulation(c, self.scale_shift_table[...])
        y = self.conv1(nnx.silu(normed(x) * (1 + scale) + shift), frames)
        y = self.conv2(nnx.silu(normed(y) * (1 + scale_2) + shift_2), frames)
        x = frames.late(x, self.conv1.after + self.conv2.after)
        return y + (self.conv_shortcut(self.norm3(x), frames) if self.changes else x)


class Fold(nnx.Module):
    """Fewer places: what was beside one another becomes channels, of a convolution, and in the mean."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int], *, rngs, causal: bool):
        f, h, w = stride
        self.conv = Convolution(inputs, outputs // (f * h * w), rngs=rngs, causal=causal)
        self.stride, self.outputs = stride, outputs

    def __call__(self, x, frames):
        f, h, w = self.stride
        x = frames.paired(x, f)
        y = self.conv(x, frames)
        frames.grouped(f)
        folded = lambda x: rearrange(x, "b (f i) (h j) (w k) c -> b f h w (c i j k)", i=f, j=h, k=w)
        return folded(y) + reduce(folded(x), "b f h w (c g) -> b f h w c", "mean", c=self.outputs)


class Unfold(nnx.Module):
    """Twice as many places each way, out of the channels of a convolution, and of what comes in, as often as there are channels for; the first frame falls away."""

    def __init__(self, channels: int, residual: bool, factor: int, *, rngs, causal: bool):
        self.conv = Convolution(channels, 8 * channels // factor, rngs=rngs, causal=causal)
        self.residual, self.times = residual, 8 // factor

    def __call__(self, x, frames):
        unfolded = lambda x: frames.unpaired(rearrange(x, "b f h w (c i j k) -> b (f i) (h j) (w k) c", i=2, j=2, k=2))
        y = unfolded(self.conv(x, frames))
        x = frames.late(x, self.conv.after)
        y = y + repeat(unfolded(x), "b f h w c -> b f h w (n c)", n=self.times) if self.residual else y
        frames.ungrouped()
        return y


class Convolution(nnx.Module):
    """Over frames, rows and columns."""

    def __init__(self, inputs: int, outputs: int, *, rngs, causal: bool, size: int = 3, stride: int = 1):
        around = size // 2
        self.conv = nnx.Conv(inputs, outputs, (size,) * 3, strides=stride, padding=((0, 0), (around, around), (around, around)), rngs=rngs)
        self.before, self.after, self.stride = *((size - 1, 0) if causal else (around, around)), stride

    def __call__(self, x, frames):
        return self.conv(frames.around(x, self.before, self.after, self.stride))


class TimeEmbedder(nnx.Module):
    """A time to what modulates blocks."""

    def __init__(self, width: int, rngs):
        self.timestep_embedder = TimeMLP(FREQUENCIES, width, rngs)

    def __call__(self, time):
        return self.timestep_embedder(sines(time, FREQUENCIES))


def modulation(c: Float[Array, "b kd"], table: Float[Array, "k d"]) -> Float[Array, "k b 1 1 1 d"]:
    """Shifts and scales of an embedded time, with a table of the layer's own."""
    return rearrange(rearrange(c, "b (k d) -> k b d", k=len(table)) + table[:, None], "k b d -> k b 1 1 1 d")


normed = partial(layers.normed, epsilon=1e-8, centre=False)
"""Over the root mean square of the channels."""
