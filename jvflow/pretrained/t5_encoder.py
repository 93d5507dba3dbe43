"""The encoders of T5, T5 v1.1 and UMT5 under the names of the transformers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks.public_layers import ACTIVATIONS
from jvflow.networks.t5 import T5, T5Config
from jvflow.pretrained.layout import Kind, Model, mirror, network_shapes
from jvflow.pretrained.public_config import (
    FALSE,
    FLAG,
    LAYERS,
    POSITIVE,
    SIZE,
    Key,
    one_of,
    read_config,
    whole,
)

KEYS = dict(
    vocab_size=Key(32128, SIZE),
    d_model=Key(512, SIZE),
    d_kv=Key(64, SIZE),
    d_ff=Key(2048, SIZE),
    num_layers=Key(6, LAYERS),
    num_decoder_layers=Key(None),
    num_heads=Key(8, SIZE),
    relative_attention_num_buckets=Key(32, whole(4, even=True)),
    relative_attention_max_distance=Key(128, SIZE),
    dropout_rate=Key(0.1),
    layer_norm_epsilon=Key(1e-6, POSITIVE),
    initializer_factor=Key(1.0),
    feed_forward_proj=Key("relu", one_of(*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS))),
    is_encoder_decoder=Key(True),
    use_cache=Key(True),
    pad_token_id=Key(0),
    eos_token_id=Key(1),
    classifier_dropout=Key(0.0),
    is_decoder=Key(False, FALSE),
    # the library derives these two from feed_forward_proj, unless the file has them
    dense_act_fn=Key(None, one_of(None, *ACTIVATIONS)),
    is_gated_act=Key(None, FLAG),
)
"""The keys of transformers' T5Config, and two that its files have. An encoder has one embedding in any case, whatever
`tie_word_embeddings` says."""
UMT5_KEYS = KEYS | dict(
    vocab_size=Key(250112, SIZE),
    d_ff=Key(1024, SIZE),
    num_layers=Key(8, LAYERS),
    num_heads=Key(6, SIZE),
    feed_forward_proj=Key("gated-gelu", KEYS["feed_forward_proj"].allowed),
    decoder_start_token_id=Key(0),
)
"""The keys of transformers' UMT5Config."""
EMBEDDING, COPY = "shared.weight", "encoder.embed_tokens.weight"
"""The embedding, and the name of its copy, which some files hold instead."""
OTHER_PARTS = (COPY.replace(".", r"\."), r"decoder\..*", r"lm_head\..*", r"spiece_model")
"""Tensors that are not read: the copy, the decoder, and a tokenizer that ComfyUI stores as a tensor."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "copy" if COPY in names and EMBEDDING not in names else "transformers"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the transformers package."""
    kind = config.get("model_type") or ("umt5" if _class_name(config).startswith("UMT5") else "t5")
    if kind not in ("t5", "umt5"):
        raise ValueError(f"an encoder of T5 of this config cannot be read: model_type is {kind!r}, allowed: t5 or umt5")
    values = read_config(config, UMT5_KEYS if kind == "umt5" else KEYS, "an encoder of T5", _rules)
    gated, activation = _mlp(values)
    sizes = T5Config(
        vocabulary=values["vocab_size"],
        width=values["d_model"],
        depth=values["num_layers"],
        heads=values["num_heads"],
        head=values["d_kv"],
        hidden=values["d_ff"],
        buckets=values["relative_attention_num_buckets"],
        distance=values["relative_attention_max_distance"],
        own_bias=kind == "umt5",
        gated=gated,
        activation=activation,
        epsilon=values["layer_norm_epsilon"],
    )
    network = networks.functional(T5, sizes)
    shapes = network_shapes(network)
    layout = mirror(shapes, lambda name: COPY if naming == "copy" and name == EMBEDDING else name)
    copies = {} if naming == "copy" else {COPY: EMBEDDING}
    return Model(network, shapes, layout, OTHER_PARTS, partial(_apply, network), settings=values, copies=copies)


def _rules(values: dict) -> dict[str, str]:
    single = values["relative_attention_num_buckets"] // 4
    fits = values["relative_attention_max_distance"] > single
    return {} if fits else dict(relative_attention_max_distance=f"a whole number above {single}")


def _class_name(config: Mapping) -> str:
    return str(config.get("_class_name") or next(iter(config.get("architectures") or ()), ""))


def _mlp(values: Mapping) -> tuple[bool, str]:
    """Returns whether the MLPs are gated, and their activation; "gated-gelu" means the gelu by tanh."""
    gated, _, name = values["feed_forward_proj"].rpartition("-")
    name = "gelu_new" if values["feed_forward_proj"] == "gated-gelu" else name
    stated = values["is_gated_act"]
    return bool(gated if stated is None else stated), values["dense_act_fn"] or name


def _apply(network: networks.Network, params, input_ids, attention_mask=None):
    """Maps tokens (b, n) to embeddings (b, n, width)."""
    mask = None if attention_mask is None else jnp.asarray(attention_mask, bool)
    return network.apply(params, jnp.asarray(input_ids), mask)


KIND = Kind(model, find_naming, ("transformers", "copy"), "model.safetensors")
