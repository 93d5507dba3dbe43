"""A field of U-Nets over images, one for each velocity or one for all; known frames are concatenated as channels.

    velocity_i = U-Net_i(concat(x, context), time_scale s)      s = (t,) or (t, alpha), each through an MLP of its own
    concat(velocity_i) = U-Net(concat(x, context), time_scale s)                                              `shared`

x is one frame, or a chunk of `frames` whose channels become those of one image.

The authors of Bi-flow released two such networks of width 128, one for each velocity, from 3 channels to 3; they take
t and alpha unscaled. The paper describes one network, from 3 channels to 6 (section 3.1): `shared`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jvflow.flow.field import Field, as_partial
from jvflow.networks import Network, functional
from jvflow.networks.unet import UNet, UNetConfig
from jvflow.parallel.sharding import SEQUENCE, TENSOR


@dataclass(frozen=True)
class UNetFieldConfig:
    """The sizes of a `UNetField`.

    Attributes:
      width: channels of the first level.
      levels: factor of `width` at each level.
      attends: whether each level has attention.
      channels: channels of a frame of x, and of each velocity.
      frames: frames of x.
      context: channels of `condition.context`, 0 for none.
      coordinates: how many entries s has, 1 or 2.
      velocities: how many velocities there are.
      shared: whether one network returns all velocities; otherwise each has a network of its own.
      text_width: width of `condition.text` tokens, 0 for no text.
      blocks, groups, head: see `UNetConfig`.
      scales: factor of each velocity; all 1 when empty.
      time_scale: factor of the coordinates before their sines.
      dtype: dtype of the computation; parameters are float32.
      remat: "none", or "full" to compute the inside of each level again in the backward pass.
    """

    width: int
    levels: tuple[int, ...]
    attends: tuple[bool, ...]
    channels: int
    frames: int = 1
    context: int = 0
    coordinates: int = 1
    velocities: int = 1
    shared: bool = False
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
            raise ValueError(
                f"a U-Net is conditioned on time and one noise level, not on {self.coordinates} coordinates"
            )
        _ = self.unet  # raises ValueError for sizes that do not fit one another

    @property
    def unet(self) -> UNetConfig:
        """The sizes of each network."""
        return UNetConfig(
            channels=tuple(self.width * n for n in self.levels),
            attends=tuple(self.attends),
            inputs=self.frames * self.channels + self.context,
            outputs=self.frames * self.channels * (self.velocities if self.shared else 1),
            blocks=self.blocks,
            groups=self.groups,
            head=self.head,
            text_width=self.text_width,
            level=self.coordinates == 2,
            dtype=self.dtype,
            remat=self.remat,
        )

    def grid(self, shape: tuple) -> tuple[int, int, int]:
        """Returns frames, height and width of latents of shape (f, h, w, ...), each pixel of which is a token."""
        f, h, w = shape[:3]
        if f != self.frames:
            raise ValueError(
                f"this U-Net takes chunks of frames={self.frames}, and these latents have {f}: "
                f"use config.network.frames={f}, or the network dit"
            )
        factor = 2 ** (len(self.levels) - 1)
        if h % factor or w % factor:
            raise ValueError(
                f"the {len(self.levels)} levels of the U-Net need height and width in multiples of {factor}, "
                f"got {h} x {w}: use fewer levels or another data.size"
            )
        return f, h, w

    def check_mesh(self, shape: tuple, mesh) -> None:
        """Raises ValueError if a mesh splits an axis that a U-Net does not have."""
        for axis in (SEQUENCE, TENSOR):
            if mesh.shape[axis] > 1:
                raise ValueError(
                    f"a U-Net has no {axis} axis to split, config.run.mesh.{axis} is {mesh.shape[axis]}: "
                    "use data and fsdp"
                )


def build(**sizes) -> Network:
    """Returns U-Nets with these fields of `UNetFieldConfig`."""
    return functional(UNetField, UNetFieldConfig(**sizes))


class UNetField(nnx.Module):
    """The field (see the top of the file), `(x (b, f, h, w, c), s, condition) -> velocities`, a tuple of arrays like x.

    Entries of s are (b,).
    """

    def __init__(self, config: UNetFieldConfig, *, rngs):
        self.config = config
        self.velocities = nnx.List(
            [UNet(config.unet, rngs=rngs) for _ in range(1 if config.shared else config.velocities)]
        )

    def __call__(self, x, s, condition=None):
        config = self.config
        if len(s) < config.coordinates:
            raise ValueError(f"the network is conditioned on {config.coordinates} coordinates, got {len(s)}")
        s = tuple(config.time_scale * coordinate for coordinate in s[: config.coordinates])
        frames = x.shape[1]
        if frames != config.frames:
            raise ValueError(f"the network takes (b, {config.frames}, h, w, c), got {x.shape}")
        image = rearrange(x, "b f h w c -> b 1 h w (f c)")
        outputs = [apply_unet(unet, image, s, condition) for unet in self.velocities]
        outputs = jnp.split(outputs[0], config.velocities, axis=-1) if config.shared else outputs
        outputs = [rearrange(v, "b 1 h w (f c) -> b f h w c", f=frames) for v in outputs]
        return tuple(v * scale for v, scale in zip(outputs, config.scales or (1.0,) * config.velocities, strict=True))


def apply_unet(unet: Callable, x, s: tuple, condition=None):
    """Returns the velocity (b, 1, h, w, c) that `unet(images, *s, text=...)` gives for a frame x (b, 1, h, w, c)."""
    if x.ndim != 5 or x.shape[1] != 1:
        raise ValueError(f"a U-Net takes one frame, (b, 1, h, w, c), got {x.shape}")
    if condition is not None:
        x = x if condition.context is None else jnp.concatenate([x, condition.context], axis=-1)
    text, mask = (None, None) if condition is None else (condition.text, condition.text_mask)
    if text is not None and mask is not None:
        text = text * mask[..., None]  # a U-Net attends to all tokens, so masked tokens become zeros
    return unet(x[:, 0], *s, **({} if text is None else dict(text=text)))[:, None]


def single_unet_field(network: Network) -> Callable:
    """Returns one `UNet` as `(params, x, s, condition) -> (velocity,)`, with s as the U-Net takes it."""

    def apply(params, x, s, condition=None):
        return (apply_unet(partial(network.apply, params), x, s, condition),)

    return apply


def _concat(fields, x, s, condition=None):
    return tuple(velocity for field in fields for velocity in field(x, s, condition))


def concat_fields(*fields: Field) -> Field:
    """Joins fields that were trained separately; the result returns all their velocities, in order."""
    return jax.tree_util.Partial(_concat, tuple(as_partial(field) for field in fields))
