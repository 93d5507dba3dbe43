"""The encoders of T5 v1.1 and UMT5 under their public names, those of the transformers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks.t5 import T5, T5Config
from jvflow.pretrained.base import Kind, Model, mirrored, shapes_of, unlike

TIED = "encoder.embed_tokens.weight"
"""The embedding once more."""


def model(config: Mapping, generation: str) -> Model:
    """The network and layout of a config of the transformers package."""
    del generation
    other = unlike(config, dict(feed_forward_proj="gated-gelu", dense_act_fn="gelu_new", is_gated_act=True, tie_word_embeddings=True))
    other |= {"model_type": config["model_type"]} if config.get("model_type", "t5") not in ("t5", "umt5") else {}
    if other:
        raise ValueError(f"an encoder of T5 v1.1 or UMT5 has MLPs with gates of gelu_new and one embedding, this config says {other}")
    sizes = T5Config(
        vocabulary=config["vocab_size"], width=config["d_model"], depth=config["num_layers"], heads=config["num_heads"], head=config["d_kv"],
        hidden=config["d_ff"], buckets=config.get("relative_attention_num_buckets", 32), distance=config.get("relative_attention_max_distance", 128),
        own_bias=config.get("model_type") == "umt5", epsilon=config.get("layer_norm_epsilon", 1e-6),
    )
    network = networks.functional(T5, sizes)
    shapes = shapes_of(network)
    return Model(network, shapes, mirrored(shapes), frozenset({TIED}), partial(_public, network))


def _public(network: networks.Network, params, input_ids, attention_mask=None):
    """Tokens (b, n) -> (b, n, width) after the last norm."""
    return network.apply(params, jnp.asarray(input_ids), attention_mask)


KIND = Kind(model, lambda names: "transformers", ("transformers",), "model.safetensors")
