"""Layers that the transformers of LTX-Video and Wan share, under the names that their public checkpoints have."""

from dataclasses import dataclass

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from jvflow.parallel.constrain import FSDP, ROWS, SEQUENCE, TENSOR, constrain
from jvflow.networks.layers import attention, check_remat, placed

VIDEO_RULES = (
    (r"(to_q|to_k|to_v|net/0/proj)/kernel$", (FSDP, TENSOR)),
    (r"(to_out/0|net/2)/kernel$", (TENSOR, FSDP)),
    (r"(to_q|to_k|to_v|net/0/proj)/bias$", (TENSOR,)),
)
"""How the parameters of these layers are split, see `jvflow.parallel.mesh`."""


@dataclass(frozen=True)
class VideoConfig:
    """What the sizes of both transformers have.

    Attributes:
      depth, heads, head: of the transformer; its width is heads x head.
      channels, outputs: of the latents, and of what is said of them.
      captions: width of the text's tokens.
      epsilon: of the norms before attention and MLP.
      dtype: of the computation; parameters are float32.
      attention: queries at a time, 0 for all at once.
      remat: what the backward pass computes again of each layer, see `layers.REMAT`.
      scan: one compiled layer, scanned; parameters get a leading layer axis.
    """

    depth: int
    heads: int
    head: int
    channels: int
    outputs: int
    captions: int = 4096
    epsilon: float = 1e-6
    dtype: str = "float32"
    attention: int = 0
    remat: str = "none"
    scan: bool = False

    def __post_init__(self):
        check_remat(self.remat)

    @property
    def width(self) -> int:
        return self.heads * self.head


class Attention(nnx.Module):
    """Of tokens to others; queries and keys are normed over all heads together, and turned by angles where there are some.

    Those that the mask (b, m) leaves out are seen by none; a row with a mask of nothing sees all.
    """

    def __init__(self, width: int, heads: int, rngs, dtype, *, epsilon: float, at_once: int):
        self.to_q, self.to_k, self.to_v = (line(width, width, rngs, dtype) for _ in range(3))
        self.norm_q, self.norm_k = (nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs) for _ in range(2))
        self.to_out = nnx.List([line(width, width, rngs, dtype)])
        self.heads, self.at_once = heads, at_once

    def __call__(self, x, others, mask=None, angles=None):
        q, k, v = placed(self.to_q(x), self.to_k(others), self.to_v(others))
        q, k = self.norm_q(q), self.norm_k(k)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        q, k, v = (rearrange(a.astype(x.dtype), "b n (h d) -> b n h d", h=self.heads) for a in (q, k, v))
        seen = None if mask is None else (jnp.asarray(mask, bool) | ~jnp.asarray(mask, bool).any(-1, keepdims=True))[:, None, None]
        return self.to_out[0](rearrange(attention(q, k, v, self.at_once, seen), "b n h d -> b n (h d)"))


class MLP(nnx.Module):
    """Two layers."""

    def __init__(self, width: int, hidden: int, rngs, dtype):
        first = nnx.Module()
        first.proj = line(width, hidden, rngs, dtype)
        self.net = nnx.List([first, nnx.Module(), line(hidden, width, rngs, dtype)])

    def __call__(self, x):
        hidden = constrain(self.net[0].proj(x), ROWS, SEQUENCE, TENSOR)
        return self.net[2](nnx.gelu(hidden, approximate=True))


class Captions(nnx.Module):
    """The text's tokens to the width of the transformer."""

    def __init__(self, inputs: int, width: int, rngs, dtype):
        self.linear_1, self.linear_2 = line(inputs, width, rngs, dtype), line(width, width, rngs, dtype)

    def __call__(self, text):
        rows = lambda x: constrain(x, ROWS, None, None)
        return rows(self.linear_2(nnx.gelu(rows(self.linear_1(text)), approximate=True)))


def rotated(x: Float[Array, "b n d"], angles: tuple[Array, Array]) -> Float[Array, "b n d"]:
    """Neighbouring channels as a point in the plane, turned by the angle whose cosine and sine (b, n, d / 2) are given."""
    cosine, sine = angles
    a, b = jnp.moveaxis(rearrange(x.astype(jnp.float32), "b n (m two) -> b n m two", two=2), -1, 0)
    return rearrange(jnp.stack([a * cosine - b * sine, a * sine + b * cosine], axis=-1), "b n m two -> b n (m two)")


def by_row(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Of tokens each device has rows and a part of the sequence: what travels between devices are weights."""
    return constrain(x, ROWS, SEQUENCE, None)


def line(inputs: int, outputs: int, rngs, dtype) -> nnx.Linear:
    """A linear layer that is computed in `dtype`."""
    return nnx.Linear(inputs, outputs, rngs=rngs, dtype=dtype)


def check_told(name: str, coordinates: int, velocities: int, text_width: int) -> None:
    """Raises a ValueError when an objective is not of one time and one velocity, or has no captions."""
    if (coordinates, velocities) != (1, 1):
        raise ValueError(f"{name} has one time and one velocity, this objective has {coordinates} and {velocities}: use the network dit")
    if not text_width:
        raise ValueError(f"{name} attends to captions in every layer: give a text encoder as config.text, such as t5")
