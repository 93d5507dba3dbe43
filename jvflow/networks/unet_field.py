"""U-Nets as a field: one for each velocity, on one frame, with the frames that are known beside it on the channel axis.

    velocity_i = U-Net_i(x beside context, time_scale s)        s = (t,) or (t, alpha), the second through an embedder of its own

The authors of Bi-flow released two such networks of width 128, one for each velocity, which take t and alpha raw; the paper
speaks of one network (section 3.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from flax import nnx

from jvflow.parallel.constrain import SEQUENCE, TENSOR
from jvflow.networks.base import Network, functional
from jvflow.networks.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UNetFieldConfig:
    """The sizes of a `UNetField`.

    Attributes:
      width: channels of the first level.
      levels: channels of each level over those of the first.
      attends: of each level, whether it attends.
      channels: of x, and of each velocity.
      context: channels of `condition.context`, 0 without.
      coordinates: entries of s, 1 or 2.
      velocities: networks.
      text_width: width of `condition.text` tokens, 0 without.
      blocks, groups, head: see `UNetConfig`.
      scales: the size of each velocity, which its output is multiplied by; all 1 when empty.
      time_scale: factor of the coordinates before their sines.
      dtype: of the computation; parameters are float32.
      remat: "none", or "full": the backward pass computes the inside of each level again.
    """

    width: int
    levels: tuple[int, ...]
    attends: tuple[bool, ...]
    channels: int
    context: int = 0
    coordinates: int = 1
    velocities: int = 1
    text_width: int = 0
    blocks: int = 2
    groups: int = 32
    head: int = 8
    scales: tuple[float, ...] = ()
    time_scale: float = 1.0
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.coordinates > 2:
            raise ValueError(f"a U-Net is conditioned on time and one level beside it, not on {self.coordinates} coordinates")

    @property
    def each(self) -> UNetConfig:
        """The sizes of each network."""
        return UNetConfig(
            channels=tuple(self.width * n for n in self.levels), attends=tuple(self.attends), inputs=self.channels + self.context, outputs=self.channels,
            blocks=self.blocks, groups=self.groups, head=self.head, text_width=self.text_width, level=self.coordinates == 2, dtype=self.dtype, remat=self.remat,
        )


class UNetField(nnx.Module):
    """See the top of the file. `(x (b, 1, h, w, c), s, condition) -> tuple of velocities like x`; entries of s are (b,)."""

    def __init__(self, config: UNetFieldConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.velocities = nnx.List([UNet(config.each, rngs=rngs) for _ in range(config.velocities)])

    def __call__(self, x, s, condition=None):
        config = self.config
        if len(s) < config.coordinates:
            raise ValueError(f"the network is conditioned on {config.coordinates} coordinates, got {len(s)}")
        s = tuple(config.time_scale * coordinate for coordinate in s[: config.coordinates])
        said = tuple(said_of(unet, x, s, condition) for unet in self.velocities)
        return tuple(v * scale for v, scale in zip(said, config.scales or (1.0,) * config.velocities, strict=True))


def said_of(unet, x, s, condition=None):
    """What a U-Net, a function of images and their time, level and text, says of a frame (b, 1, h, w, c)."""
    if x.ndim != 5 or x.shape[1] != 1:
        raise ValueError(f"a U-Net takes one frame, (b, 1, h, w, c), got {x.shape}")
    if condition is not None:
        x = x if condition.context is None else jnp.concatenate([x, condition.context], axis=-1)
    text, mask = (None, None) if condition is None else (condition.text, condition.text_mask)
    if text is not None and mask is not None:
        text = text * mask[..., None]  # a U-Net attends to all tokens: those that are none are zeros
    return unet(x[:, 0], *s, **({} if text is None else dict(text=text)))[:, None]


def of(network: Network) -> Callable:
    """A single `UNet` as a field of one velocity, `(params, x, s, condition) -> (velocity,)`, s as the U-Net takes it."""

    def apply(params, x, s, condition=None):
        return (said_of(partial(network.apply, params), x, s, condition),)

    return apply


def build(**sizes) -> Network:
    """The network of these fields of `UNetFieldConfig`."""
    return functional(UNetField, UNetFieldConfig(**sizes))


def grid(config: UNetFieldConfig, shape: tuple) -> tuple[int, int, int]:
    """The places of latents of shape (f, h, w, ...); a ValueError where the network does not take them."""
    f, h, w = shape[:3]
    if f != 1:
        raise ValueError(f"a U-Net takes one frame at a time, and these latents have {f}: use the network dit")
    factor = 2 ** (len(config.levels) - 1)
    if h % factor or w % factor:
        raise ValueError(f"the {len(config.levels)} levels of the U-Net need height and width in multiples of {factor}, got {h} x {w}: use fewer levels or another data.size")
    return f, h, w


def check_mesh(config: UNetFieldConfig, shape: tuple, mesh) -> None:
    """Raises a ValueError for a mesh with axes that a U-Net is not split by."""
    del config, shape
    for axis in (SEQUENCE, TENSOR):
        if mesh.shape[axis] > 1:
            raise ValueError(f"a U-Net has no {axis} axis to split, config.run.mesh.{axis} is {mesh.shape[axis]}: use data and fsdp")
