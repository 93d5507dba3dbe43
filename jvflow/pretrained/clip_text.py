"""CLIP's text encoder under its public names.

The public files use the naming "hub", with text_model. before each name; transformers models in memory use "current".
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks.clip_text import ClipText, ClipTextConfig
from jvflow.networks.public_layers import ACTIVATIONS
from jvflow.pretrained.layout import Kind, Model, mirror, network_shapes
from jvflow.pretrained.public_config import (
    LAYERS,
    POSITIVE,
    SIZE,
    Key,
    check_not_quantised,
    one_of,
    read_config,
)

PREFIX = "text_model."
LAST = 2
"""Old configs have this `eos_token_id`; it means the largest token."""
KEYS = dict(
    vocab_size=Key(49408, SIZE),
    hidden_size=Key(512, SIZE),
    intermediate_size=Key(2048, SIZE),
    projection_dim=Key(512),
    num_hidden_layers=Key(12, LAYERS),
    num_attention_heads=Key(8, SIZE),
    max_position_embeddings=Key(77, SIZE),
    hidden_act=Key("quick_gelu", one_of(*ACTIVATIONS)),
    layer_norm_eps=Key(1e-5, POSITIVE),
    attention_dropout=Key(0.0),
    initializer_range=Key(0.02),
    initializer_factor=Key(1.0),
    pad_token_id=Key(1),
    bos_token_id=Key(49406),
    eos_token_id=Key(49407),
)
"""The keys of transformers' CLIPTextConfig."""
OTHER_PARTS = (r"(.*\.)?embeddings\.position_ids", r"vision_model\..*", r"(visual|text)_projection\..*", r"logit_scale")
"""Tensors that are not read: positions, which are not learned, and the other parts of a whole CLIP."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "hub" if any(name.startswith(PREFIX) for name in names) else "current"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a transformers config: the text model's own, or the config of a whole CLIP."""
    values = read_config(_text_config(config), KEYS, "a text encoder of CLIP", _rules)
    sizes = ClipTextConfig(
        vocabulary=values["vocab_size"],
        length=values["max_position_embeddings"],
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        hidden=values["intermediate_size"],
        activation=values["hidden_act"],
        epsilon=values["layer_norm_eps"],
    )
    network, prefix = networks.functional(ClipText, sizes), PREFIX if naming == "hub" else ""
    shapes = network_shapes(network)
    apply = partial(_apply, network, values["eos_token_id"])
    layout = mirror(shapes, lambda name: prefix + name)
    return Model(network, shapes, layout, OTHER_PARTS, apply, settings=values)


def _text_config(config: Mapping) -> Any:
    """Returns the config of the text model; `text_config_dict`, which older files also hold, replaces the other one."""
    check_not_quantised(config, "a text encoder of CLIP")
    if "text_config_dict" in config or "text_config" in config:
        return config.get("text_config_dict") or config.get("text_config") or {}
    return config


def _rules(values: dict) -> dict[str, str]:
    heads = values["num_attention_heads"]
    return dict(hidden_size=f"a multiple of num_attention_heads {heads}") if values["hidden_size"] % heads else {}


def _apply(network: networks.Network, end_token: Any, params, input_ids, attention_mask=None):
    """Maps tokens (b, n) to embeddings (b, n, width), and to the embedding of each text's end token (b, width)."""
    tokens = jnp.asarray(input_ids)
    x = network.apply(params, tokens, attention_mask)
    largest = end_token == LAST or not isinstance(end_token, int)
    end = jnp.argmax(tokens if largest else tokens == end_token, axis=1)
    return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


KIND = Kind(model, find_naming, ("hub", "current"), "model.safetensors")
