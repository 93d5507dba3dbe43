"""The autoencoder of Stable Diffusion under its public names.

The diffusers package uses the naming "current". SD v1.5's files use "first", which names the layers of attention query,
key, value and proj_attn.
"""

from collections.abc import Mapping
from functools import partial

from jvflow import networks
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig
from jvflow.pretrained.layout import Kind, Model, autoencoder_apply, first_name, has_first_names, mirror, network_shapes
from jvflow.pretrained.public_config import (
    FLAG,
    LAYERS,
    NONE,
    NUMBER,
    POSITIVE,
    SILU,
    SIZE,
    Key,
    either,
    list_of,
    one_of,
    read_config,
)

KEYS = dict(
    in_channels=Key(3, one_of(3)),
    out_channels=Key(3, one_of(3)),
    down_block_types=Key(["DownEncoderBlock2D"], list_of(one_of("DownEncoderBlock2D"))),
    up_block_types=Key(["UpDecoderBlock2D"], list_of(one_of("UpDecoderBlock2D"))),
    block_out_channels=Key([64], list_of(SIZE)),
    layers_per_block=Key(1, LAYERS),
    act_fn=Key("silu", SILU),
    latent_channels=Key(4, SIZE),
    norm_num_groups=Key(32, SIZE),
    sample_size=Key(32),
    scaling_factor=Key(0.18215, POSITIVE),
    shift_factor=Key(None, either(NUMBER, NONE)),
    latents_mean=Key(None, NONE),
    latents_std=Key(None, NONE),
    force_upcast=Key(True),
    use_quant_conv=Key(True, FLAG),
    use_post_quant_conv=Key(True, FLAG),
    mid_block_add_attention=Key(True, FLAG),
)
"""The keys of diffusers' AutoencoderKL."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "first" if has_first_names(names) else "current"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    values = read_config(config, KEYS, "an autoencoder of Stable Diffusion", _rules)
    sizes = KLConfig(
        channels=tuple(values["block_out_channels"]),
        blocks=values["layers_per_block"],
        latent=values["latent_channels"],
        groups=values["norm_num_groups"],
        attention=bool(values["mid_block_add_attention"]),
        moments=bool(values["use_quant_conv"]),
    )
    network = networks.functional(Autoencoder, sizes)
    shapes = network_shapes(network)
    apply = autoencoder_apply(*(partial(network.apply, method=method) for method in ("encode", "decode")))
    layout = mirror(shapes, first_name if naming == "first" else str)
    return Model(network, shapes, layout, (), apply, settings=values)


def _rules(values: dict) -> dict[str, str]:
    channels, groups = values["block_out_channels"], values["norm_num_groups"]
    kinds = ("down_block_types", "up_block_types")
    wrong = {key: f"a list of {len(channels)} entries" for key in kinds if len(values[key]) != len(channels)}
    if any(n % groups for n in channels):
        wrong["block_out_channels"] = f"multiples of norm_num_groups {groups}"
    if bool(values["use_quant_conv"]) != bool(values["use_post_quant_conv"]):
        wrong["use_post_quant_conv"] = f"the same as use_quant_conv, {str(bool(values['use_quant_conv'])).lower()}"
    return wrong


KIND = Kind(model, find_naming, ("current", "first"))
