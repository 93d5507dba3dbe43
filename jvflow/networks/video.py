"""Layers that the transformers of LTX-Video and Wan share, under the names of their public checkpoints."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from jvflow.networks.layers import attention, check_remat, constrain, constrain_qkv
from jvflow.parallel.mesh import check_split
from jvflow.parallel.sharding import FSDP, ROWS, SEQUENCE, TENSOR

VIDEO_RULES = (
    (r"(to_q|to_k|to_v|net/0/proj)/kernel$", (FSDP, TENSOR)),
    (r"(to_out/0|net/2)/kernel$", (TENSOR, FSDP)),
    (r"(to_q|to_k|to_v|net/0/proj)/bias$", (TENSOR,)),
)
"""How the parameters of these layers are split, see `jvflow.parallel.sharding`."""


@dataclass(frozen=True)
class VideoConfig:
    """The sizes that both transformers have.

    Attributes:
      depth, heads, head: layers, attention heads, and channels of a head; the width is heads x head.
      channels, outputs: channels of the latents, and of the result.
      captions: width of the text's tokens.
      epsilon: epsilon of the norms before attention and MLP.
      dtype: dtype of the computation; parameters are float32.
      attention, kernel: see `layers.attention`.
      remat: checkpoint policy of each layer, a key of `layers.REMAT`.
      scan: whether one layer is compiled and scanned; parameters get a leading layer axis.
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
    kernel: str = "auto"
    remat: str = "none"
    scan: bool = False

    def __post_init__(self):
        check_remat(self.remat)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head

    def check_mesh(self, shape: tuple, mesh) -> None:
        """Raises ValueError if a mesh cannot split the heads, or the tokens of latents of shape (f, h, w, ...)."""
        check_split(self.heads, math.prod(self.grid(shape)), shape[:3], mesh)


class Attention(nnx.Module):
    """Attention to other tokens; queries and keys are normalized over all heads together, and rotated by `angles`.

    Tokens attend only to tokens where the mask (b, m) is True, but to all tokens if a row of the mask is all False.
    """

    def __init__(self, width: int, heads: int, rngs, dtype, *, epsilon: float, query_block: int, kernel: str):
        self.to_q, self.to_k, self.to_v = (linear(width, width, rngs, dtype) for _ in range(3))
        self.norm_q, self.norm_k = (nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs) for _ in range(2))
        self.to_out = nnx.List([linear(width, width, rngs, dtype)])
        self.heads, self.query_block, self.kernel = heads, query_block, kernel

    def __call__(self, x, others, mask=None, angles=None):
        q, k, v = constrain_qkv(self.to_q(x), self.to_k(others), self.to_v(others))
        q, k = self.norm_q(q), self.norm_k(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        q, k, v = (rearrange(a.astype(x.dtype), "b n (h d) -> b n h d", h=self.heads) for a in (q, k, v))
        if mask is not None:
            mask = jnp.asarray(mask, bool)
            mask = (mask | ~mask.any(-1, keepdims=True))[:, None, None]
        attended = attention(q, k, v, self.query_block, mask, self.kernel)
        return self.to_out[0](rearrange(attended, "b n h d -> b n (h d)"))


class MLP(nnx.Module):
    """Two linear layers with a gelu between them."""

    def __init__(self, width: int, hidden: int, rngs, dtype):
        first = nnx.Module()
        first.proj = linear(width, hidden, rngs, dtype)
        self.net = nnx.List([first, nnx.Module(), linear(hidden, width, rngs, dtype)])

    def __call__(self, x):
        hidden = constrain(self.net[0].proj(x), ROWS, SEQUENCE, TENSOR)
        return self.net[2](nnx.gelu(hidden, approximate=True))


class Captions(nnx.Module):
    """The MLP that maps the text's tokens to the width of the transformer."""

    def __init__(self, inputs: int, width: int, rngs, dtype):
        self.linear_1, self.linear_2 = linear(inputs, width, rngs, dtype), linear(width, width, rngs, dtype)

    def __call__(self, text):
        rows = lambda x: constrain(x, ROWS, None, None)
        return rows(self.linear_2(nnx.gelu(rows(self.linear_1(text)), approximate=True)))


def rotate(x: Float[Array, "b n d"], angles: tuple[Array, Array]) -> Float[Array, "b n d"]:
    """Rotates each pair of neighbouring channels by its angle, given by cosine and sine (b or 1, n, d / 2)."""
    cosine, sine = angles
    a, b = jnp.moveaxis(rearrange(x.astype(jnp.float32), "b n (m two) -> b n m two", two=2), -1, 0)
    return rearrange(jnp.stack([a * cosine - b * sine, a * sine + b * cosine], axis=-1), "b n m two -> b n (m two)")


def constrain_tokens(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Gives each device of a mesh rows and a part of the sequence, so that linear layers move only parameters."""
    return constrain(x, ROWS, SEQUENCE, None)


def linear(inputs: int, outputs: int, rngs, dtype) -> nnx.Linear:
    """Returns a linear layer that is computed in `dtype`."""
    return nnx.Linear(inputs, outputs, rngs=rngs, dtype=dtype)


def check_objective(name: str, coordinates: int, velocities: int, text_width: int) -> None:
    """Raises ValueError if an objective does not have one time and one velocity, or has no captions."""
    if (coordinates, velocities) != (1, 1):
        raise ValueError(
            f"{name} has one time and one velocity, this objective has {coordinates} and {velocities}: "
            "use the network dit"
        )
    if not text_width:
        raise ValueError(f"{name} attends to captions in every layer: give a text encoder as config.text, such as t5")
