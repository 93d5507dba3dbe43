"""The U-Net on images under the names of the diffusers package, as the authors of Bi-flow released it."""

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
    time_embedding_type="positional",
    time_embedding_dim=None,
    flip_sin_to_cos=True,
    mid_block_type="UNetMidBlock2D",
    mid_block_scale_factor=1,
    downsample_padding=1,
    downsample_type="conv",
    upsample_type="conv",
    act_fn="silu",
    attn_norm_num_groups=None,
    resnet_time_scale_shift="default",
    add_attention=True,
    num_class_embeds=None,
)
BLOCKS = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    del naming
    unsupported = find_differences(config, EXPECTED)
    for key, known in zip(("down_block_types", "up_block_types"), BLOCKS):
        unsupported |= {key: config[key]} if set(config[key]) - set(known) else {}
    if config.get("class_embed_type") not in (None, "timestep"):
        unsupported["class_embed_type"] = config["class_embed_type"]
    attends = tuple(name.startswith("Attn") for name in config["down_block_types"])
    if attends != tuple(name.startswith("Attn") for name in config["up_block_types"])[::-1]:
        unsupported |= {key: config[key] for key in ("down_block_types", "up_block_types")}
    if unsupported:
        raise ValueError(
            f"a U-Net of this kind has {EXPECTED} and blocks of {BLOCKS} that attend at the same levels down and up, "
            f"this config says {unsupported}"
        )
    sizes = UNetConfig(
        channels=tuple(config["block_out_channels"]),
        attends=attends,
        inputs=config["in_channels"],
        outputs=config["out_channels"],
        blocks=config["layers_per_block"],
        groups=config.get("norm_num_groups", 32),
        epsilon=config.get("norm_eps", 1e-5),
        head=config.get("attention_head_dim", 8),
        level=config.get("class_embed_type") == "timestep",
        frequency_shift=config.get("freq_shift", 0),
    )
    network = networks.functional(UNet, sizes)
    shapes = network_shapes(network)
    field = unet_field.single_unet_field(network)
    return Model(network, shapes, mirror(shapes), frozenset(), partial(_apply, network), field)


def _apply(network: networks.Network, params, sample, timestep, class_labels=None):
    """Maps images (b, c, h, w) at timesteps (b,), and at noise levels (b,) if the network has them, to (b, c, h, w)."""
    x = rearrange(jnp.asarray(sample), "b c h w -> b h w c")
    per_image = lambda s: None if s is None else jnp.broadcast_to(jnp.asarray(s, jnp.float32), len(x))
    return rearrange(network.apply(params, x, per_image(timestep), per_image(class_labels)), "b h w c -> b c h w")


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
