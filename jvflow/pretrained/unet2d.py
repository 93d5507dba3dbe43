"""The U-Net on images under the names of the diffusers package, as the authors of Bi-flow released it.

Older files use the naming "first", which names the layers of attention query, key, value and proj_attn.
"""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks import unet_field
from jvflow.networks.unet import UNet, UNetConfig
from jvflow.pretrained.layout import Kind, Model, first_name, has_first_names, mirror, network_shapes
from jvflow.pretrained.public_config import (
    FALSE,
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
    sample_size=Key(None),
    in_channels=Key(3, SIZE),
    out_channels=Key(3, SIZE),
    center_input_sample=Key(False, FALSE),
    time_embedding_type=Key("positional", one_of("positional")),
    time_embedding_dim=Key(None, NONE),
    freq_shift=Key(0, NUMBER),
    flip_sin_to_cos=Key(True, FLAG),
    down_block_types=Key(["DownBlock2D"] + ["AttnDownBlock2D"] * 3, list_of(one_of("DownBlock2D", "AttnDownBlock2D"))),
    mid_block_type=Key("UNetMidBlock2D", one_of("UNetMidBlock2D")),
    up_block_types=Key(["AttnUpBlock2D"] * 3 + ["UpBlock2D"], list_of(one_of("UpBlock2D", "AttnUpBlock2D"))),
    block_out_channels=Key([224, 448, 672, 896], list_of(SIZE)),
    layers_per_block=Key(2, LAYERS),
    mid_block_scale_factor=Key(1, one_of(1)),
    downsample_padding=Key(1, one_of(0, 1)),
    downsample_type=Key("conv", one_of("conv")),
    upsample_type=Key("conv", one_of("conv")),
    dropout=Key(0.0),
    act_fn=Key("silu", SILU),
    attention_head_dim=Key(8, either(SIZE, NONE)),
    norm_num_groups=Key(32, SIZE),
    attn_norm_num_groups=Key(None, either(SIZE, NONE)),
    norm_eps=Key(1e-5, POSITIVE),
    resnet_time_scale_shift=Key("default", one_of("default")),
    add_attention=Key(True, FLAG),
    class_embed_type=Key(None, one_of(None, "timestep")),
    num_class_embeds=Key(None, NONE),
    num_train_timesteps=Key(None),
)
"""The keys of diffusers' UNet2DModel."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "first" if has_first_names(names) else "current"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    values = read_config(config, KEYS, "a U-Net on images", level_rules)
    channels, head = tuple(values["block_out_channels"]), values["attention_head_dim"]
    attends, attends_up = attention_levels(values)
    sizes = UNetConfig(
        channels=channels,
        attends=attends,
        attends_up=attends_up,
        inputs=values["in_channels"],
        outputs=values["out_channels"],
        blocks=values["layers_per_block"],
        groups=values["norm_num_groups"],
        middle_groups=values["attn_norm_num_groups"] or 0,
        middle_attends=bool(values["add_attention"]),
        epsilon=values["norm_eps"],
        head=head or 1,
        heads=() if head else (1,) * len(channels),
        level=values["class_embed_type"] == "timestep",
        frequency_shift=values["freq_shift"],
        sines_first=not values["flip_sin_to_cos"],
        around=values["downsample_padding"] == 1,
    )
    network = networks.functional(UNet, sizes)
    shapes = network_shapes(network)
    field = unet_field.single_unet_field(network)
    layout = mirror(shapes, first_name if naming == "first" else str)
    return Model(network, shapes, layout, (), partial(_apply, network), field, settings=values)


def attention_levels(values: Mapping) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Returns whether each level has attention, on the way down and on the way up, from the first level to the last."""
    has_attention = lambda types: tuple("Attn" in name for name in types)
    return has_attention(values["down_block_types"]), has_attention(values["up_block_types"][::-1])


def level_rules(values: dict) -> dict[str, str]:
    """Returns the values that do not fit the number of levels or the number of groups."""
    channels, groups = values["block_out_channels"], values["norm_num_groups"]
    kinds = ("down_block_types", "up_block_types")
    wrong = {key: f"a list of {len(channels)} entries" for key in kinds if len(values[key]) != len(channels)}
    if any(n % groups for n in channels):
        wrong["block_out_channels"] = f"multiples of norm_num_groups {groups}"
    if channels[0] % 2:
        wrong["block_out_channels"] = "a list that begins with an even number"
    return wrong


def _apply(network: networks.Network, params, sample, timestep, class_labels=None):
    """Maps images (b, c, h, w) at timesteps (b,), and at noise levels (b,) if the network has them, to (b, c, h, w)."""
    x = rearrange(jnp.asarray(sample), "b c h w -> b h w c")
    per_image = lambda s: None if s is None else jnp.broadcast_to(jnp.asarray(s, jnp.float32), len(x))
    return rearrange(network.apply(params, x, per_image(timestep), per_image(class_labels)), "b h w c -> b c h w")


KIND = Kind(model, find_naming, ("current", "first"))
