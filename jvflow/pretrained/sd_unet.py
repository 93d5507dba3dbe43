"""The U-Nets of Stable Diffusion 1.x and 2.x under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks import unet_field
from jvflow.networks.unet import UNet, UNetConfig
from jvflow.pretrained.layout import Kind, Model, mirror, network_shapes
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
    same_entries,
)
from jvflow.pretrained.unet2d import attention_levels, level_rules

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
KEYS = dict(
    sample_size=Key(None),
    in_channels=Key(4, SIZE),
    out_channels=Key(4, SIZE),
    center_input_sample=Key(False, FALSE),
    flip_sin_to_cos=Key(True, FLAG),
    freq_shift=Key(0, NUMBER),
    down_block_types=Key([DOWN[1]] * 3 + [DOWN[0]], list_of(one_of(*DOWN))),
    mid_block_type=Key("UNetMidBlock2DCrossAttn", one_of("UNetMidBlock2DCrossAttn")),
    up_block_types=Key([UP[0]] + [UP[1]] * 3, list_of(one_of(*UP))),
    only_cross_attention=Key(False, either(FALSE, list_of(FALSE))),
    block_out_channels=Key([320, 640, 1280, 1280], list_of(SIZE)),
    layers_per_block=Key(2, either(LAYERS, list_of(LAYERS))),
    downsample_padding=Key(1, one_of(0, 1)),
    mid_block_scale_factor=Key(1, one_of(1)),
    dropout=Key(0.0),
    act_fn=Key("silu", SILU),
    norm_num_groups=Key(32, SIZE),
    norm_eps=Key(1e-5, POSITIVE),
    cross_attention_dim=Key(1280, either(SIZE, list_of(SIZE))),
    transformer_layers_per_block=Key(1, either(one_of(1), list_of(one_of(1)))),
    reverse_transformer_layers_per_block=Key(None, NONE),
    encoder_hid_dim=Key(None, NONE),
    encoder_hid_dim_type=Key(None, NONE),
    attention_head_dim=Key(8, either(SIZE, list_of(SIZE))),
    num_attention_heads=Key(None, NONE),
    dual_cross_attention=Key(False, FALSE),
    use_linear_projection=Key(False, FLAG),
    class_embed_type=Key(None, NONE),
    addition_embed_type=Key(None, NONE),
    addition_time_embed_dim=Key(None),
    num_class_embeds=Key(None, NONE),
    upcast_attention=Key(False),
    resnet_time_scale_shift=Key("default", one_of("default")),
    resnet_skip_time_act=Key(False, FALSE),
    resnet_out_scale_factor=Key(1.0, one_of(1.0)),
    time_embedding_type=Key("positional", one_of("positional")),
    time_embedding_dim=Key(None, NONE),
    time_embedding_act_fn=Key(None, NONE),
    timestep_post_act=Key(None, NONE),
    time_cond_proj_dim=Key(None, NONE),
    conv_in_kernel=Key(3, one_of(3)),
    conv_out_kernel=Key(3, one_of(3)),
    projection_class_embeddings_input_dim=Key(None),
    attention_type=Key("default", one_of("default")),
    class_embeddings_concat=Key(False, FALSE),
    mid_block_only_cross_attention=Key(None, FALSE),
    cross_attention_norm=Key(None, NONE),
    addition_embed_type_num_heads=Key(64),
)
"""The keys of diffusers' UNet2DConditionModel; some change nothing while others are null."""


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package, whose `attention_head_dim` is the number of heads."""
    del naming
    values = read_config(config, KEYS, "a U-Net of Stable Diffusion 1.x or 2.x", _rules)
    channels, heads = tuple(values["block_out_channels"]), values["attention_head_dim"]
    attends, attends_up = attention_levels(values)
    sizes = UNetConfig(
        channels=channels,
        attends=attends,
        attends_up=attends_up,
        inputs=values["in_channels"],
        outputs=values["out_channels"],
        blocks=same_entries(values["layers_per_block"], len(channels)),
        groups=values["norm_num_groups"],
        epsilon=values["norm_eps"],
        heads=tuple(heads) if isinstance(heads, list | tuple) else (heads,) * len(channels),
        text_width=same_entries(values["cross_attention_dim"], len(channels)),
        linear=bool(values["use_linear_projection"]),
        frequency_shift=values["freq_shift"],
        sines_first=not values["flip_sin_to_cos"],
        around=values["downsample_padding"] == 1,
    )
    network = networks.functional(UNet, sizes)
    shapes = network_shapes(network)
    field = unet_field.single_unet_field(network)
    return Model(network, shapes, mirror(shapes), (), partial(_apply, network), field, settings=values)


def _rules(values: dict) -> dict[str, str]:
    wrong, levels = level_rules(values), len(values["block_out_channels"])
    for key in ("layers_per_block", "cross_attention_dim", "transformer_layers_per_block"):
        if same_entries(values[key], levels) is None:
            wrong[key] = f"one number, or {levels} equal ones"
    heads = values["attention_head_dim"]
    if isinstance(heads, list | tuple) and len(heads) != levels:
        wrong["attention_head_dim"] = f"one number of heads, or a list of {levels}"
    return wrong


def _apply(network: networks.Network, params, sample, timestep, encoder_hidden_states):
    """Maps latents (b, c, h, w) at timesteps (b,) with text (b, n, d) to (b, c, h, w)."""
    x = rearrange(jnp.asarray(sample), "b c h w -> b h w c")
    time = jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), len(x))
    return rearrange(network.apply(params, x, time, text=jnp.asarray(encoder_hidden_states)), "b h w c -> b c h w")


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
