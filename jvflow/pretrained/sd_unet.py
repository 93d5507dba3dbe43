"""The U-Net of Stable Diffusion 1.x under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks import unet_field
from jvflow.networks.unet import UNet, UNetConfig
from jvflow.pretrained.layout import Kind, Model, find_differences, mirror, network_shapes

EXPECTED = dict(
    center_input_sample=False,
    flip_sin_to_cos=True,
    mid_block_type="UNetMidBlock2DCrossAttn",
    only_cross_attention=False,
    downsample_padding=1,
    mid_block_scale_factor=1,
    act_fn="silu",
    transformer_layers_per_block=1,
    encoder_hid_dim=None,
    num_attention_heads=None,
    dual_cross_attention=False,
    use_linear_projection=False,
    class_embed_type=None,
    addition_embed_type=None,
    num_class_embeds=None,
    resnet_time_scale_shift="default",
    resnet_skip_time_act=False,
    resnet_out_scale_factor=1.0,
    time_embedding_type="positional",
    time_embedding_dim=None,
    time_embedding_act_fn=None,
    timestep_post_act=None,
    time_cond_proj_dim=None,
    conv_in_kernel=3,
    conv_out_kernel=3,
    attention_type="default",
    cross_attention_norm=None,
)
BLOCKS = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
)


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package, whose `attention_head_dim` is the number of heads."""
    del naming
    unsupported = find_differences(config, EXPECTED)
    unsupported |= {key: config[key] for key, known in BLOCKS.items() if set(config[key]) - set(known)}
    attends = tuple(name.startswith("Cross") for name in config["down_block_types"])
    if attends != tuple(name.startswith("Cross") for name in config["up_block_types"])[::-1]:
        unsupported |= {key: config[key] for key in BLOCKS}
    unsupported |= {
        key: config[key]
        for key in ("attention_head_dim", "layers_per_block", "cross_attention_dim")
        if not isinstance(config[key], int)
    }
    if unsupported:
        raise ValueError(
            f"a U-Net of Stable Diffusion 1.x has {EXPECTED | BLOCKS}, attends at the same levels down and up, "
            f"and has one number of heads; this config says {unsupported}"
        )
    sizes = UNetConfig(
        channels=tuple(config["block_out_channels"]),
        attends=attends,
        inputs=config["in_channels"],
        outputs=config["out_channels"],
        blocks=config["layers_per_block"],
        groups=config.get("norm_num_groups", 32),
        epsilon=config.get("norm_eps", 1e-5),
        heads=config["attention_head_dim"],
        text_width=config["cross_attention_dim"],
        frequency_shift=config.get("freq_shift", 0),
    )
    network = networks.functional(UNet, sizes)
    shapes = network_shapes(network)
    field = unet_field.single_unet_field(network)
    return Model(network, shapes, mirror(shapes), frozenset(), partial(_apply, network), field)


def _apply(network: networks.Network, params, sample, timestep, encoder_hidden_states):
    """Maps latents (b, c, h, w) at timesteps (b,) with text (b, n, d) to (b, c, h, w)."""
    x = rearrange(jnp.asarray(sample), "b c h w -> b h w c")
    time = jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), len(x))
    return rearrange(network.apply(params, x, time, text=jnp.asarray(encoder_hidden_states)), "b h w c -> b c h w")


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
