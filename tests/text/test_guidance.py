"""Guidance and caption dropout with the empty caption of a pretrained encoder, as in pipelines of public models."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_models import FIXTURES, assert_same, export_random, read_fixture
from safetensors.numpy import save_file

from jvflow import pretrained, text
from jvflow.flow.field import Condition, drop, guide, null
from jvflow.networks import as_field

CASES = {  # fixture of the transformer, its options, options of the text encoder, output in the fixture
    "ltx, diffusers": ("ltx_padded", dict(causal=False), dict(attend_padding=True), "pipeline"),
    "ltx, authors": ("ltx_padded", dict(causal=False), {}, "masked"),
    "wan": ("wan_plain", {}, {}, "pipeline"),
}
ENCODERS = dict(ltx="T5EncoderModel", wan="UMT5EncoderModel")


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_guidance_is_that_of_the_public_pipeline(case, by_layer, tmp_path):
    """Guides a random LTX-Video and a random Wan with their own random text encoder away from its empty prompt."""
    transformer, sizes, options, output = CASES[case]
    name = case[:3]
    config, tensors, io = read_fixture(FIXTURES / f"guidance_{name}.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict(config, architectures=[ENCODERS[name]])))
    save_file(tensors, tmp_path / "model.safetensors")
    encoder = text.build(
        "t5",
        checkpoint=(tmp_path, FIXTURES / "t5_tokenizer"),
        length=config["length"],
        dtype="float32",
        by_layer=by_layer,
        **options,
    )
    public, weights, _ = read_fixture(FIXTURES / f"{transformer}.safetensors")
    public.pop("shape", None)
    network = pretrained.import_checkpoint(f"{name}_transformer", public, weights, **sizes)
    embedding, mask, empty = encoder.embed(config["prompts"])
    condition = Condition(text=embedding, text_mask=mask, fps=jnp.full(2, 24.0), empty=empty)
    guided = guide(as_field(network), config["weight"])
    velocity = jax.jit(lambda condition: guided(io["x"], (jnp.full(2, config["time"]),), condition)[0])
    made = np.asarray(velocity(condition))
    assert_same(-made, io[output])  # the models predict noise - data
    zeros = (jnp.zeros_like(empty[0]), jnp.zeros_like(empty[1]))
    other = np.asarray(velocity(replace(condition, empty=zeros)))
    assert np.abs(other - made).max() > 2e-3 * np.abs(made).max()


@pytest.fixture(scope="module", params=["t5", "umt5", "clip_text"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "clip_text":
        sizes = dict(read_fixture(FIXTURES / "clip_text_quick.safetensors")[0], vocab_size=700)
        model = export_random("clip_text", sizes, folder)
        return text.build("clip_text", checkpoint=(model, FIXTURES / "clip_text_tokenizer"))
    fixture = dict(t5="t5_masked", umt5="umt5_own")[request.param]
    model = export_random(
        "t5_encoder", dict(read_fixture(FIXTURES / f"{fixture}.safetensors")[0], vocab_size=90), folder
    )
    return text.build("t5", checkpoint=(model, FIXTURES / "t5_tokenizer"), length=9, dtype="float32")


def test_an_empty_caption_is_what_guidance_and_dropout_compare_with(encoder):
    """Checks that captions without words, the null of guidance and a dropped caption are one and the same condition."""
    embedding, mask, empty = encoder.embed(["a photo", "", " \n "])
    condition = Condition(text=embedding, text_mask=mask, empty=empty)
    without = null(condition)
    dropped = drop(condition, jax.random.split(jax.random.key(0), 3), 1.0)
    assert mask[1].any() and mask[0].sum() > mask[1].sum()
    for found in (without, dropped):
        for row in range(3):
            np.testing.assert_array_equal(found.text[row], embedding[1])
            np.testing.assert_array_equal(found.text_mask[row], mask[1])
        np.testing.assert_array_equal(embedding[2], embedding[1])
        assert found.empty is empty
    for a, b in zip(encoder.empty, empty, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(embedding[1]).max() > 0.01  # not zeros


def test_an_encoder_that_trains_with_the_network_keeps_its_way():
    encoder = text.build("bytes", length=8, group=4, width=4, depth=1, heads=2)
    assert encoder.empty is None
    tokens, mask = encoder.tokenize(["", "a"])
    embedding = encoder.apply(jax.jit(encoder.init)(jax.random.key(0)), tokens)
    without = null(Condition(text=embedding, text_mask=jnp.asarray(mask)))
    assert not without.text.any() and not without.text_mask.any() and mask.sum() == 1


def test_dropout_without_a_mask():
    """Checks that text whose tokens all count is dropped too, and that the rest keeps a mask of ones."""
    condition = Condition(text=jnp.ones((64, 3, 2)), fps=jnp.ones(64))
    dropped = drop(condition, jax.random.split(jax.random.key(0), 64), 0.5)
    gone = np.asarray(~dropped.text.any((1, 2)))
    assert 16 < gone.sum() < 48 and (np.asarray(dropped.text_mask) == ~gone[:, None]).all() and dropped.fps.all()
    labels = Condition(label=jnp.arange(64))
    kept = drop(labels, jax.random.split(jax.random.key(0), 64), 0.5)
    assert (np.asarray(kept.label) == np.where(gone, -1, np.arange(64))).all() and kept.text is None
