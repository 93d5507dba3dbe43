"""Compares the renaming of single files (`jvflow.pretrained.single`) with the converters of diffusers.

    pip install -e '.[dev]'
    python tests/slow/public_names.py

Makes small random models of diffusers, writes them under the names of their authors (`tests/author_names.py`), and
reads them by diffusers' converter and by jvflow: the names and the tensors must be equal. Takes a minute.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the tables

import author_names
import diffusers
import numpy as np
import torch
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from jvflow import pretrained
from jvflow.pretrained.single import ltx


def random_tensors(model) -> dict:
    return {name: torch.randn_like(a) for name, a in model.state_dict().items() if a.is_floating_point()}


def compare(what: str, old: dict, kind: str, converted: dict, metadata: dict | None = None) -> bool:
    """Returns whether jvflow reads the same tensors as a converter returned."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        save_file({name: a.contiguous().clone() for name, a in old.items()}, file, metadata)
        files = pretrained.open_folder(file, kind)[2]
        equal = files.keys() == converted.keys() and all(
            files.shapes[name] == tuple(a.shape) and np.array_equal(files[name], a.numpy())
            for name, a in converted.items()
        )
    print(f"{'equal ' if equal else 'DIFFER'} {what}, {len(converted)} tensors")
    if not equal:
        print(sorted(files.keys() ^ converted.keys())[:8])
    return equal


def check_ltx():
    model = diffusers.LTXVideoTransformer3DModel(**author_names.LTX)
    public = random_tensors(model)
    old = {f"model.diffusion_model.{author_names.backwards(n, author_names.LTX_NAMES)}": a for n, a in public.items()}
    metadata = dict(config=json.dumps(dict(transformer=author_names.LTX_METADATA)))
    converted = converters.convert_ltx_transformer_checkpoint_to_diffusers(dict(old))
    yield compare("the transformer of LTX-Video", old, "ltx_transformer", converted, metadata)
    for version, blocks in author_names.VAE_BLOCKS.items():
        config = author_names.VAE_METADATA | blocks | dict(latent_channels=3, encoder_base_channels=2)
        config |= dict(decoder_base_channels=2)
        model = diffusers.AutoencoderKLLTXVideo(
            **{k: v for k, v in ltx.read_autoencoder_config(config).items() if k[0] != "_"}
        )
        public = random_tensors(model)
        names = author_names.VAE_NAMES[version] + author_names.VAE_COMMON
        old = {f"vae.{author_names.backwards(name, names)}": a for name, a in public.items()}
        wide = {"vae.encoder.conv_out.conv.weight": torch.zeros(4, 2048, 1, 1, 1)}  # tells 0.9.5 to the converter
        converted = converters.convert_ltx_vae_checkpoint_to_diffusers(old | (wide if version == "0.9.5" else {}))
        converted["encoder.conv_out.conv.weight"] = public["encoder.conv_out.conv.weight"]
        metadata = dict(config=json.dumps(dict(vae=config)))
        yield converted.keys() == public.keys() and compare(
            f"the autoencoder of LTX-Video {version}", old, "ltx_vae", converted, metadata
        )


def check_wan():
    sizes = dict(num_attention_heads=1, attention_head_dim=128, num_layers=2, in_channels=16, out_channels=16)
    public = random_tensors(diffusers.WanTransformer3DModel(**sizes, text_dim=4, ffn_dim=6, cross_attn_norm=True))
    old = {author_names.backwards(name, author_names.WAN_NAMES): a for name, a in public.items()}
    converted = converters.convert_wan_transformer_to_diffusers(dict(old))
    yield converted.keys() == public.keys() and compare("the transformer of Wan", old, "wan_transformer", converted)
    public = random_tensors(diffusers.AutoencoderKLWan(base_dim=4, z_dim=3))

    def number(match):
        return f"decoder.upsamples.{int(match[1]) * 4 + (3 if match[2] == 'upsamplers' else int(match[3]))}"

    old = {}
    for name, a in public.items():
        name = re.sub(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)", number, name)
        name = author_names.backwards(name.replace("decoder.upsamples", "decoder.resnets"), author_names.VAE_OF_WAN)
        old[name.replace("decoder.resnets", "decoder.upsamples")] = a
    converted = converters.convert_wan_vae_to_diffusers(dict(old))
    yield converted.keys() == public.keys() and compare("the autoencoder of Wan", old, "wan_vae", converted)


def check_stable_diffusion():
    unet = dict(block_out_channels=[32, 32, 64, 64], cross_attention_dim=64, attention_head_dim=8)
    model = diffusers.UNet2DConditionModel(**unet)
    public = random_tensors(model)
    pairs = author_names.old_unet_names(4, 2, (True, True, True, False))
    old = {f"model.diffusion_model.{author_names.old_unet_name(name, pairs)}": a for name, a in public.items()}
    converted = converters.convert_ldm_unet_checkpoint(dict(old), dict(model.config))
    yield converted.keys() == public.keys() and compare("the U-Net of Stable Diffusion", old, "sd_unet", converted)
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
    model = diffusers.AutoencoderKL(block_out_channels=[32, 32, 64, 64], layers_per_block=2, **blocks)
    public = random_tensors(model)
    old = {}
    for name, a in public.items():
        attention = re.search(r"attentions\.0\.to_.*weight", name)
        old[f"first_stage_model.{author_names.old_vae_name(name, 4)}"] = a[:, :, None, None] if attention else a
    converted = converters.convert_ldm_vae_checkpoint(dict(old), dict(model.config))
    yield converted.keys() == public.keys() and compare("the autoencoder of it", old, "sd_vae", converted)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=1)
    )
    public = random_tensors(text)
    public = {name if name.startswith("text_model.") else f"text_model.{name}": a for name, a in public.items()}
    old = {f"cond_stage_model.transformer.{name}": a for name, a in public.items()}
    converted = converters.convert_ldm_clip_checkpoint(dict(old))
    converted = {n if n.startswith("text_model.") else f"text_model.{n}": a for n, a in converted.items()}
    yield compare("the text encoder of it", old, "clip_text", converted)


if __name__ == "__main__":
    outcomes = [*check_ltx(), *check_wan(), *check_stable_diffusion()]
    print(f"{sum(outcomes)} of {len(outcomes)} equal")
    sys.exit(not all(outcomes))
