"""CLIP's text encoder under its public names.

The public files use the naming "hub", with text_model. before each name; transformers models in memory use "current".
"""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks.clip_text import ClipText, ClipTextConfig
from jvflow.pretrained.layout import Kind, Model, mirror, network_shapes

PREFIX = "text_model."
LAST = 2
"""Old configs have this `eos_token_id`; it means the largest token."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "hub" if any(name.startswith(PREFIX) for name in names) else "current"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a transformers config: the text model's own, or one that has it under `text_config`."""
    config = config.get("text_config", config)
    sizes = ClipTextConfig(
        vocabulary=config["vocab_size"],
        length=config["max_position_embeddings"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        activation=config.get("hidden_act", "quick_gelu"),
        epsilon=config.get("layer_norm_eps", 1e-5),
    )
    network, prefix = networks.functional(ClipText, sizes), PREFIX if naming == "hub" else ""
    shapes = network_shapes(network)
    apply = partial(_apply, network, config.get("eos_token_id", 49407))
    layout, ignored = mirror(shapes, lambda name: prefix + name), frozenset({f"{prefix}embeddings.position_ids"})
    return Model(network, shapes, layout, ignored, apply)


def _apply(network: networks.Network, end_token: int, params, input_ids, attention_mask=None):
    """Maps tokens (b, n) to embeddings (b, n, width), and to the embedding of each text's end token (b, width)."""
    tokens = jnp.asarray(input_ids)
    x = network.apply(params, tokens, attention_mask)
    end = jnp.argmax(tokens if end_token == LAST else tokens == end_token, axis=1)
    return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


KIND = Kind(model, find_naming, ("hub", "current"), "model.safetensors")
