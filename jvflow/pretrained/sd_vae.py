"""The autoencoder of Stable Diffusion under its public names.

    current      those of the diffusers package
    first        those of the files of SD v1.5, whose attention has query, key, value and proj_attn
"""

from collections.abc import Mapping
from functools import partial

from jvflow import networks
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig
from jvflow.pretrained.base import Kind, Model, both_ways, mirrored, shapes_of, unlike

FIRST = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
EXPECTED = dict(in_channels=3, out_channels=3, act_fn="silu", shift_factor=None, latents_mean=None, latents_std=None)


def generation(names) -> str:
    """Whose names these are."""
    return "first" if any(".proj_attn." in name for name in names) else "current"


def model(config: Mapping, generation: str) -> Model:
    """The network and layout of a config of the diffusers package."""
    other = unlike(config, EXPECTED)
    kinds = dict(down_block_types="DownEncoderBlock2D", up_block_types="UpDecoderBlock2D")
    other |= {key: config[key] for key, kind in kinds.items() if set(config[key]) != {kind}}
    if other:
        raise ValueError(f"an autoencoder of Stable Diffusion has {EXPECTED | kinds}, this config says {other}")
    if config.get("use_quant_conv", True) != config.get("use_post_quant_conv", True):
        raise ValueError("use_quant_conv and use_post_quant_conv differ: both 1 x 1 convolutions, or none")
    sizes = KLConfig(
        channels=tuple(config["block_out_channels"]), blocks=config["layers_per_block"], latent=config["latent_channels"],
        groups=config.get("norm_num_groups", 32), attention=config.get("mid_block_add_attention", True), moments=config.get("use_quant_conv", True),
    )
    network = networks.functional(Autoencoder, sizes)
    shapes = shapes_of(network)
    return Model(network, shapes, mirrored(shapes, _first if generation == "first" else str), frozenset(), both_ways(*(partial(network.apply, method=name) for name in ("encode", "decode"))))


def _first(name: str) -> str:
    for now, then in FIRST.items():
        name = name.replace(f"attentions.0.{now}.", f"attentions.0.{then}.")
    return name


KIND = Kind(model, generation, ("current", "first"))
