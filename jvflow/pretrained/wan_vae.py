"""The autoencoder of Wan 2.1 under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks.wan_vae import WanVAE, WanVAEConfig
from jvflow.pretrained.layout import Kind, Model, find_differences, mirror, network_shapes

EXPECTED = dict(attn_scales=[], is_residual=False, in_channels=3, out_channels=3, patch_size=None)


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    del naming
    unsupported = find_differences(config, EXPECTED)
    if unsupported:
        raise ValueError(f"an autoencoder of Wan 2.1 has {EXPECTED}, this config says {unsupported}")
    sizes = WanVAEConfig(
        width=config["base_dim"],
        decoder_width=config.get("decoder_base_dim") or config["base_dim"],
        levels=tuple(config["dim_mult"]),
        blocks=config["num_res_blocks"],
        halves=tuple(config["temperal_downsample"]),
        latent=config["z_dim"],
    )
    network = networks.functional(WanVAE, sizes)
    shapes = network_shapes(network)
    return Model(network, shapes, mirror(shapes), frozenset(), partial(_apply, network))


def _apply(network: networks.Network, params, *, method: str, x=None, z=None, sample=None):
    """Encodes x or sample (b, 3, f, h, w) to (mean, logvar), or decodes z (b, c, f', h', w') to (b, 3, f, h, w)."""
    x = x if sample is None else sample
    given = dict(encode=x, decode=z).get(method)
    if given is None:
        raise ValueError(f"method is {method!r}: use 'encode' with x, or 'decode' with z")
    output = network.apply(params, rearrange(jnp.asarray(given), "b c f h w -> b f h w c"), method=method)
    channels_first = lambda a: rearrange(a, "b f h w c -> b c f h w")
    return tuple(map(channels_first, output)) if method == "encode" else channels_first(output)


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
