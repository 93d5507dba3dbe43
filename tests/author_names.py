"""The names that the authors of public models gave to tensors, each as a table of pairs (name of diffusers, theirs)."""

import re


def backwards(name, table):
    """Returns a name of diffusers under its old name, by a table of pairs (name of diffusers, old name)."""
    for new, old in table:
        name = re.sub(new, old, name)
    return name


LTX = dict(num_attention_heads=2, attention_head_dim=4, in_channels=3, out_channels=3, num_layers=2)
LTX |= dict(caption_channels=5, cross_attention_dim=8)
LTX_METADATA = LTX | dict(
    _class_name="Transformer3DModel",
    activation_fn="gelu-approximate",
    attention_bias=True,
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    qk_norm="rms_norm",
    standardization_norm="rms_norm",
    positional_embedding_type="rope",
    positional_embedding_theta=10000.0,
    positional_embedding_max_pos=[20, 2048, 2048],
    timestep_scale_multiplier=1000,
)
LTX_NAMES = [
    (r"^proj_in", "patchify_proj"),
    (r"^time_embed", "adaln_single"),
    (r"norm_q", "q_norm"),
    (r"norm_k", "k_norm"),
]
RES, BOTH = "res_x", "compress_all"
VAE_METADATA = dict(
    _class_name="CausalVideoAutoencoder",
    dims=3,
    in_channels=3,
    out_channels=3,
    latent_channels=128,
    scaling_factor=1.0,
    norm_layer="pixel_norm",
    patch_size=4,
    latent_log_var="uniform",
    use_quant_conv=False,
    causal_decoder=False,
)
UP = [BOTH, dict(residual=True, multiplier=2)]
VAE_BLOCKS = {
    "0.9.0": dict(
        blocks=[
            *([RES, 4], [BOTH, 1], ["res_x_y", 1], [RES, 3], [BOTH, 1], ["res_x_y", 1]),
            *([RES, 3], [BOTH, 1], [RES, 3], [RES, 4]),
        ]
    ),
    "0.9.1": dict(
        timestep_conditioning=True,
        encoder_blocks=[
            *(
                [RES, dict(num_layers=4)],
                [BOTH, {}],
                ["res_x_y", dict(multiplier=2)],
                [RES, dict(num_layers=3)],
                [BOTH, {}],
            ),
            *(["res_x_y", dict(multiplier=2)], [RES, dict(num_layers=3)], [BOTH, {}], [RES, dict(num_layers=3)]),
            [RES, dict(num_layers=4)],
        ],
        decoder_blocks=[
            *([RES, dict(num_layers=5, inject_noise=True)], UP, [RES, dict(num_layers=6, inject_noise=True)], UP),
            *([RES, dict(num_layers=7, inject_noise=True)], UP, [RES, dict(num_layers=8, inject_noise=False)]),
        ],
    ),
    "0.9.5": dict(
        timestep_conditioning=True,
        encoder_blocks=[
            *([RES, dict(num_layers=4)], ["compress_space_res", dict(multiplier=2)], [RES, dict(num_layers=6)]),
            *(["compress_time_res", dict(multiplier=2)], [RES, dict(num_layers=6)]),
            *(["compress_all_res", dict(multiplier=2)], [RES, dict(num_layers=2)]),
            *(["compress_all_res", dict(multiplier=2)], [RES, dict(num_layers=2)]),
        ],
        decoder_blocks=[[RES, dict(num_layers=5)], UP, [RES, dict(num_layers=5)], UP, [RES, dict(num_layers=5)], UP]
        + [[RES, dict(num_layers=5)]],
    ),
}
VAE_CONFIGS = {
    "0.9.0": dict(
        block_out_channels=[128, 256, 512, 512],
        decoder_block_out_channels=[128, 256, 512, 512],
        layers_per_block=[4, 3, 3, 3, 4],
        decoder_layers_per_block=[4, 3, 3, 3, 4],
        spatio_temporal_scaling=[True, True, True, False],
        decoder_spatio_temporal_scaling=[True, True, True, False],
        decoder_inject_noise=[False] * 5,
        down_block_types=["LTXVideoDownBlock3D"] * 4,
        downsample_type=["conv"] * 4,
        upsample_residual=[False] * 4,
        upsample_factor=[1] * 4,
        timestep_conditioning=False,
    ),
    "0.9.1": dict(
        block_out_channels=[128, 256, 512, 512],
        decoder_block_out_channels=[256, 512, 1024],
        layers_per_block=[4, 3, 3, 3, 4],
        decoder_layers_per_block=[5, 6, 7, 8],
        spatio_temporal_scaling=[True, True, True, False],
        decoder_spatio_temporal_scaling=[True] * 3,
        decoder_inject_noise=[True, True, True, False],
        down_block_types=["LTXVideoDownBlock3D"] * 4,
        upsample_residual=[True] * 3,
        upsample_factor=[2] * 3,
        timestep_conditioning=True,
    ),
    "0.9.5": dict(
        block_out_channels=[128, 256, 512, 1024, 2048],
        decoder_block_out_channels=[256, 512, 1024],
        layers_per_block=[4, 6, 6, 2, 2],
        decoder_layers_per_block=[5] * 4,
        spatio_temporal_scaling=[True] * 4,
        decoder_spatio_temporal_scaling=[True] * 3,
        decoder_inject_noise=[False] * 4,
        down_block_types=["LTXVideo095DownBlock3D"] * 4,
        downsample_type=["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        upsample_residual=[True] * 3,
        upsample_factor=[2] * 3,
        timestep_conditioning=True,
    ),
}
LATER_UP = [(rf"^decoder\.up_blocks\.{i}\.upsamplers\.0", f"decoder.U.{2 * i + 1}") for i in range(3)]
LATER_UP += [(rf"^decoder\.up_blocks\.{i}", f"decoder.U.{2 * i + 2}") for i in range(3)]
FIRST_DOWN = [
    *[(rf"^encoder\.down_blocks\.{i}\.downsamplers\.0", f"encoder.D.{n}") for i, n in enumerate((1, 4, 7))],
    *[(rf"^encoder\.down_blocks\.{i}\.conv_out", f"encoder.D.{n}") for i, n in enumerate((2, 5))],
    *[(rf"^encoder\.down_blocks\.{i}", f"encoder.D.{n}") for i, n in enumerate((0, 3, 6, 8))],
    (r"^encoder\.mid_block", "encoder.D.9"),
]
VAE_NAMES = {
    "0.9.0": [
        *FIRST_DOWN,
        *[(rf"^decoder\.up_blocks\.{i}\.conv_in", f"decoder.U.{n}") for i, n in ((2, 4), (3, 7))],
        *[(rf"^decoder\.up_blocks\.{i}\.upsamplers\.0", f"decoder.U.{n}") for i, n in ((1, 2), (2, 5), (3, 8))],
        *[(rf"^decoder\.up_blocks\.{i}", f"decoder.U.{n}") for i, n in enumerate((1, 3, 6, 9))],
    ],
    "0.9.1": FIRST_DOWN + LATER_UP,
    "0.9.5": [
        *[(rf"^encoder\.down_blocks\.{i}\.downsamplers\.0", f"encoder.D.{2 * i + 1}") for i in range(4)],
        *[(rf"^encoder\.down_blocks\.{i}", f"encoder.D.{2 * i}") for i in range(4)],
        (r"^encoder\.mid_block", "encoder.D.8"),
        *LATER_UP,
    ],
}
VAE_COMMON = [
    (r"^decoder\.mid_block", "decoder.U.0"),
    (r"\.U\.", ".up_blocks."),
    (r"\.D\.", ".down_blocks."),
    (r"^decoder\.time_embedder", "decoder.last_time_embedder"),
    (r"^decoder\.scale_shift_table", "decoder.last_scale_shift_table"),
    (r"\.resnets\.", ".res_blocks."),
    (r"\.conv_shortcut\.conv\.", ".conv_shortcut."),
    (r"\.norm3\.", ".norm3.norm."),
    (r"^latents_mean$", "per_channel_statistics.mean-of-means"),
    (r"^latents_std$", "per_channel_statistics.std-of-means"),
]
"""The numbers of the released files: each block has the number that its place in the list of blocks gives it."""


WAN_NAMES = [
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^proj_out", "head.head"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "o"),
    (r"\.norm2\.", ".norm3."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
]


VAE_OF_WAN = [
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"coder\.conv_in", "coder.conv1"),
    (r"coder\.norm_out", "coder.head.0"),
    (r"coder\.conv_out", "coder.head.2"),
    (r"mid_block\.resnets\.0", "middle.0"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"mid_block\.resnets\.1", "middle.2"),
    (r"down_blocks", "downsamples"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.norm1", r"\1.residual.0"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.conv1", r"\1.residual.2"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.norm2", r"\1.residual.3"),
    (r"(middle\.[02]|downsamples\.\d+|resnets\.\d+)\.conv2", r"\1.residual.6"),
    (r"conv_shortcut", "shortcut"),
]


RESNET = dict(norm1="in_layers.0", conv1="in_layers.2", time_emb_proj="emb_layers.1", norm2="out_layers.0")
RESNET |= dict(conv2="out_layers.3", conv_shortcut="skip_connection")


def old_unet_names(levels, each, attends):
    """Returns pairs of the modules of the U-Net, diffusers' name and the authors', in the order of the network."""
    pairs, number = [("conv_in", "input_blocks.0.0")], 1
    for level in range(levels):
        for block in range(each):
            pairs.append((f"down_blocks.{level}.resnets.{block}", f"input_blocks.{number}.0"))
            if attends[level]:
                pairs.append((f"down_blocks.{level}.attentions.{block}", f"input_blocks.{number}.1"))
            number += 1
        if level < levels - 1:
            pairs.append((f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"))
            number += 1
    pairs += [("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1")]
    pairs += [("mid_block.resnets.1", "middle_block.2")]
    number = 0
    for level in range(levels):
        attend = attends[levels - 1 - level]
        for block in range(each + 1):
            pairs.append((f"up_blocks.{level}.resnets.{block}", f"output_blocks.{number}.0"))
            if attend:
                pairs.append((f"up_blocks.{level}.attentions.{block}", f"output_blocks.{number}.1"))
            if block == each and level < levels - 1:
                pairs.append((f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number}.{1 + attend}.conv"))
            number += 1
    pairs += [("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2")]
    return pairs + [("conv_norm_out", "out.0"), ("conv_out", "out.2")]


def old_unet_name(name, pairs):
    new, old = next(pair for pair in pairs if name.startswith(f"{pair[0]}."))
    rest = name.removeprefix(f"{new}.")
    if ".resnets." in f".{new}.":
        module, _, last = rest.partition(".")
        rest = f"{RESNET[module]}.{last}"
    return f"{old}.{rest}"


def old_vae_name(name, levels):
    name = re.sub(r"decoder\.up_blocks\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", name)
    table = [
        (r"\.down_blocks\.", ".down."),
        (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
        (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
        (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
        (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
        (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
        (r"\.resnets\.", ".block."),
        (r"\.(down|up)samplers\.0\.", r".\1sample."),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    return backwards(name, table)
