"""The sizes of the DiT paper, and counts of a DiT's parameters and floating-point operations."""

import jax
import numpy as np
from flax import nnx

from jvflow.networks.dit import DiT, DiTConfig
from jvflow.networks.layers import FREQUENCIES

SIZES = {
    "S": dict(width=384, depth=12, heads=6),
    "B": dict(width=768, depth=12, heads=12),
    "L": dict(width=1024, depth=24, heads=16),
    "XL": dict(width=1152, depth=28, heads=16),
}


def preset(name: str) -> dict:
    """Returns width, depth, heads and patch of a named size: "S/2" ... "XL/4" (size / spatial patch)."""
    size, _, patch = name.partition("/")
    if size not in SIZES or patch not in ("2", "4", "8"):
        raise ValueError(f"unknown preset {name!r}: use {', '.join(SIZES)} with /2, /4 or /8")
    return dict(SIZES[size], patch=(1, int(patch), int(patch)))


def parameter_count(config: DiTConfig, shape: tuple | None = None) -> int:
    """Returns the number of a DiT's parameters, and for a video shape (f, h, w) also counts the position table."""
    state = nnx.state(nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0))), nnx.Param)
    trained = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(state))
    return trained + (int(np.prod(config.grid(shape))) * config.width if shape else 0)


def forward_flops(config: DiTConfig, shape: tuple, text_tokens: int = 0) -> int:
    """Returns the floating-point operations of one forward pass on one example of shape (f, h, w).

    A multiply-add counts as 2. Matrix products and the convolution count, element-wise operations do not.
    """
    n, d, volume = int(np.prod(config.grid(shape))), config.width, int(np.prod(config.patch))
    hidden, channels = int(d * config.mlp_ratio), config.channels + config.context
    block = n * (3 * d * d + d * d + 2 * d * hidden) + 2 * n * n * d + 6 * d * d
    block += 9 * n * d if config.local else 0
    if config.text_width and text_tokens:
        block += 2 * n * d * d + 2 * text_tokens * config.text_width * d + 2 * n * text_tokens * d
    out = volume * config.channels * config.velocities
    ends = n * d * volume * channels + n * d * out
    embed = config.coordinates * (FREQUENCIES * d + d * d) + 2 * d * d
    return 2 * (config.depth * block + ends + embed)
