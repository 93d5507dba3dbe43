"""Models in single files: finds them by the names of tensors, renames the tensors, and gives the config.

A file may hold several models, each under a prefix of its own: LTX-Video (transformer and autoencoder), Stable
Diffusion (U-Net, autoencoder, text encoder), BI-FLOW (two U-Nets), a training checkpoint (generator, critic).
FILE/PREFIX names one of them.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jvflow.pretrained.files import Files
from jvflow.pretrained.single import images, ltx, stable_diffusion, text_encoders, wan
from jvflow.pretrained.single.origin import Origin

ORIGINS = (*ltx.ORIGINS, *wan.ORIGINS, *stable_diffusion.ORIGINS, *text_encoders.ORIGINS, *images.ORIGINS)
CONFIGS = {
    "WanModel": ("wan_transformer", wan.read_transformer_config),
    "Transformer3DModel": ("ltx_transformer", ltx.read_transformer_config),
    "CausalVideoAutoencoder": ("ltx_vae", ltx.read_autoencoder_config),
}
"""The kind, and the function that translates a config.json of the authors, by its class."""
SIGNS = {
    "WanModel": {"dim", "ffn_dim", "freq_dim", "text_len", "num_heads", "num_layers"},
    "Transformer3DModel": {"timestep_scale_multiplier", "positional_embedding_max_pos", "caption_channels"},
    "CausalVideoAutoencoder": {"latent_channels", "latent_log_var", "norm_layer", "patch_size"},
}
"""Keys by which a config.json of the authors is known that lacks its class."""
WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that PyTorch's tools for compiling and sharding add."""


class Part(NamedTuple):
    """A model inside a file: how it is held there, and the prefix of its tensors."""

    origin: Origin
    prefix: str


def find_parts(tensors: Mapping, kind: str | None = None) -> list[Part]:
    """Returns the models in a file, of one kind if it is given."""
    parts = []
    for origin in ORIGINS:
        if kind not in (None, origin.kind):
            continue
        sign, *others = origin.signs
        ends = [name.removesuffix(sign) for name in tensors if name.endswith(sign)]
        parts += [
            Part(origin, prefix)
            for prefix in ends
            if (not prefix or prefix.endswith(".")) and all(f"{prefix}{other}" in tensors for other in others)
        ]
    return parts


def without_wrappers(tensors: Files) -> Files:
    """Returns the tensors without the parts of names that PyTorch's tools add."""
    return tensors.renamed(lambda name: WRAPPERS.sub("", name)) if any(map(WRAPPERS.search, tensors)) else tensors


def below(tensors: Files, prefix: str) -> Files:
    """Returns the tensors whose names begin with a prefix, without it."""
    return tensors.renamed(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)


def read_part(tensors: Files, part: Part) -> Files:
    """Returns the tensors of a model under their public names."""
    inside = below(tensors, part.prefix) if part.prefix else tensors
    if part.origin.rename is None:
        return inside
    return inside.renamed(part.origin.rename(inside), part.origin.reshape)


def config_of(tensors: Files, part: Part) -> dict:
    """Returns the config of a model, from the metadata of the file or from the shapes of its tensors."""
    try:
        return part.origin.config(tensors.shapes, tensors.metadata)
    except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"the {part.origin.kind} in it is not complete: its tensors lack {error}") from error
