"""TAESD: tiny autoencoders with the latents of large ones (Boer Bohan, github.com/madebyollin/taesd).

    encoder   RGB in [0, 1] -> latents      convolutions of stride 2 between residual blocks
    decoder   3 tanh(latents / 3) -> RGB    blocks, and doubling by nearest neighbours before a convolution
    block     x <- x + pool(x), where there is one;  x <- relu(conv relu conv relu conv (x) + skip(x))
    pool      1 x 1 convolution, group norm, relu, 1 x 1 convolution                        (TAEF2)

One reader serves the family (TAESD, TAESDXL, TAESD3, TAEF1, TAEF2, TAESANA; the original files and
diffusers' `AutoencoderTiny`), because the names and shapes of the tensors say what every layer is:

    conv.0.weight          a block
    weight without bias    encoder: stride 2;  decoder: doubled before
    weight and bias        a plain convolution. Where the next number is left out, a relu follows,
                           and in the encoder the stride is 2

The parameters are the public tensors under their public names.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8
from safetensors.numpy import load_file

from jvflow.codecs.base import Codec, Posterior, by_image, divided

GROUPS = 4  # of the group norm in TAEF2's pools
Tensors = dict[str, Array]


def codec(*files: str | os.PathLike, scale: float = 1.0) -> Codec:
    """An autoencoder of the family from its safetensors files: one, or encoder and decoder apart.

    Args:
      files: with names that begin with `encoder.` or `decoder.`, or with one of the two in each.
      scale: latents are divided by it, so that a flow sees data of about unit size.

    Raises:
      ValueError: for tensors that are not of the family, or an encoder and a decoder that do not fit.
    """
    params = _read(files)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    try:
        latent = jax.eval_shape(encode, params["encoder"], image)
        back = jax.eval_shape(decode, params["decoder"], latent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the tensors of {', '.join(map(str, files))} do not fit one another: {error}") from error
    if back.shape != image.shape:
        raise ValueError(f"{', '.join(map(str, files))}: the decoder makes {back.shape} of what the encoder made of {image.shape}")
    factor = image.shape[1] // latent.shape[1]
    return Codec(
        encode=jax.jit(partial(_encode_video, scale=scale)),
        decode=jax.jit(partial(_decode_video, scale=scale)),
        latent_shape=divided(factor, latent.shape[-1]),
        valid_frames=lambda frames: frames >= 1,
        params=params,
    )


def encode(encoder: Tensors, images: Float[Array, "n h w 3"]) -> Float[Array, "n h8 w8 c"]:
    """Latents of RGB images in [0, 1]."""
    x = images
    for layer, relu in _layers(encoder):
        if "conv.0.weight" in layer:
            x = _block(layer, x)
        else:
            x = _conv(layer, "", x, stride=2 if relu or "bias" not in layer else 1)
            x = jax.nn.relu(x) if relu else x
    return x


def decode(decoder: Tensors, latents: Float[Array, "n h8 w8 c"]) -> Float[Array, "n h w 3"]:
    """RGB images, about [0, 1] and not clamped."""
    x = 3 * jnp.tanh(latents / 3)
    for layer, relu in _layers(decoder):
        if "conv.0.weight" in layer:
            x = _block(layer, x)
        elif "bias" in layer:
            x = _conv(layer, "", x)
            x = jax.nn.relu(x) if relu else x
        else:
            x = _conv(layer, "", x.repeat(2, axis=1).repeat(2, axis=2))
    return x


# --- video ----------------------------------------------------------------------------------------


def _encode_video(params, video: UInt8[Array, "b f h w 3"], *, scale) -> Posterior:
    images, pixels = rearrange(video, "b f h w c -> (b f) h w c"), video.shape[2] * video.shape[3]
    latents = by_image(lambda images: encode(params["encoder"], images.astype(jnp.float32) / 255), images, pixels)
    return Posterior(rearrange(latents / scale, "(b f) h w c -> b f h w c", b=len(video)))


def _decode_video(params, latents: Float[Array, "b f h w c"], *, scale) -> UInt8[Array, "b f h w 3"]:
    shown = lambda latents: jnp.round(jnp.clip(decode(params["decoder"], latents * scale), 0, 1) * 255).astype(jnp.uint8)
    pixels = 64 * latents.shape[2] * latents.shape[3]
    return rearrange(by_image(shown, rearrange(latents, "b f h w c -> (b f) h w c"), pixels), "(b f) h w c -> b f h w c", b=len(latents))


# --- tensors --------------------------------------------------------------------------------------


def _read(files) -> dict[str, Tensors]:
    """The tensors of encoder and decoder, in float32, under their names in either."""
    params = {}
    for file in files:
        if not os.path.exists(file):
            raise ValueError(f"there is no file {file}")
        tensors = {name: np.asarray(tensor, np.float32) for name, tensor in load_file(file).items()}
        for name, tensor in tensors.items():
            side, _, rest = name.partition(".")
            if side not in ("encoder", "decoder"):
                side, rest = _side(tensors, file), name
            params.setdefault(side, {})[rest.removeprefix("layers.")] = jnp.asarray(tensor)
    for side in ("encoder", "decoder"):
        if side not in params:
            raise ValueError(f"no tensors of the {side} in {', '.join(map(str, files)) or 'no file'}: give both files, or one that holds both")
    return params


def _side(tensors: Mapping, file) -> str:
    """Which half a file without prefixes holds: the encoder takes RGB, the decoder gives it."""
    try:
        layers = [layer for layer, _ in _layers(tensors)]
        if layers[0]["weight"].shape[1] == 3:
            return "encoder"
        if layers[-1]["weight"].shape[0] == 3:
            return "decoder"
    except (ValueError, KeyError, IndexError):
        pass
    raise ValueError(f"{file} holds no autoencoder of the TAESD family: its tensors are {', '.join(sorted(tensors)[:4])}, ...")


def _layers(tensors: Mapping[str, Array]) -> Iterator[tuple[Tensors, bool]]:
    """The layers in their order, each with whether a relu follows that has a number of its own."""
    layers = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        layers.setdefault(int(number), {})[rest] = tensor
    numbers = sorted(layers)
    for number, following in zip(numbers, [*numbers[1:], None]):
        layer = layers[number]
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
