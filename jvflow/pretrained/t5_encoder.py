"""The encoders of T5 v1.1 and UMT5 under the names of the transformers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks.t5 import T5, T5Config
from jvflow.pretrained.layout import Kind, Model, find_differences, mirror, network_shapes

EXPECTED = dict(feed_forward_proj="gated-gelu", dense_act_fn="gelu_new", is_gated_act=True, tie_word_embeddings=True)
TIED = "encoder.embed_tokens.weight"
"""A copy of the embedding, which is ignored."""


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the transformers package."""
    del naming
    unsupported = find_differences(config, EXPECTED)
    unsupported |= {"model_type": config["model_type"]} if config.get("model_type", "t5") not in ("t5", "umt5") else {}
    if unsupported:
        raise ValueError(
            f"an encoder of T5 v1.1 or UMT5 has MLPs gated by gelu_new and one embedding, "
            f"this config says {unsupported}"
        )
    sizes = T5Config(
        vocabulary=config["vocab_size"],
        width=config["d_model"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        head=config["d_kv"],
        hidden=config["d_ff"],
        buckets=config.get("relative_attention_num_buckets", 32),
        distance=config.get("relative_attention_max_distance", 128),
        own_bias=config.get("model_type") == "umt5",
        epsilon=config.get("layer_norm_epsilon", 1e-6),
    )
    network = networks.functional(T5, sizes)
    shapes = network_shapes(network)
    return Model(network, shapes, mirror(shapes), frozenset({TIED}), partial(_apply, network))


def _apply(network: networks.Network, params, input_ids, attention_mask=None):
    """Maps tokens (b, n) to embeddings (b, n, width)."""
    mask = None if attention_mask is None else jnp.asarray(attention_mask, bool)
    return network.apply(params, jnp.asarray(input_ids), mask)


KIND = Kind(model, lambda names: "transformers", ("transformers",), "model.safetensors")
