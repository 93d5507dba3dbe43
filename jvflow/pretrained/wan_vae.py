"""The autoencoder of Wan 2.1 under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks.wan_vae import WanVAE, WanVAEConfig
from jvflow.pretrained.layout import Kind, Model, mirror, network_shapes
from jvflow.pretrained.public_config import (
    FALSE,
    FLAG,
    LAYERS,
    NONE,
    NUMBER,
    POSITIVE,
    SIZE,
    TRUE,
    Key,
    either,
    list_of,
    one_of,
    read_config,
)

LATENTS_MEAN = """
    -0.7571 -0.7089 -0.9113 0.1075 -0.1745 0.9653 -0.1517 1.5508
    0.4134 -0.0715 0.5517 -0.3632 -0.1922 -0.9497 0.2503 -0.2921
"""
LATENTS_STD = """
    2.8184 1.4541 2.3275 2.6558 1.2196 1.7708 2.6052 2.0743
    3.2687 2.1526 2.8652 1.5579 1.6382 1.1253 2.8251 1.9160
"""
KEYS = dict(
    base_dim=Key(96, SIZE),
    decoder_base_dim=Key(None, either(SIZE, NONE)),
    z_dim=Key(16, SIZE),
    dim_mult=Key([1, 2, 4, 4], list_of(SIZE)),
    num_res_blocks=Key(2, LAYERS),
    attn_scales=Key([], one_of([])),
    temperal_downsample=Key([False, True, True], list_of(FLAG)),
    dropout=Key(0.0),
    latents_mean=Key([float(v) for v in LATENTS_MEAN.split()], list_of(NUMBER)),
    latents_std=Key([float(v) for v in LATENTS_STD.split()], list_of(POSITIVE)),
    is_residual=Key(False, FALSE),
    in_channels=Key(3, one_of(3)),
    out_channels=Key(3, one_of(3)),
    patch_size=Key(None, NONE),
    scale_factor_temporal=Key(4),
    scale_factor_spatial=Key(8),
    clip_output=Key(True, TRUE),  # in some files
)
"""The keys of diffusers' AutoencoderKLWan."""


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    del naming
    values = read_config(config, KEYS, "an autoencoder of Wan 2.1", _rules)
    sizes = WanVAEConfig(
        width=values["base_dim"],
        decoder_width=values["decoder_base_dim"] or values["base_dim"],
        levels=tuple(values["dim_mult"]),
        blocks=values["num_res_blocks"],
        halves=tuple(map(bool, values["temperal_downsample"])),
        latent=values["z_dim"],
    )
    network = networks.functional(WanVAE, sizes)
    shapes = network_shapes(network)
    return Model(network, shapes, mirror(shapes), (), partial(_apply, network), settings=values)


def _rules(values: dict) -> dict[str, str]:
    wrong, steps = {}, len(values["dim_mult"]) - 1
    if len(values["temperal_downsample"]) != steps:
        wrong["temperal_downsample"] = f"a list of {steps} entries, one less than dim_mult has"
    return wrong


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
