"""The text half of CLIP under its public names.

    current    those of the transformers package in memory
    hub        those of the files, under text_model.
"""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks.clip_text import ClipText, ClipTextConfig
from jvflow.pretrained.base import Kind, Model, mirrored, shapes_of

PREFIX = "text_model."
LAST = 2
"""An `eos_token_id` of old configs that stands for the largest token there is."""


def generation(names) -> str:
    """Whose names these are."""
    return "hub" if any(name.startswith(PREFIX) for name in names) else "current"


def model(config: Mapping, generation: str) -> Model:
    """The network and layout of a config of the transformers package, of the text model or with it under `text_config`."""
    config = config.get("text_config", config)
    sizes = ClipTextConfig(
        vocabulary=config["vocab_size"], length=config["max_position_embeddings"], width=config["hidden_size"], depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"], hidden=config["intermediate_size"], activation=config.get("hidden_act", "quick_gelu"),
        epsilon=config.get("layer_norm_eps", 1e-5),
    )
    network, prefix = networks.functional(ClipText, sizes), PREFIX if generation == "hub" else ""
    shapes = shapes_of(network)
    apply = partial(_public, network, config.get("eos_token_id", 49407))
    return Model(network, shapes, mirrored(shapes, lambda name: prefix + name), frozenset({f"{prefix}embeddings.position_ids"}), apply)


def _public(network: networks.Network, last: int, params, input_ids, attention_mask=None):
    """Tokens (b, n) -> all of them after the last norm (b, n, width), and the one at the end of each text (b, width)."""
    tokens = jnp.asarray(input_ids)
    x = network.apply(params, tokens, attention_mask)
    end = jnp.argmax(tokens if last == LAST else tokens == last, axis=1)
    return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


KIND = Kind(model, generation, ("hub", "current"), "model.safetensors")
