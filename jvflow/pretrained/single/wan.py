"""Wan 2.1 as its authors name it: the transformer, and the autoencoder of Wan2.1_VAE.pth.

The transformer's norm3 comes before the attention to text, and is norm2 in diffusers; its other norms have no
parameters. The autoencoder numbers the layers of all levels in one row.
"""

import re
from collections.abc import Callable, Mapping

from jvflow.pretrained.single.origin import Origin, Shapes, count, split_width, substitute

HEAD = 128
"""The size of an attention head in every released transformer."""
TRANSFORMER = {
    r"^text_embedding\.0\.": "condition_embedder.text_embedder.linear_1.",
    r"^text_embedding\.2\.": "condition_embedder.text_embedder.linear_2.",
    r"^time_embedding\.0\.": "condition_embedder.time_embedder.linear_1.",
    r"^time_embedding\.2\.": "condition_embedder.time_embedder.linear_2.",
    r"^time_projection\.1\.": "condition_embedder.time_proj.",
    r"^head\.head\.": "proj_out.",
    r"^head\.modulation$": "scale_shift_table",
    r"^(blocks\.\d+\.)modulation$": r"\1scale_shift_table",
    r"^(blocks\.\d+\.)norm3\.": r"\1norm2.",
    r"^(blocks\.\d+\.)self_attn\.": r"\1attn1.",
    r"^(blocks\.\d+\.)cross_attn\.": r"\1attn2.",
    r"^(blocks\.\d+\.attn[12]\.)([qkv])\.": r"\1to_\2.",
    r"^(blocks\.\d+\.attn[12]\.)o\.": r"\1to_out.0.",
    r"^(blocks\.\d+\.)ffn\.0\.": r"\1ffn.net.0.proj.",
    r"^(blocks\.\d+\.)ffn\.2\.": r"\1ffn.net.2.",
}
AUTOENCODER = {
    r"^conv1\.": "quant_conv.",
    r"^conv2\.": "post_quant_conv.",
    r"^(encoder|decoder)\.conv1\.": r"\1.conv_in.",
    r"^(encoder|decoder)\.head\.0\.": r"\1.norm_out.",
    r"^(encoder|decoder)\.head\.2\.": r"\1.conv_out.",
    r"^(encoder|decoder)\.middle\.0\.": r"\1.mid_block.resnets.0.",
    r"^(encoder|decoder)\.middle\.1\.": r"\1.mid_block.attentions.0.",
    r"^(encoder|decoder)\.middle\.2\.": r"\1.mid_block.resnets.1.",
    r"^encoder\.downsamples\.": "encoder.down_blocks.",
    r"\.residual\.0\.": ".norm1.",
    r"\.residual\.2\.": ".conv1.",
    r"\.residual\.3\.": ".norm2.",
    r"\.residual\.6\.": ".conv2.",
    r"\.shortcut\.": ".conv_shortcut.",
}


def transformer_name(name: str) -> str:
    """Returns the public name of a tensor, or of a layer with a dot at its end, of the transformer."""
    return substitute(name, TRANSFORMER)


def read_transformer_config(config: Mapping) -> dict:
    """Returns the config of diffusers for the authors' own config.json, whose class is WanModel.

    Raises:
      ValueError: if the model is not for text to video, or attends in windows.
    """
    expected = dict(model_type="t2v", window_size=[-1, -1], qk_norm=True)
    differ = {key: config[key] for key, value in expected.items() if config.get(key, value) != value}
    width, number = config.get("dim", 2048), config.get("num_heads", 16)
    if not (isinstance(width, int) and isinstance(number, int) and number > 0 and width % number == 0):
        differ |= dict(dim=width, num_heads=number)
    if differ:
        raise ValueError(
            f"a WanModel of text to video has {expected} and a dim that num_heads divides, this config says {differ}"
        )
    return dict(
        _class_name="WanTransformer3DModel",
        patch_size=list(config.get("patch_size", (1, 2, 2))),
        num_attention_heads=number,
        attention_head_dim=width // number,
        in_channels=config.get("in_dim", 16),
        out_channels=config.get("out_dim", 16),
        text_dim=config.get("text_dim", 4096),
        freq_dim=config.get("freq_dim", 256),
        ffn_dim=config.get("ffn_dim", 8192),
        num_layers=config.get("num_layers", 32),
        cross_attn_norm=config.get("cross_attn_norm", True),
        qk_norm="rms_norm_across_heads",
        eps=config.get("eps", 1e-6),
    )


def transformer_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of a transformer from the shapes of its tensors."""
    del metadata
    if any(re.search(r"(^|[._])(img|image|add_k)_", name) or ".k_img." in name for name in shapes):
        raise ValueError("this transformer of Wan takes an image (image to video), and only text to video is read")
    width, channels, *patch = shapes["patch_embedding.weight"]
    pixels = patch[0] * patch[1] * patch[2]
    return dict(
        _class_name="WanTransformer3DModel",
        patch_size=patch,
        num_attention_heads=split_width(width, HEAD, "this transformer of Wan"),
        attention_head_dim=HEAD,
        in_channels=channels,
        out_channels=shapes["proj_out.weight"][0] // pixels,
        text_dim=shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        freq_dim=shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        ffn_dim=shapes["blocks.0.ffn.net.2.weight"][1],
        num_layers=count(shapes, r"blocks\.(\d+)\."),
        cross_attn_norm="blocks.0.norm2.weight" in shapes,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
    )


def _rename_autoencoder(tensors: Mapping) -> Callable[[str], str]:
    """Returns the renaming of the autoencoder. A level of the decoder ends with an upsampling, except the last one."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(r"decoder\.upsamples\.(\d+)\.", name))}
    places, level, place = {}, 0, 0
    for number in sorted(numbers):
        if f"decoder.upsamples.{number}.resample.1.weight" in tensors:
            places[number], level, place = f"decoder.up_blocks.{level}.upsamplers.0.", level + 1, 0
        else:
            places[number], place = f"decoder.up_blocks.{level}.resnets.{place}.", place + 1

    def rename(name: str) -> str:
        name = re.sub(r"^decoder\.upsamples\.(\d+)\.", lambda match: places[int(match[1])], name)
        return substitute(name, AUTOENCODER)

    return rename


def autoencoder_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of an autoencoder from the shapes of its tensors."""
    del metadata
    base, levels, halves, blocks, width = shapes["encoder.conv_in.weight"][0], [], [], 0, None
    for number in range(count(shapes, r"encoder\.down_blocks\.(\d+)\.")):
        name = f"encoder.down_blocks.{number}."
        if f"{name}resample.1.weight" in shapes:
            levels.append(width // base)
            halves.append(f"{name}time_conv.weight" in shapes)
        else:
            width, blocks = shapes[f"{name}conv1.weight"][0], blocks + (not levels)
    return dict(
        _class_name="AutoencoderKLWan",
        base_dim=base,
        decoder_base_dim=shapes["decoder.conv_out.weight"][1],
        z_dim=shapes["post_quant_conv.weight"][0],
        dim_mult=[*levels, width // base],
        num_res_blocks=blocks,
        attn_scales=[],
        temperal_downsample=halves,
    )


ORIGINS = (
    Origin("wan_transformer", ("blocks.0.self_attn.q.weight",), transformer_config, lambda tensors: transformer_name),
    Origin("wan_transformer", ("condition_embedder.time_proj.weight",), transformer_config),
    Origin("wan_vae", ("decoder.upsamples.0.residual.0.gamma",), autoencoder_config, _rename_autoencoder),
)
