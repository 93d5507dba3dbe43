"""The encoders of T5 and UMT5 give what transformers gives."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_models import FIXTURES, assert_same, read

from jvflow import networks, weights
from jvflow.networks.t5 import T5, buckets


def embedded(network, io):
    return np.asarray(jax.jit(network.apply)(network.params, io["input_ids"], io.get("attention_mask")))


@pytest.mark.parametrize("name", ["t5_shared", "t5_masked", "umt5_own"])
def test_the_encoder_gives_what_transformers_gives(name):
    """One bias for all layers and one for each, tokens nearer and farther than the last bucket, with and without a mask."""
    config, tensors, io = read(FIXTURES / f"{name}.safetensors")
    network = weights.import_checkpoint("t5_encoder", config, tensors)
    assert_same(embedded(network, io), io["last_hidden_state"])
    tensors.pop("encoder.embed_tokens.weight")  # files of the hubs may have the embedding once
    assert_same(embedded(weights.import_checkpoint("t5_encoder", config, tensors), io), io["last_hidden_state"])


def test_bfloat16_keeps_what_is_added_up_in_float32():
    config, tensors, io = read(FIXTURES / "t5_shared.safetensors")
    network = weights.import_checkpoint("t5_encoder", config, tensors)
    half = networks.functional(T5, network.config.__class__(**dict(vars(network.config), dtype="bfloat16"))).apply
    made = jax.jit(half)(network.params, io["input_ids"], None)
    assert made.dtype == jnp.float32
    error = np.abs(np.asarray(made) - io["last_hidden_state"]).max() / np.abs(io["last_hidden_state"]).max()
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize("name", ["t5_v1_1_xxl_encoder", "umt5_xxl_encoder"])
def test_full_size_encoders_have_the_public_tensors(shared, name):
    """The embedding is listed twice there and counted once."""
    manifest = json.loads((shared / "golden" / "manifests" / f"{name}.json").read_text())
    model = weights.KINDS["t5_encoder"].model(manifest["config"], "transformers")
    names = {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    weights.check("t5_encoder", model, names)
    assert len(model.layout) == len(names) - 1
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"]


def test_buckets_grow_with_the_distance():
    """Of 8: each side has 4, of which 2 are single distances; from the last on all are one."""
    assert buckets(16, 8, 10)[0].tolist() == [0, 5, 6, 6, 6, *[7] * 11]
    assert buckets(16, 8, 10)[15, ::-1].tolist() == [0, 1, 2, 2, 2, *[3] * 11]


@pytest.mark.parametrize("change, message", [(dict(feed_forward_proj="relu"), "this config says {'feed_forward_proj': 'relu'}"), (dict(model_type="mt5"), "'model_type': 'mt5'")])
def test_another_encoder(change, message):
    config, tensors, _ = read(FIXTURES / "t5_shared.safetensors")
    with pytest.raises(ValueError, match=message):
        weights.import_checkpoint("t5_encoder", config | change, tensors)
