"""The TAESD family as codecs, frame by frame: `jvflow.networks.taesd` with the original files, or those of diffusers' `AutoencoderTiny`."""

import os
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8
from safetensors.numpy import load_file

from jvflow.codecs.base import Codec, Posterior, by_image, divided
from jvflow.pretrained.lazy import Held
from jvflow.networks.taesd import Tensors, decode, encode, layers


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
        held=Held(partial(_read, files)),
    )


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
        found = [layer for layer, _ in layers(tensors)]
        if found[0]["weight"].shape[1] == 3:
            return "encoder"
        if found[-1]["weight"].shape[0] == 3:
            return "decoder"
    except (ValueError, KeyError, IndexError):
        pass
    raise ValueError(f"{file} holds no autoencoder of the TAESD family: its tensors are {', '.join(sorted(tensors)[:4])}, ...")
