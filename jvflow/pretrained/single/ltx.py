"""LTX-Video as its authors name it: transformer and autoencoder in one file, with their configs in its metadata.

The autoencoder's config lists its blocks, and the tensors have the numbers of that list:

    res_x           residual blocks: the begin of a level of the encoder, the end of a level of the decoder
    res_x_y         one residual block that divides or multiplies the channels
    compress_...    downsampling in the encoder, upsampling in the decoder

The last entry is the middle, which encoder and decoder share. The decoder takes its list from last to first.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jvflow.pretrained.files import Files
from jvflow.pretrained.single.origin import Origin, Shapes, count, split_width, substitute

HEADS = 32
"""Attention heads of every released transformer."""
TRANSFORMER = {r"^patchify_proj\.": "proj_in.", r"^adaln_single\.": "time_embed.", r"\.([qk])_norm\.": r".norm_\1."}
TRANSFORMER_EXPECTED = dict(
    qk_norm="rms_norm",
    standardization_norm="rms_norm",
    positional_embedding_type="rope",
    positional_embedding_theta=10000.0,
    positional_embedding_max_pos=[20, 2048, 2048],
    timestep_scale_multiplier=1000,
    adaptive_norm="single_scale_shift",
    double_self_attention=False,
    only_cross_attention=False,
    attention_type="default",
)
TRANSFORMER_DEFAULTS = dict(
    qk_norm=None,
    standardization_norm="layer_norm",
    positional_embedding_theta=None,
    positional_embedding_max_pos=None,
    timestep_scale_multiplier=None,
)
"""The values of these keys where the config has none."""
COPIED = dict(
    activation_fn="geglu",
    attention_bias=False,
    attention_head_dim=88,
    caption_channels=None,
    cross_attention_dim=None,
    in_channels=None,
    norm_eps=1e-5,
    norm_elementwise_affine=True,
    num_attention_heads=16,
    num_layers=1,
    out_channels=None,
)
"""Keys of the transformer's config with the same meaning in diffusers, and their values where the config has none."""
AUTOENCODER = {
    r"\.res_blocks\.": ".resnets.",
    r"\.conv_shortcut\.": ".conv_shortcut.conv.",
    r"\.norm3\.norm\.": ".norm3.",
    r"\.last_time_embedder\.": ".time_embedder.",
    r"\.last_scale_shift_table$": ".scale_shift_table",
    r"^per_channel_statistics\.mean-of-means$": "latents_mean",
    r"^per_channel_statistics\.std-of-means$": "latents_std",
}
AUTOENCODER_EXPECTED = dict(
    dims=3, norm_layer="pixel_norm", latent_log_var="uniform", use_quant_conv=False, spatial_padding_mode="zeros"
)
AUTOENCODER_DEFAULTS = dict(
    dims=None, norm_layer="group_norm", latent_log_var="per_channel", use_quant_conv=True, spatial_padding_mode="zeros"
)
"""The values of these keys where the config has none."""
DOWNSAMPLINGS = dict(
    compress_all="conv", compress_space_res="spatial", compress_time_res="temporal", compress_all_res="spatiotemporal"
)


def _metadata(metadata: Mapping[str, str], part: str) -> dict | None:
    """Returns the config of a part of the model in the metadata of the file, or None."""
    if "config" not in metadata:
        return None
    try:
        found = json.loads(metadata["config"])[part]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the metadata of the file hold no valid config of the {part} ({error!r})") from error
    if not isinstance(found, dict):
        raise ValueError(f"the metadata of the file hold no config of the {part}, but {found!r:.100}")
    return found


# --- transformer ----------------------------------------------------------------------------------


def transformer_name(name: str) -> str:
    """Returns the public name of a tensor, or of a layer with a dot at its end, of the transformer."""
    return substitute(name, TRANSFORMER)


def transformer_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of a transformer from the metadata, or else from the shapes of its tensors."""
    found = _metadata(metadata, "transformer")
    return _sizes_of(shapes) if found is None else read_transformer_config(found)


def read_transformer_config(config: Mapping) -> dict:
    """Returns the config of diffusers for the authors' own config; raises ValueError for another transformer."""
    given = TRANSFORMER_EXPECTED | TRANSFORMER_DEFAULTS | dict(config)
    differ = {key: given[key] for key, value in TRANSFORMER_EXPECTED.items() if given[key] != value}
    if differ:
        raise ValueError(f"a transformer of LTX-Video has {TRANSFORMER_EXPECTED}, this config says {differ}")
    kept = {key: config.get(key, value) for key, value in COPIED.items()}
    return dict(_class_name="LTXVideoTransformer3DModel", qk_norm="rms_norm_across_heads", **kept)


def _sizes_of(shapes: Shapes) -> dict:
    width, channels = shapes["proj_in.weight"]
    return dict(
        _class_name="LTXVideoTransformer3DModel",
        num_attention_heads=HEADS,
        attention_head_dim=split_width(width, HEADS, "this transformer of LTX-Video"),
        cross_attention_dim=width,
        in_channels=channels,
        out_channels=shapes["proj_out.weight"][0],
        caption_channels=shapes["caption_projection.linear_1.weight"][1],
        num_layers=count(shapes, r"transformer_blocks\.(\d+)\."),
    )


# --- autoencoder ----------------------------------------------------------------------------------


class Block(NamedTuple):
    """An entry in the list of blocks."""

    name: str
    layers: int
    multiplier: int | None
    residual: bool
    noise: bool


def read_blocks(config: Mapping, half: str) -> list[Block]:
    """Returns the blocks of `half`, "encoder" or "decoder", in the order of the config."""
    blocks = []
    for entry in config.get(f"{half}_blocks") or config.get("blocks") or ():
        name, options = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        options = dict(num_layers=options) if isinstance(options, int) else options
        known = name in ("res_x", "res_x_y", *DOWNSAMPLINGS) and isinstance(options, dict)
        known = known and not (half == "decoder" and name.endswith("_res")) and (blocks or name == "res_x")
        sizes = [options.get(key, 1) for key in ("num_layers", "multiplier")] if known else []
        if not known or not all(isinstance(n, int) and 1 <= n <= 1024 for n in sizes):
            raise ValueError(
                f"the {half} of this autoencoder of LTX-Video has a block {entry!r:.80}, which is not known"
            )
        blocks.append(
            Block(
                name,
                options.get("num_layers", 1),
                options.get("multiplier"),
                bool(options.get("residual", False)),
                bool(options.get("inject_noise", False)),
            )
        )
    return blocks


def read_autoencoder_config(config: Mapping) -> dict:
    """Returns the config of diffusers for the authors' own config; raises ValueError for another autoencoder."""
    given = AUTOENCODER_DEFAULTS | dict(config)
    differ = {key: given[key] for key, value in AUTOENCODER_EXPECTED.items() if given[key] != value}
    widths = [config.get(f"{half}_base_channels", 128) for half in ("encoder", "decoder")]
    if not all(isinstance(width, int) for width in widths):
        differ["base_channels"] = widths
    if differ:
        raise ValueError(f"an autoencoder of LTX-Video has {AUTOENCODER_EXPECTED}, this config says {differ}")
    return dict(
        _class_name="AutoencoderKLLTXVideo",
        in_channels=config.get("in_channels", 3),
        out_channels=config.get("out_channels", 3),
        latent_channels=config.get("latent_channels"),
        patch_size=config.get("patch_size", 1),
        patch_size_t=1,
        resnet_norm_eps=1e-6,
        scaling_factor=config.get("scaling_factor", 1.0),
        encoder_causal=True,
        decoder_causal=config.get("causal_decoder", False),
        timestep_conditioning=config.get("timestep_conditioning", False),
        **_encoder_config(read_blocks(config, "encoder"), widths[0]),
        **_decoder_config(read_blocks(config, "decoder"), widths[1]),
    )


def _encoder_config(blocks: list[Block], width: int) -> dict:
    channels, layers, kinds = [], [], []
    for block in blocks:
        if block.name == "res_x":
            channels.append(width)
            layers.append(block.layers)
            kinds.append("")
        elif block.name == "res_x_y" or block.name.endswith("_res"):
            width *= 2 if block.multiplier is None else block.multiplier
        if block.name in DOWNSAMPLINGS:
            kinds[-1] = DOWNSAMPLINGS[block.name]
    folds = "conv" not in kinds
    return dict(
        block_out_channels=channels if folds else channels[:-1],
        layers_per_block=layers,
        spatio_temporal_scaling=[bool(kind) for kind in kinds[:-1]],
        downsample_type=[kind or "conv" for kind in kinds[:-1]],
        down_block_types=[f"LTXVideo{'095' if folds else ''}DownBlock3D"] * (len(layers) - 1),
    )


def _decoder_config(blocks: list[Block], width: int) -> dict:
    for block in blocks:
        default = 2 if block.name == "res_x_y" else 1
        width *= 1 if block.name == "res_x" else block.multiplier or default
    levels, up = [], None
    for block in blocks[::-1]:
        if block.name == "res_x":
            levels.append((block, width, up))
            up = None
        elif block.name == "res_x_y":
            width //= block.multiplier or 2
        else:
            up, width = block, width // (block.multiplier or 1)
    levels = levels[::-1]  # diffusers lists them from last to first, and the middle at the end
    factors = [(up.multiplier or 1) if up else 1 for _, _, up in levels[:-1]]
    return dict(
        decoder_block_out_channels=[width * factor for (_, width, _), factor in zip(levels, factors)],
        decoder_layers_per_block=[block.layers for block, _, _ in levels],
        decoder_spatio_temporal_scaling=[up is not None for _, _, up in levels[:-1]],
        decoder_inject_noise=[block.noise for block, _, _ in levels],
        upsample_residual=[bool(up and up.residual) for _, _, up in levels[:-1]],
        upsample_factor=factors,
    )


def autoencoder_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of an autoencoder from the metadata; its blocks do not follow from its tensors."""
    del shapes
    return read_autoencoder_config(_autoencoder_metadata(metadata))


def _autoencoder_metadata(metadata: Mapping[str, str]) -> dict:
    found = _metadata(metadata, "vae")
    if found is None:
        raise ValueError(
            "the file has no config of its autoencoder in its metadata, and its blocks do not follow from the tensors: "
            "use the file that the authors released, or the folder vae of the model"
        )
    return found


def _rename_autoencoder(tensors: Files) -> Callable[[str], str | None]:
    """Returns the renaming of the autoencoder, which follows from its lists of blocks."""
    config = _autoencoder_metadata(tensors.metadata)
    places = {"encoder": [], "decoder": []}
    level, encoder = -1, read_blocks(config, "encoder")
    for i, block in enumerate(encoder):
        level += block.name == "res_x"
        inside = "" if block.name == "res_x" else "conv_out." if block.name == "res_x_y" else "downsamplers.0."
        last = i == len(encoder) - 1
        places["encoder"].append("encoder.mid_block." if last else f"encoder.down_blocks.{level}.{inside}")
    level = -1
    for block in read_blocks(config, "decoder")[::-1]:
        inside = "" if block.name == "res_x" else "conv_in." if block.name == "res_x_y" else "upsamplers.0."
        places["decoder"].append("decoder.mid_block." if level < 0 else f"decoder.up_blocks.{level}.{inside}")
        level += block.name == "res_x"

    def rename(name: str) -> str | None:
        match = re.match(r"(encoder)\.down_blocks\.(\d+)\.|(decoder)\.up_blocks\.(\d+)\.", name)
        if match:
            half, number = (part for part in match.groups() if part is not None)
            if int(number) < len(places[half]):
                name = places[half][int(number)] + name[match.end() :]
        public = substitute(name, AUTOENCODER)
        return None if public.startswith("per_channel_statistics.") else public  # other statistics

    return rename


ORIGINS = (
    Origin("ltx_transformer", ("patchify_proj.weight",), transformer_config, lambda tensors: transformer_name),
    Origin("ltx_transformer", ("proj_in.weight", "caption_projection.linear_1.weight"), transformer_config),
    Origin("ltx_vae", ("per_channel_statistics.mean-of-means",), autoencoder_config, _rename_autoencoder),
)
