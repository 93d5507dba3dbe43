"""All known kinds of public models. Each kind has a file of this package."""

from jvflow.pretrained import (
    clip_text,
    dit,
    ltx_transformer,
    ltx_vae,
    sd_unet,
    sd_vae,
    t5_encoder,
    taesd,
    unet2d,
    wan_transformer,
    wan_vae,
)
from jvflow.pretrained.layout import Kind

KINDS = {
    "clip_text": clip_text.KIND,
    "dit": dit.KIND,
    "ltx_transformer": ltx_transformer.KIND,
    "ltx_vae": ltx_vae.KIND,
    "sd_unet": sd_unet.KIND,
    "sd_vae": sd_vae.KIND,
    "t5_encoder": t5_encoder.KIND,
    "taesd": taesd.KIND,
    "unet2d": unet2d.KIND,
    "wan_transformer": wan_transformer.KIND,
    "wan_vae": wan_vae.KIND,
}
CLASSES = {
    "DiTTransformer2DModel": "dit",
    "AutoencoderKL": "sd_vae",
    "AutoencoderTiny": "taesd",
    "UNet2DModel": "unet2d",
    "LTXVideoTransformer3DModel": "ltx_transformer",
    "AutoencoderKLLTXVideo": "ltx_vae",
    "WanTransformer3DModel": "wan_transformer",
    "AutoencoderKLWan": "wan_vae",
    "UNet2DConditionModel": "sd_unet",
    "CLIPTextModel": "clip_text",
    "T5EncoderModel": "t5_encoder",
    "UMT5EncoderModel": "t5_encoder",
}
"""Kinds by the class in a config.json: `_class_name` in diffusers, `architectures` in transformers."""


def find_kind(name: str) -> Kind:
    """Returns the kind with this name; raises ValueError for an unknown name."""
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}: use one of {', '.join(KINDS)}")
    return KINDS[name]
