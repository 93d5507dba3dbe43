"""The autoencoder of Wan 2.1 under its public names, those of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks.wan_vae import WanVAE, WanVAEConfig
from jvflow.pretrained.base import Kind, Model, mirrored, shapes_of, unlike

EXPECTED = dict(attn_scales=[], is_residual=False, in_channels=3, out_channels=3, patch_size=None)


def model(config: Mapping, generation: str) -> Model:
    """The network and layout of a config of the diffusers package."""
    del generation
    other = unlike(config, EXPECTED)
    if other:
        raise ValueError(f"an autoencoder of Wan 2.1 has {EXPECTED}, this config says {other}")
    sizes = WanVAEConfig(
        width=config["base_dim"], decoder_width=config.get("decoder_base_dim") or config["base_dim"], levels=tuple(config["dim_mult"]),
        blocks=config["num_res_blocks"], halves=tuple(config["temperal_downsample"]), latent=config["z_dim"],
    )
    network = networks.functional(WanVAE, sizes)
    shapes = shapes_of(network)
    return Model(network, shapes, mirrored(shapes), frozenset(), partial(_public, network))


def _public(network: networks.Network, params, *, method: str, x=None, z=None, sample=None):
    """method="encode", x or sample (b, 3, f, h, w) -> (mean, logvar); method="decode", z (b, c, f', h', w') -> (b, 3, f, h, w)."""
    x = x if sample is None else sample
    given = dict(encode=x, decode=z).get(method)
    if given is None:
        raise ValueError(f"method is {method!r}: use 'encode' with x, or 'decode' with z")
    made = network.apply(params, rearrange(jnp.asarray(given), "b c f h w -> b f h w c"), method=method)
    back = lambda a: rearrange(a, "b f h w c -> b c f h w")
    return tuple(map(back, made)) if method == "encode" else back(made)


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
