"""The autoencoder of Stable Diffusion as a codec, frame by frame: `jvflow.networks.autoencoder_kl` with public weights.

Latents are the mean times the factor that its config names (0.18215 of SD v1.5), which makes them of about unit size.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from jvflow import networks, weights
from jvflow.codecs.base import Codec, Posterior, by_image, divided
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig

FACTOR = 0.18215
"""Where the config names none."""


def codec(*folders: str | Path, scale: float = 1.0) -> Codec:
    """The codec of a folder with config.json and safetensors (see `jvflow.weights.load`).

    Args:
      folders: one.
      scale: latents are divided by it besides.
    """
    if len(folders) != 1:
        raise ValueError(f"the codec stable_diffusion takes one folder as config.codec.weights, such as ('stable-diffusion-v1-5/vae',), got {folders}")
    loaded = weights.load(folders[0], dtype=jnp.float32)
    if not isinstance(loaded.config, KLConfig):
        raise ValueError(f"{folders[0]} holds no autoencoder: give the folder vae of the model")
    network = networks.functional(Autoencoder, loaded.config)  # in our layout
    factor = json.loads((Path(folders[0]) / weights.CONFIG).read_text()).get("scaling_factor", FACTOR) / scale
    levels = len(network.config.channels)
    return Codec(
        encode=jax.jit(partial(_encode, network.apply, factor=factor)),
        decode=jax.jit(partial(_decode, network.apply, factor=factor)),
        latent_shape=divided(2 ** (levels - 1), network.config.latent),
        valid_frames=lambda frames: frames >= 1,
        params=loaded.params,
        posterior=True,
    )


def _encode(apply, params, video: UInt8[Array, "b f h w 3"], *, factor: float) -> Posterior:
    def one(images):
        mean, log_variance = apply(params, images.astype(jnp.float32) / 127.5 - 1, method="encode")
        return mean * factor, jnp.exp(log_variance / 2) * factor

    made = by_image(one, rearrange(video, "b f h w c -> (b f) h w c"), video.shape[2] * video.shape[3])
    return Posterior(*(rearrange(a, "(b f) h w c -> b f h w c", b=len(video)) for a in made))


def _decode(apply, params, latents: Float[Array, "b f h w c"], *, factor: float) -> UInt8[Array, "b f h w 3"]:
    def one(some):
        image = apply(params, some / factor, method="decode")
        return jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8)

    made = by_image(one, rearrange(latents, "b f h w c -> (b f) h w c"), 64 * latents.shape[2] * latents.shape[3])
    return rearrange(made, "(b f) h w c -> b f h w c", b=len(latents))
