"""The autoencoder of LTX-Video 0.9.0 and 0.9.5 under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks.ltx_vae import LTXVAE, LTXVAEConfig
from jvflow.pretrained.layout import Kind, Model, find_differences, mirror, network_shapes

EXPECTED = dict(in_channels=3, out_channels=3, patch_size_t=1)


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    del naming
    unsupported = find_differences(config, EXPECTED)
    levels = len(config["block_out_channels"])
    types = tuple(config.get("down_block_types") or ("LTXVideoDownBlock3D",) * levels)
    new = set(types) == {"LTXVideo095DownBlock3D"}
    unsupported |= {} if new or set(types) == {"LTXVideoDownBlock3D"} else dict(down_block_types=types)
    if any(config.get("decoder_inject_noise") or ()):
        unsupported["decoder_inject_noise"] = config["decoder_inject_noise"]
    if unsupported:
        raise ValueError(
            f"an autoencoder of LTX-Video 0.9.0 or 0.9.5 has {EXPECTED}, blocks of one kind "
            f"and no noise in its decoder, this config says {unsupported}"
        )
    count = levels - new
    scales = config["spatio_temporal_scaling"]
    kinds = config["downsample_type"] if new else ["conv"] * count
    decoder = tuple(config["decoder_block_out_channels"])
    whole = lambda key, default: tuple(config.get(key) or (default,) * len(decoder))[: len(decoder)]
    sizes = LTXVAEConfig(
        channels=tuple(config["block_out_channels"]),
        blocks=tuple(config["layers_per_block"]),
        downs=tuple(kind if scale else "" for kind, scale in zip(kinds, scales[:count])),
        decoder_channels=decoder,
        decoder_blocks=tuple(config["decoder_layers_per_block"]),
        ups=tuple(config["decoder_spatio_temporal_scaling"]),
        residual=whole("upsample_residual", False),
        factor=whole("upsample_factor", 1),
        latent=config["latent_channels"],
        timed=config.get("timestep_conditioning", False),
        patch=config["patch_size"],
        epsilon=config.get("resnet_norm_eps", 1e-6),
        causal=config.get("encoder_causal", True),
        decoder_causal=config.get("decoder_causal", False),
    )
    network = networks.functional(LTXVAE, sizes)
    shapes = network_shapes(network)
    return Model(network, shapes, mirror(shapes), frozenset(), partial(_apply, network))


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
