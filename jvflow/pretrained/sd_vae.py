"""The autoencoder of Stable Diffusion under its public names.

The diffusers package uses the naming "current". SD v1.5's files use "first", which names the layers of attention query,
key, value and proj_attn.
"""

from collections.abc import Mapping
from functools import partial

from jvflow import networks
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig
from jvflow.pretrained.layout import Kind, Model, autoencoder_apply, find_differences, mirror, network_shapes

FIRST = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
EXPECTED = dict(in_channels=3, out_channels=3, act_fn="silu", shift_factor=None, latents_mean=None, latents_std=None)


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "first" if any(".proj_attn." in name for name in names) else "current"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    unsupported = find_differences(config, EXPECTED)
    kinds = dict(down_block_types="DownEncoderBlock2D", up_block_types="UpDecoderBlock2D")
    unsupported |= {key: config[key] for key, kind in kinds.items() if set(config[key]) != {kind}}
    if unsupported:
        raise ValueError(f"an autoencoder of Stable Diffusion has {EXPECTED | kinds}, this config says {unsupported}")
    if config.get("use_quant_conv", True) != config.get("use_post_quant_conv", True):
        raise ValueError("use_quant_conv and use_post_quant_conv differ: use both 1 x 1 convolutions, or none")
    sizes = KLConfig(
        channels=tuple(config["block_out_channels"]),
        blocks=config["layers_per_block"],
        latent=config["latent_channels"],
        groups=config.get("norm_num_groups", 32),
        attention=config.get("mid_block_add_attention", True),
        moments=config.get("use_quant_conv", True),
    )
    network = networks.functional(Autoencoder, sizes)
    shapes = network_shapes(network)
    apply = autoencoder_apply(*(partial(network.apply, method=method) for method in ("encode", "decode")))
    return Model(network, shapes, mirror(shapes, _first_name if naming == "first" else str), frozenset(), apply)


def _first_name(name: str) -> str:
    for current, first in FIRST.items():
        name = name.replace(f"attentions.0.{current}.", f"attentions.0.{first}.")
    return name


KIND = Kind(model, find_naming, ("current", "first"))
