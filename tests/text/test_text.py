"""Text encoders, caption dropout, and captions in batches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config

from jvflow import text
from jvflow.data import dataset, pipeline
from jvflow.experiment import assemble
from jvflow.flow.field import Condition, drop
from jvflow.pretrained import LazyParams


@pytest.fixture(scope="module")
def encoder():
    return text.build("bytes", length=32, group=4, width=16, depth=1, heads=2)


def test_tokens_are_the_bytes_of_a_caption(encoder, caplog):
    tokens, mask = encoder.tokenize(["a disc", "", "äöü"])
    assert bytes(tokens[0, :6].astype(np.uint8)) == b"a disc" and (tokens[0, 6:] == text.NO_BYTE).all()
    assert bytes(tokens[2, :6].astype(np.uint8)).decode() == "äöü"
    assert mask.sum(1).tolist() == [2, 0, 2]
    text.warn_truncated.cache_clear()
    with caplog.at_level("WARNING", "jvflow"):
        cut, mask = encoder.tokenize(["x" * 40, "x" * 41])
    assert mask.all() and (cut == ord("x")).all()
    assert len(caplog.records) == 1 and "cut to 32 bytes" in caplog.text


def test_an_embedding_depends_on_its_caption_alone_and_on_the_order_of_its_letters(encoder):
    params, apply = jax.jit(encoder.init)(jax.random.key(0)), jax.jit(encoder.apply)
    embed = lambda *captions: apply(params, encoder.tokenize(captions)[0])
    alone, beside = embed("a red disc"), embed("a red disc", "a blue square that moves to the left")
    assert alone.shape == (1, 8, 16) and jnp.isfinite(beside).all()
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)
    assert jnp.abs(embed("a red disc")[0, 0] - embed("red a disc")[0, 0]).max() > 0.05
    assert (
        jnp.abs(embed("a red disc")[0, 0] - embed("a red disk")[0, 0]).max() > 1e-3
    )  # the first token attends to a later letter


def test_padding_after_a_caption_is_not_attended_to(encoder):
    params, apply = jax.jit(encoder.init)(jax.random.key(0)), jax.jit(encoder.apply)
    tokens, mask = encoder.tokenize(["two discs"[:8]])
    other = jax.tree.map(jnp.array, params)
    other["embed"]["embedding"] = params["embed"]["embedding"].at[text.NO_BYTE].add(1.0)
    one, two = (apply(p, tokens)[0] for p in (params, other))
    np.testing.assert_allclose(one[mask[0]], two[mask[0]], atol=1e-5)
    assert jnp.abs(one[~mask[0]] - two[~mask[0]]).max() > 0.01


def test_dropout_leaves_out_whole_captions_at_its_rate():
    condition = Condition(
        text=jnp.ones((512, 3, 2)), text_mask=jnp.ones((512, 3), bool), label=jnp.zeros(512, int), fps=jnp.ones(512)
    )
    keys = jax.random.split(jax.random.key(0), 512)
    dropped = drop(condition, keys, 0.25)
    gone = np.asarray(~dropped.text_mask.any(1))
    assert 0.2 < gone.mean() < 0.3
    assert (dropped.text_mask.all(1) == ~gone).all() and (np.asarray(dropped.label) == -gone.astype(int)).all()
    assert (np.asarray(dropped.text).mean((1, 2)) == ~gone).all() and dropped.fps.all()
    assert drop(condition, keys, 0.0) is condition and drop(None, keys, 0.5) is None


def test_batches_carry_the_tokens_of_their_clips(tmp_path, encoder):
    config = load_config("vlfm/procedural.py", "debug")
    config.data.cache = str(tmp_path)
    data = dataset.prepare(config.data, tmp_path)
    captions, real = pipeline.captions(data, "train"), pipeline.clips(data, "train")
    window = pipeline.Window(6, every=3, anywhere=False)
    batch = next(pipeline.batches(data, windows=[window], batch_size=4, seed=0, tokenize=encoder.tokenize))
    assert batch.fps.tolist() == [16.0] * 4 and batch.video.shape[1] == 6 and window.span == 16
    for video, tokens, mask in zip(batch.video, batch.text_tokens, batch.text_mask):
        (i,) = [i for i, clip in enumerate(real) if np.array_equal(clip[:16:3], video)]
        expected = encoder.tokenize([captions[i]])
        assert np.array_equal(tokens, expected[0][0]) and np.array_equal(mask, expected[1][0])


@pytest.mark.integration
def test_a_trained_encoder_gets_gradients_and_a_pretrained_one_is_given(monkeypatch):
    config = load_config("vlfm/procedural.py", "debug")
    experiment = assemble(config)
    params = jax.jit(experiment.network.init)(jax.random.key(0))
    tokens, mask = experiment.text.tokenize(["one", "two"])
    of = lambda params, given: experiment.condition(params, tokens, mask, given).text
    assert (
        jnp.abs(
            jax.grad(lambda p: jnp.square(of(p, experiment.encoder_params)).sum())(params)["text"]["embed"]["embedding"]
        ).max()
        > 0
    )
    assert experiment.encoder_params["text"] is None

    pretrained = replace(experiment.text, init=None, lazy=LazyParams(lambda: params["text"]))
    monkeypatch.setattr(text, "build", lambda **sizes: pretrained)
    other = assemble(config)
    assert "text" not in jax.eval_shape(other.network.init, jax.random.key(0))
    np.testing.assert_array_equal(other.condition({}, tokens, mask, other.encoder_params).text, of(params, None))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: text.build("words"), "unknown text encoder 'words': use 'bytes', 'clip_text', 't5' or 'none'"),
        (lambda: text.build("bytes", length=30, group=4), "the group must divide the length"),
        (lambda: text.build("bytes", width=30, heads=4), "heads 4 does not divide the width 30"),
        (lambda: pipeline.Window(0), "at least 1 frame"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
