"""The autoencoders of LTX-Video 0.9.0 to 0.9.8 under the names of the diffusers package."""

import math
from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks.ltx_vae import LTXVAE, STRIDES, LTXVAEConfig
from jvflow.pretrained.layout import Kind, Model, mirror, network_shapes
from jvflow.pretrained.public_config import FLAG, LAYERS, POSITIVE, SIZE, Key, either, list_of, one_of, read_config

OLD, NEW = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"
KEYS = dict(
    in_channels=Key(3, one_of(3)),
    out_channels=Key(3, one_of(3)),
    latent_channels=Key(128, SIZE),
    block_out_channels=Key([128, 256, 512, 512], list_of(SIZE)),
    down_block_types=Key([OLD] * 4, either(list_of(one_of(OLD)), list_of(one_of(NEW)))),
    decoder_block_out_channels=Key([128, 256, 512, 512], list_of(SIZE)),
    layers_per_block=Key([4, 3, 3, 3, 4], list_of(LAYERS)),
    decoder_layers_per_block=Key([4, 3, 3, 3, 4], list_of(LAYERS)),
    spatio_temporal_scaling=Key([True, True, True, False], list_of(FLAG)),
    decoder_spatio_temporal_scaling=Key([True, True, True, False], list_of(FLAG)),
    decoder_inject_noise=Key([False] * 5, list_of(FLAG)),
    downsample_type=Key(["conv"] * 4, list_of(one_of("conv", *STRIDES))),
    upsample_residual=Key([False] * 4, list_of(FLAG)),
    upsample_factor=Key([1] * 4, list_of(SIZE)),
    timestep_conditioning=Key(False, FLAG),
    patch_size=Key(4, SIZE),
    patch_size_t=Key(1, one_of(1)),
    resnet_norm_eps=Key(1e-6, POSITIVE),
    scaling_factor=Key(1.0, POSITIVE),
    encoder_causal=Key(True, FLAG),
    decoder_causal=Key(False, FLAG),
    spatial_compression_ratio=Key(None),
    temporal_compression_ratio=Key(None),
)
"""The keys of diffusers' AutoencoderKLLTXVideo."""


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    del naming
    values = read_config(config, KEYS, "an autoencoder of LTX-Video", _rules)
    new, decoder = values["down_block_types"][-1] == NEW, tuple(values["decoder_block_out_channels"])
    count, levels = len(values["block_out_channels"]) - new, len(decoder)
    types = values["downsample_type"] if new else ["conv"] * count
    last = lambda key, length: tuple(values[key])[-length:]
    sizes = LTXVAEConfig(
        channels=tuple(values["block_out_channels"]),
        blocks=(*values["layers_per_block"][:count], values["layers_per_block"][-1]),
        downs=tuple(kind if scale else "" for kind, scale in zip(types, values["spatio_temporal_scaling"][:count])),
        decoder_channels=decoder,
        decoder_blocks=last("decoder_layers_per_block", levels + 1),
        ups=last("decoder_spatio_temporal_scaling", levels),
        residual=last("upsample_residual", levels),
        factor=last("upsample_factor", levels),
        noise=last("decoder_inject_noise", levels + 1),
        latent=values["latent_channels"],
        timed=bool(values["timestep_conditioning"]),
        patch=values["patch_size"],
        epsilon=values["resnet_norm_eps"],
        causal=bool(values["encoder_causal"]),
        decoder_causal=bool(values["decoder_causal"]),
    )
    network = networks.functional(LTXVAE, sizes)
    shapes = network_shapes(network)
    return Model(network, shapes, mirror(shapes), (), partial(_apply, network), settings=values)


def _rules(values: dict) -> dict[str, str]:
    """Returns lists that are too short, and sizes that a downsampling or an upsampling does not divide."""
    new, channels = values["down_block_types"][-1] == NEW, values["block_out_channels"]
    count, decoder = len(channels) - new, values["decoder_block_out_channels"]
    least = dict(block_out_channels=1 + new, down_block_types=count, layers_per_block=count + 1)
    least |= dict(spatio_temporal_scaling=count, downsample_type=count if new else 0, upsample_factor=len(decoder))
    least |= dict(decoder_layers_per_block=len(decoder) + 1, decoder_spatio_temporal_scaling=len(decoder))
    least |= dict(decoder_inject_noise=len(decoder) + 1, upsample_residual=len(decoder))
    short = {key: f"a list of at least {n} entries" for key, n in least.items() if len(values[key]) < n}
    return short or _odd_downsampling(values, count if new else 0) or _odd_upsampling(values, len(decoder))


def _odd_downsampling(values: dict, count: int) -> dict[str, str]:
    channels, stride = values["block_out_channels"], lambda kind: math.prod(STRIDES.get(kind, (1,)))
    steps = zip(channels[:count], channels[1:], values["downsample_type"], values["spatio_temporal_scaling"])
    strides = [(n, m, stride(kind)) for n, m, kind, scale in steps if scale]
    fits = all(m % s == 0 and n * s % m == 0 for n, m, s in strides)
    return {} if fits else dict(block_out_channels="numbers that divide one another as downsample_type asks for")


def _odd_upsampling(values: dict, levels: int) -> dict[str, str]:
    factors, width = values["upsample_factor"][-levels:], values["decoder_block_out_channels"][-1]
    noisy, residual = values["decoder_inject_noise"][-levels - 1 : -1], values["upsample_residual"][-levels:]
    for n, factor, noise, adds in reversed(list(zip(values["decoder_block_out_channels"], factors, noisy, residual))):
        if n % factor or width % factor or 8 % factor:
            return dict(upsample_factor="factors of 8 and of decoder_block_out_channels")
        if adds and width % 8:
            return dict(decoder_block_out_channels="multiples of 8 where upsample_residual is true")
        if width != n and (noise or values["timestep_conditioning"]):
            return dict(decoder_block_out_channels="channels that only upsample_factor changes, with time or noise")
        width = n // factor
    return {}


def _apply(network: networks.Network, params, *, method: str, x=None, z=None, sample=None, temb=None):
    """Encodes x or sample (b, 3, f, h, w) to (mean, logvar), or decodes z (b, c, f', h', w') at times temb (b,)."""
    channels_last = lambda a: rearrange(jnp.asarray(a), "b c f h w -> b f h w c")
    channels_first = lambda a: rearrange(a, "b f h w c -> b c f h w")
    x = x if sample is None else sample
    if method == "encode" and x is not None:
        return tuple(channels_first(a) for a in network.apply(params, channels_last(x), method="encode"))
    if method == "decode" and z is not None:
        time = None if temb is None else jnp.asarray(temb, jnp.float32)
        return channels_first(network.apply(params, channels_last(z), time, method="decode"))
    raise ValueError(f"method is {method!r}: use 'encode' with x, or 'decode' with z")


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
