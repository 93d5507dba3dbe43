"""The encoders of T5 and UMT5: they agree with transformers, and embed captions whole or layer by layer."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from public_models import FIXTURES, assert_same, export_random, read_fixture

from jvflow import networks, pretrained, text
from jvflow.data import latents
from jvflow.load import load
from jvflow.networks.t5 import T5, distance_buckets
from jvflow.text import TextEncoder, t5
from jvflow.training import loop as train


def embedded(network, io):
    return np.asarray(jax.jit(network.apply)(network.params, io["input_ids"], io.get("attention_mask")))


@pytest.mark.parametrize("name", ["t5_shared", "t5_masked", "umt5_own", "t5_first"])
def test_the_encoder_gives_what_transformers_gives(name):
    """Covers one bias for all layers or one per layer, distances beyond the last bucket, with and without a mask."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    network = pretrained.import_checkpoint("t5_encoder", config, tensors)
    assert_same(embedded(network, io), io["last_hidden_state"])
    tensors.pop("encoder.embed_tokens.weight")  # the hubs' files may hold the embedding only once
    assert_same(embedded(pretrained.import_checkpoint("t5_encoder", config, tensors), io), io["last_hidden_state"])


def test_bfloat16_keeps_residuals_in_float32():
    config, tensors, io = read_fixture(FIXTURES / "t5_shared.safetensors")
    network = pretrained.import_checkpoint("t5_encoder", config, tensors)
    half = networks.functional(T5, network.config.__class__(**dict(vars(network.config), dtype="bfloat16"))).apply
    made = jax.jit(half)(network.params, io["input_ids"], None)
    assert made.dtype == jnp.float32
    error = np.abs(np.asarray(made) - io["last_hidden_state"]).max() / np.abs(io["last_hidden_state"]).max()
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize("name", ["t5_v1_1_xxl_encoder", "umt5_xxl_encoder"])
def test_full_size_encoders_have_the_public_tensors(shared, name):
    """Checks names and counts; the manifest lists the embedding twice and counts it once."""
    manifest = json.loads((shared / "golden" / "manifests" / f"{name}.json").read_text())
    model = pretrained.KINDS["t5_encoder"].model(manifest["config"], "transformers")
    names = {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    pretrained.check_tensors("t5_encoder", model, names)
    assert len(model.layout) == len(names) - 1
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"]


def test_buckets_grow_with_the_distance():
    """Checks 4 of 8 buckets on each side: 2 hold a single distance, the last one holds all larger distances."""
    assert distance_buckets(16, 8, 10)[0].tolist() == [0, 5, 6, 6, 6, *[7] * 11]
    assert distance_buckets(16, 8, 10)[15, ::-1].tolist() == [0, 1, 2, 2, 2, *[3] * 11]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(feed_forward_proj="gated-tanh"), 'feed_forward_proj is "gated-tanh", allowed: "quick_gelu" or '),
        (dict(model_type="mt5"), "model_type is 'mt5', allowed: t5 or umt5$"),
    ],
)
def test_another_encoder(change, message):
    config, tensors, _ = read_fixture(FIXTURES / "t5_shared.safetensors")
    with pytest.raises(ValueError, match=message):
        pretrained.import_checkpoint("t5_encoder", config | change, tensors)


# --- captions -------------------------------------------------------------------------------------

TOKENIZER = FIXTURES / "t5_tokenizer"
CAPTIONS = ["a photo of a cat", "", "three 3 1234 discs"]


@pytest.fixture(scope="module", params=["t5_shared", "umt5_own"])
def model(request, tmp_path_factory):
    config = dict(read_fixture(FIXTURES / f"{request.param}.safetensors")[0], vocab_size=90)
    return export_random("t5_encoder", config, tmp_path_factory.mktemp("t5") / "text_encoder")


def test_tokens_are_those_of_transformers():
    expected = json.loads((TOKENIZER / "expected.json").read_text())
    tokens, mask = t5.make_tokenize(TOKENIZER, 20)(expected["captions"])
    assert tokens.tolist() == expected["tokens"]
    assert (mask == (tokens != 0)).all() and mask[:2].sum() == 2 and mask[-1].all()  # an empty caption is its end token


def test_a_tokenizer_in_one_file_gives_the_same_tokens(tmp_path):
    """Reads tokenizer.json, alone in a folder or by its path; spiece.model goes before it."""
    expected = json.loads((TOKENIZER / "expected.json").read_text())
    file = tmp_path / "tokenizer.json"
    file.write_bytes(gzip.decompress((TOKENIZER / "tokenizer.json.gz").read_bytes()))
    for source in (tmp_path, file, str(file), TOKENIZER / "spiece.model"):
        assert t5.make_tokenize(source, 20)(expected["captions"])[0].tolist() == expected["tokens"]
    whole = json.loads(file.read_text())
    whole["model"]["vocab"][:2] = whole["model"]["vocab"][1::-1]
    whole["added_tokens"] = []
    file.write_text(json.dumps(whole))
    with pytest.raises(
        ValueError, match="tokenizer.json has padding 1 and end 0, T5 has 0 and 1: it belongs to another"
    ):
        t5.make_tokenize(tmp_path, 20)
    for content in ("{", '{"a": 1}', "[" * 100000):
        file.write_text(content)
        with pytest.raises(ValueError, match="tokenizer.json holds no tokenizer"):
            t5.make_tokenize(tmp_path, 20)
    (tmp_path / "spiece.model").write_bytes((TOKENIZER / "spiece.model").read_bytes())
    assert t5.make_tokenize(tmp_path, 20)(expected["captions"])[0].tolist() == expected["tokens"]


def test_embedding_layer_by_layer_is_equal_and_holds_two_layers_at_most(model, monkeypatch):
    whole = text.build("t5", checkpoint=(model, TOKENIZER), length=11, dtype="float32")
    streamed = text.build("t5", checkpoint=(model, TOKENIZER), length=11, dtype="float32", by_layer=True)
    assert (
        whole.compilable and not streamed.compilable and streamed.params is None and streamed.width == whole.width == 12
    )
    tokens, mask = whole.tokenize(CAPTIONS)
    apply = jax.jit(whole.apply)
    expected = apply(whole.params, tokens)
    longer = apply(whole.params, np.pad(tokens, ((0, 0), (0, 3))))
    np.testing.assert_allclose(longer[:, :11][mask], expected[mask], atol=1e-5)  # no token attends to padding
    sizes, read_layer = [], t5.ByLayer._read
    before = {id(a) for a in jax.live_arrays()}

    def read_counted(self, prefix):
        found = read_layer(self, prefix)
        sizes.append(sum(a.size for a in jax.live_arrays() if id(a) not in before and a.ndim == 2))
        return found

    monkeypatch.setattr(t5.ByLayer, "_read", read_counted)
    np.testing.assert_allclose(streamed.apply(None, tokens), expected, atol=1e-5 * np.abs(expected).max())
    layers = [
        sum(a.size for a in jax.tree.leaves(layer) if a.ndim == 2)
        for layer in whole.params["encoder"]["block"].values()
    ]
    # the next layer is read while a variable still holds the last one
    assert max(sizes) <= 2 * max(layers) and len(sizes) == len(layers) + 1


def refuse(*args):
    raise AssertionError("the encoder is called")


@pytest.mark.integration
def test_captions_are_embedded_before_training(model, tmp_path, monkeypatch, caplog):
    config = load_config("vlfm/procedural.py", "debug")
    config.text = dict(name="t5", checkpoint=(str(model), str(TOKENIZER)), length=16, dtype="float32", by_layer=True)
    config.run.update(progress=False)
    config.train.update(steps=1, batch_size=4)
    with pytest.raises(
        ValueError, match="config.text.by_layer needs captions that are embedded before training: make the data set"
    ):
        train.train(config, tmp_path / "refused")
    latents.prepare(config, tmp_path / "latents")
    encoder = text.build(**config.text)
    for stored, made in zip(latents.empty_caption(tmp_path / "latents"), encoder.empty, strict=True):
        np.testing.assert_array_equal(stored, made)
    config.data.path, config.text.by_layer = str(tmp_path / "latents"), False  # neither changes the data set
    config.caption_dropout = 0.5
    monkeypatch.setattr(TextEncoder, "embed", refuse)  # training from the data set needs no encoder, "" included
    assert len(list(train.train(config, tmp_path / "run").losses())) == 1
    noted = tmp_path / "run" / "data.json"
    noted.write_text(json.dumps(dict(key=json.loads(noted.read_text())["key"])))  # as earlier versions wrote it
    with caplog.at_level("WARNING", "jvflow"):
        load(tmp_path / "run")
    assert "which dropped captions to zeros; guidance now compares with the empty caption" in caplog.text
    with pytest.raises(ValueError, match="dropped captions to zeros and not to the empty caption: finish it with that"):
        train.train(config, tmp_path / "run")
    manifest = json.loads((tmp_path / "latents" / "manifest.json").read_text())
    del manifest["settings"]["text"]["empty_caption"]
    (tmp_path / "latents" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="embedded by an earlier version of jvflow, which did not store .* encode the"):
        train.train(config, tmp_path / "other")


@pytest.mark.parametrize(
    "folders, message",
    [
        (("{model}",), "takes two folders as config.text.checkpoint"),
        (("{model}", "{model}"), "holds no spiece.model"),
        (("{clip}", "{tokenizer}"), "holds no encoder of T5"),
    ],
)
@pytest.mark.parametrize("by_layer", [False, True])
def test_another_text_encoder(model, tmp_path, folders, message, by_layer):
    clip = export_random("clip_text", read_fixture(FIXTURES / "clip_text_quick.safetensors")[0], tmp_path)
    with pytest.raises(ValueError, match=message):
        text.build(
            "t5",
            checkpoint=tuple(f.format(model=model, clip=clip, tokenizer=TOKENIZER) for f in folders),
            by_layer=by_layer,
        )
