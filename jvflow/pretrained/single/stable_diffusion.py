"""Stable Diffusion 1.x in one file: U-Net, autoencoder and text encoder, as their authors name them.

model.diffusion_model.           U-Net; input_blocks and output_blocks number all layers of down and up in one row
first_stage_model.               autoencoder; its up levels have the numbers of the down levels, and its attention
                                 is made of 1 x 1 convolutions
cond_stage_model.transformer.    text encoder, as transformers names it
"""

import re
from collections.abc import Callable, Mapping

from jvflow.pretrained.single.origin import Origin, Shapes, count, substitute

GROUPS, HEADS = 32, 8
"""Groups of all group norms, and attention heads of the U-Net, in Stable Diffusion 1.x."""
RESNET = {
    r"\.in_layers\.0\.": ".norm1.",
    r"\.in_layers\.2\.": ".conv1.",
    r"\.emb_layers\.1\.": ".time_emb_proj.",
    r"\.out_layers\.0\.": ".norm2.",
    r"\.out_layers\.3\.": ".conv2.",
    r"\.skip_connection\.": ".conv_shortcut.",
}
UNET = {
    r"^time_embed\.0\.": "time_embedding.linear_1.",
    r"^time_embed\.2\.": "time_embedding.linear_2.",
    r"^input_blocks\.0\.0\.": "conv_in.",
    r"^out\.0\.": "conv_norm_out.",
    r"^out\.2\.": "conv_out.",
    r"^middle_block\.0\.": "mid_block.resnets.0.",
    r"^middle_block\.1\.": "mid_block.attentions.0.",
    r"^middle_block\.2\.": "mid_block.resnets.1.",
}
AUTOENCODER = {
    r"^(encoder|decoder)\.norm_out\.": r"\1.conv_norm_out.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.norm\.": ".mid_block.attentions.0.group_norm.",
    r"\.mid\.attn_1\.([qkv])\.": r".mid_block.attentions.0.to_\1.",
    r"\.mid\.attn_1\.proj_out\.": ".mid_block.attentions.0.to_out.0.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.down\.(\d+)\.block\.": r".down_blocks.\1.resnets.",
    r"\.down\.(\d+)\.downsample\.": r".down_blocks.\1.downsamplers.0.",
}


def _rename_unet(tensors: Mapping) -> Callable[[str], str]:
    """Returns the renaming of the U-Net. Each level of down has some blocks, then a downsampling or the end."""
    steps = [int(match[1]) for name in tensors if (match := re.match(r"input_blocks\.(\d+)\.0\.op\.weight", name))]
    each = min(steps, default=count(tensors, r"input_blocks\.(\d+)\."))  # blocks of a level, and its downsampling

    def down(match: re.Match) -> str:
        level, block = divmod(int(match[1]) - 1, each)
        if match[3] == "op":
            return f"down_blocks.{level}.downsamplers.0.conv."
        return f"down_blocks.{level}.{('resnets', 'attentions')[int(match[2])]}.{block}.{match[3]}."

    def up(match: re.Match) -> str:
        level, block = divmod(int(match[1]), each)
        if match[3] == "conv":
            return f"up_blocks.{level}.upsamplers.0.conv."
        return f"up_blocks.{level}.{('resnets', 'attentions')[int(match[2])]}.{block}.{match[3]}."

    def rename(name: str) -> str:
        name = substitute(name, UNET)
        name = re.sub(r"^input_blocks\.(\d+)\.([01])\.(\w+)\.", down, name)
        name = re.sub(r"^output_blocks\.(\d+)\.([012])\.(\w+)\.", up, name)
        return substitute(name, RESNET)

    return rename


def unet_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of a U-Net from the shapes of its tensors; raises ValueError for another version."""
    del metadata
    if len(shapes["mid_block.attentions.0.proj_in.weight"]) == 2:
        raise ValueError(
            "the file holds a U-Net of Stable Diffusion 2 or XL, whose attention heads do not follow from its tensors: "
            "use the folder unet of the model"
        )
    levels = range(count(shapes, r"down_blocks\.(\d+)\."))
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    return dict(
        _class_name="UNet2DConditionModel",
        in_channels=shapes["conv_in.weight"][1],
        out_channels=shapes["conv_out.weight"][0],
        block_out_channels=[shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels],
        layers_per_block=count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        down_block_types=["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in attends[::-1]],
        cross_attention_dim=shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1],
        attention_head_dim=HEADS,  # this key of diffusers is the number of heads
        norm_num_groups=GROUPS,
    )


def _rename_autoencoder(tensors: Mapping) -> Callable[[str], str]:
    """Returns the renaming of the autoencoder; diffusers counts the levels of the decoder in the opposite direction."""
    levels = count(tensors, r"decoder\.up\.(\d+)\.")

    def up(match: re.Match) -> str:
        level = levels - 1 - int(match[1])
        return f".up_blocks.{level}." + {"block": "resnets.", "upsample": "upsamplers.0."}[match[2]]

    def rename(name: str) -> str | None:
        if name.startswith("loss."):
            return None
        return re.sub(r"\.up\.(\d+)\.(block|upsample)\.", up, substitute(name, AUTOENCODER))

    return rename


def _reshape_attention(name: str, shape: tuple) -> tuple:
    """Returns the shape of a linear layer for one that is stored as a 1 x 1 convolution."""
    attention = re.search(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$", name)
    return shape[:2] if attention and shape[2:] == (1, 1) else shape


def autoencoder_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of an autoencoder from the shapes of its tensors."""
    del metadata
    levels = range(count(shapes, r"encoder\.down_blocks\.(\d+)\."))
    return dict(
        _class_name="AutoencoderKL",
        in_channels=shapes["encoder.conv_in.weight"][1],
        out_channels=shapes["decoder.conv_out.weight"][0],
        block_out_channels=[shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels],
        layers_per_block=count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        latent_channels=shapes["decoder.conv_in.weight"][1],
        down_block_types=["DownEncoderBlock2D"] * len(levels),
        up_block_types=["UpDecoderBlock2D"] * len(levels),
        norm_num_groups=GROUPS,
        use_quant_conv="quant_conv.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
        mid_block_add_attention="encoder.mid_block.attentions.0.group_norm.weight" in shapes,
        scaling_factor=0.18215,
    )


UNET_SIGN = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
ORIGINS = (
    Origin(
        "sd_unet",
        ("input_blocks.0.0.weight", "middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
        unet_config,
        _rename_unet,
    ),
    Origin("sd_unet", ("conv_in.weight", UNET_SIGN), unet_config),
    Origin(
        "sd_vae", ("encoder.down.0.block.0.norm1.weight",), autoencoder_config, _rename_autoencoder, _reshape_attention
    ),
    Origin(
        "sd_vae", ("encoder.down_blocks.0.resnets.0.norm1.weight", "encoder.conv_norm_out.weight"), autoencoder_config
    ),
)
