"""Models of images in one file: the U-Nets that Bi-flow's authors released, and DiT as its authors name it.

A file of BI-FLOW holds two U-Nets, model1. for the video and model2. for the noise; files of FLOW and CONDIFF hold one.
"""

from collections.abc import Mapping

from jvflow.pretrained.single.origin import Origin, Shapes, count

HEAD, GROUPS = 8, 32
"""Channels of an attention head and groups of a group norm, the defaults of diffusers, which the authors use."""
DIT_HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Attention heads of DiT-XL, L, B and S by width."""


def unet_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of a U-Net from the shapes of its tensors."""
    del metadata
    levels = range(count(shapes, r"down_blocks\.(\d+)\."))
    attends = [any(name.startswith(f"down_blocks.{level}.attentions.") for name in shapes) for level in levels]
    return dict(
        _class_name="UNet2DModel",
        in_channels=shapes["conv_in.weight"][1],
        out_channels=shapes["conv_out.weight"][0],
        block_out_channels=[shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels],
        layers_per_block=count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in attends[::-1]],
        class_embed_type="timestep" if "class_embedding.linear_1.weight" in shapes else None,
        attention_head_dim=HEAD,
        norm_num_groups=GROUPS,
    )


def dit_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of a DiT under its authors' names from the shapes of its tensors."""
    del metadata
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    if width not in DIT_HEADS:
        known = ", ".join(map(str, DIT_HEADS))
        raise ValueError(
            f"this DiT has width {width}, and the number of its attention heads is only known for {known}: "
            "put the config.json of the model next to the file"
        )
    return dict(
        _class_name="DiTTransformer2DModel",
        num_attention_heads=DIT_HEADS[width],
        attention_head_dim=width // DIT_HEADS[width],
        in_channels=channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        num_layers=count(shapes, r"blocks\.(\d+)\."),
        patch_size=patch,
        num_embeds_ada_norm=shapes["y_embedder.embedding_table.weight"][0] - 1,
        norm_type="ada_norm_zero",
    )


ORIGINS = (
    Origin(
        "unet2d",
        ("conv_in.weight", "mid_block.attentions.0.to_q.weight", "time_embedding.linear_1.weight"),
        unet_config,
    ),
    Origin("dit", ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight"), dit_config),
)
