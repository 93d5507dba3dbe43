"""All known kinds of public models. Each kind has a file of this package."""

from collections.abc import Mapping
from typing import Any

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
ALIASES = {
    "Transformer2DModel": "dit",
    "CLIPModel": "clip_text",
    "CLIPTextModelWithProjection": "clip_text",
    "T5Model": "t5_encoder",
    "T5ForConditionalGeneration": "t5_encoder",
    "T5WithLMHeadModel": "t5_encoder",
    "UMT5Model": "t5_encoder",
    "UMT5ForConditionalGeneration": "t5_encoder",
}
"""Kinds by other classes that hold the same model, some with parts that are not read."""
KNOWN = CLASSES | ALIASES
"""All classes whose models are read."""
MODEL_TYPES = {"clip": "clip_text", "clip_text_model": "clip_text", "t5": "t5_encoder", "umt5": "t5_encoder"}
"""Kinds by the `model_type` of transformers, for files without a class."""


def find_kind(name: str) -> Kind:
    """Returns the kind with this name; raises ValueError for an unknown name."""
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}: use one of {', '.join(KINDS)}")
    return KINDS[name]


def kind_of(config: Any, source: Any) -> str:
    """Returns the name of the kind that a config.json describes.

    Args:
      config: the content of the file.
      source: the file, for messages.

    Raises:
      ValueError: if the file holds no object, or its class is not known.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{source} holds no object with keys, but a {type(config).__name__}: it is no model's config")
    classes = config.get("architectures")
    name = config.get("_class_name") or (classes[0] if isinstance(classes, list) and classes else None)
    if name is None and config.get("model_type") in MODEL_TYPES:
        return MODEL_TYPES[config["model_type"]]
    if not isinstance(name, str) or name not in KNOWN:
        raise ValueError(f"{source} describes {name}: use one of {', '.join(KNOWN)}")
    return KNOWN[name]
