"""Pixels in [-1, 1]; the round trip is exact."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jvflow.codecs.base import Codec, Posterior


def codec() -> Codec:
    return Codec(
        encode=_encode,
        decode=_decode,
        latent_shape=lambda video: (*video, 3),
        valid_frames=lambda frames: frames >= 1,
        range=(-1.0, 1.0),
    )


def _encode(params, video: UInt8[Array, "b f h w c"]) -> Posterior:
    return Posterior(video.astype(jnp.float32) / 127.5 - 1.0)


def _decode(params, latents: Float[Array, "b f h w c"]) -> UInt8[Array, "b f h w c"]:
    return jnp.round(jnp.clip((latents + 1.0) * 127.5, 0, 255)).astype(jnp.uint8)
