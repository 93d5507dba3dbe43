"""TAESD: tiny autoencoders that share the latents of large ones (Boer Bohan, github.com/madebyollin/taesd).

    encoder   RGB in [0, 1] -> latents      convolutions of stride 2 between residual blocks
    decoder   3 tanh(latents / 3) -> RGB    blocks, and nearest-neighbour upsampling before a convolution
    block     x <- x + pool(x), if it has a pool;  x <- relu(conv relu conv relu conv (x) + skip(x))
    pool      1 x 1 convolution, group norm, relu, 1 x 1 convolution                        (TAEF2)

Names and shapes of the tensors determine every layer, so one reader serves the whole family (TAESD, TAESDXL, TAESD3,
TAEF1, TAEF2, TAESANA):

    conv.0.weight          a block
    weight without bias    encoder: a convolution of stride 2;  decoder: an upsampling and a convolution
    weight and bias        a plain convolution. If the next number is missing, a relu follows,
                           and in the encoder the stride is 2

The parameters are the public tensors under their public names.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

GROUPS = 4
"""Groups of the group norm in TAEF2's pools."""

Tensors = dict[str, Array | np.ndarray]


def encode(encoder: Tensors, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n h8 w8 c"]:
    """Returns the latents of RGB images in [0, 1]."""
    x = images
    for layer, relu in layers(encoder):
        if "conv.0.weight" in layer:
            x = _block(layer, x)
        else:
            x = _conv(layer, "", x, stride=2 if relu or "bias" not in layer else 1)
            x = jax.nn.relu(x) if relu else x
    return x


def decode(decoder: Tensors, latents: Float[Array | np.ndarray, "n h8 w8 c"]) -> Float[Array, "n h w 3"]:
    """Returns RGB images, approximately in [0, 1] and not clamped."""
    x = 3 * jnp.tanh(latents / 3)
    for layer, relu in layers(decoder):
        if "conv.0.weight" in layer:
            x = _block(layer, x)
        elif "bias" in layer:
            x = _conv(layer, "", x)
            x = jax.nn.relu(x) if relu else x
        else:
            x = _conv(layer, "", x.repeat(2, axis=1).repeat(2, axis=2))
    return x


def layers(tensors: Mapping[str, Array | np.ndarray]) -> Iterator[tuple[Tensors, bool]]:
    """Yields the layers in order, each with a bool: True if a relu that has its own number follows."""
    found = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        found.setdefault(int(number), {})[rest] = tensor
    numbers = sorted(found)
    for number, following in zip(numbers, [*numbers[1:], None]):
        layer = found[number]
        yield layer, "bias" in layer and following is not None and following > number + 1


def _block(layer: Tensors, x):
    if "pool.0.weight" in layer:
        y = _conv(layer, "pool.0.", x)
        y = jax.nn.relu(_group_norm(y, layer["pool.1.weight"], layer["pool.1.bias"]))
        x = x + _conv(layer, "pool.3.", y)
    y = x
    for number in ("0", "2", "4"):
        y = _conv(layer, f"conv.{number}.", jax.nn.relu(y) if number != "0" else y)
    skip = _conv(layer, "skip.", x) if "skip.weight" in layer else x
    return jax.nn.relu(y + skip)


def _conv(layer: Tensors, name: str, x, stride: int = 1):
    kernel = layer[f"{name}weight"]  # (out, in, h, w)
    around = kernel.shape[-1] // 2
    x = jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), [(around, around)] * 2, dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
    bias = layer.get(f"{name}bias")
    return x if bias is None else x + bias.astype(x.dtype)[None, None, None]


def _group_norm(x, weight, bias):
    groups = rearrange(x, "n h w (g c) -> n h w g c", g=GROUPS)
    mean = groups.mean((1, 2, 4), keepdims=True)
    variance = jnp.square(groups - mean).mean((1, 2, 4), keepdims=True)
    y = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    return y * weight[None, None, None] + bias[None, None, None]
