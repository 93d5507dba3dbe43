"""Stable Diffusion as codec and text encoder: DDIM and its inversion, stored caption embeddings, and tiles."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from public_models import FIXTURES, export_random, stable_diffusion

from jvflow import codecs, pretrained, text
from jvflow.codecs.tiling import apply_tiled
from jvflow.data import latents, pipeline
from jvflow.experiment import assemble
from jvflow.flow import ddim
from jvflow.text import clip_text
from jvflow.training import loop as train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def video():
    ramp = np.linspace(0, 255, 2 * 2 * 8 * 16 * 3).reshape(2, 2, 8, 16, 3)
    return (ramp + 20 * np.random.default_rng(0).normal(size=ramp.shape)).clip(0, 255).astype(np.uint8)


# --- DDIM as a codec ------------------------------------------------------------------------------


def build_ddim(model, **options):
    return codecs.build("stable_diffusion_ddim", checkpoint=(str(model),), **dict(steps=8) | options)


@pytest.mark.integration
@pytest.mark.parametrize("options", [{}, dict(guidance=2.5, prompt="a photo of a cat", scale=2.0)])
def test_latents_are_the_noise_that_samples_each_frame(model, video, options):
    """Compares with DDIM inversion and sampling, composed by hand from the parts of the model."""
    codec = build_ddim(model, **options)
    found = codec.encode(codec.params, video)
    assert found.std is None and found.mean.shape == (2, *codec.latent_shape(video.shape[1:4])) == (2, 2, 2, 4, 4)
    vae, unet, clip = (pretrained.load(model / part) for part in ("vae", "unet", "text_encoder"))
    tokens = text.build("clip_text", checkpoint=(model / "text_encoder", model / "tokenizer")).tokenize(
        ["", options.get("prompt", "")]
    )[0]
    empty, prompted = clip.apply(clip.params, tokens)[0]
    weight, scale = options.get("guidance", 1.0), options.get("scale", 1.0)

    def predict(x, t):
        outputs = [
            unet.apply(unet.params, jnp.moveaxis(x, -1, 1), t, jnp.tile(c, (len(x), 1, 1))) for c in (empty, prompted)
        ]
        return jnp.moveaxis(outputs[0] + weight * (outputs[1] - outputs[0]), 1, -1)

    frame = video[1:, 0].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    encode, decode = (
        jax.jit(lambda a, method=method, name=name: vae.apply(vae.params, method=method, **{name: a}))
        for method, name in (("encode", "x"), ("decode", "z"))
    )
    clean = 0.18215 * jnp.moveaxis(encode(frame)[0], 1, -1)
    noise = jax.jit(lambda x: ddim.invert(predict, x, ddim.Schedule(), steps=8))(clean)
    np.testing.assert_allclose(found.mean[1, 0], noise[0] / scale, atol=2e-4 * np.abs(noise).max())
    assert np.abs(noise - clean).max() > 0.1
    sampled = jax.jit(lambda x: ddim.sample(predict, x, ddim.Schedule(), steps=8))(noise)
    image = (np.clip(np.asarray(decode(jnp.moveaxis(sampled, -1, 1) / 0.18215)), -1, 1) + 1) * 127.5
    shown = codec.decode(codec.params, found.mean)
    assert shown.shape == video.shape and np.abs(shown[1, 0] - image[0].transpose(1, 2, 0)).max() < 0.75


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(checkpoint=()),
            "takes the folder of a whole model as config.codec.checkpoint, with scheduler/scheduler_config.json in it",
        ),
        (dict(steps=2000), "steps must be a whole number from 1 to 1000"),
        (dict(tile=6), "config.codec.tile is 6: tiles are multiples of 16 pixels"),
        (dict(eta=1.0), "the codec stable_diffusion_ddim has no eta: remove config.codec.eta"),
    ],
)
def test_wrong_options_are_reported(model, change, message):
    with pytest.raises(ValueError, match=message):
        codecs.build("stable_diffusion_ddim", **dict(checkpoint=(str(model),)) | change)


def test_parts_of_two_models_are_reported(model, tmp_path):
    for part in model.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "text_encoder").unlink()
    config = json.loads((model / "text_encoder" / "config.json").read_text())
    export_random("clip_text", dict(config, hidden_size=6), tmp_path / "text_encoder")
    with pytest.raises(ValueError, match="has width 6, its U-Net takes 12: they come from different models"):
        build_ddim(tmp_path)
    export_random("clip_text", dict(config, vocab_size=500), tmp_path / "text_encoder")
    with pytest.raises(ValueError, match="has tokens up to 602, the model knows 500: they come from different models"):
        build_ddim(tmp_path)


def test_parts_that_ddim_cannot_use_are_reported(model, tmp_path):
    for part in model.iterdir():
        (tmp_path / part.name).symlink_to(part)
    for part in ("unet", "scheduler"):
        (tmp_path / part).unlink()
    config = json.loads((model / "unet" / "config.json").read_text())
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(dict(_class_name="FlowMatchEulerDiscreteScheduler")))
    with pytest.raises(ValueError, match=f"^{file}: the scheduler FlowMatchEuler.* is for flow matching"):
        build_ddim(tmp_path)
    file.write_text(json.dumps(dict(_class_name="PNDMScheduler", skip_prk_steps=True)))
    export_random("sd_unet", dict(config, in_channels=9), tmp_path / "unet")
    with pytest.raises(ValueError, match="unet maps 9 channels to 4, the latents have 4: DDIM inverts models of text"):
        build_ddim(tmp_path)


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (8, 23), (31, 17)])
def test_tiles_fit_together(size):
    """Checks that tiles keep a pixelwise function at both scales, and that tiles of other functions blend smoothly."""
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, *size, 3)), jnp.float32)
    up = lambda x: jnp.repeat(jnp.repeat(jnp.tanh(x), 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(apply_tiled(up, images, 8, 2), up(images), atol=1e-5)
    even = images[:, : size[0] // 4 * 4, : size[1] // 4 * 4]
    down = lambda x: x[:, ::2, ::2] ** 2
    np.testing.assert_allclose(apply_tiled(down, even, 8, 0.5), down(even), atol=1e-5)
    assert apply_tiled(up, images, 0, 2).shape == up(images).shape
    mean = lambda x: x - x.mean((1, 2), keepdims=True)
    ramp = 0 * images + jnp.arange(size[1], dtype=jnp.float32)[None, None, :, None]
    seams = np.abs(np.diff(np.asarray(apply_tiled(mean, ramp, 8, 1))[0, 0, :, 0]))
    assert seams.max() < 1.1  # tiles that differ by 6 blend over the two pixels that they share


@pytest.mark.own_attention
def test_tiles_bound_the_memory(model):
    """Compares the decoder's temporary memory for one image, whole and in tiles of a sixteenth of its area."""

    def temporary(side, tile):
        codec = codecs.build("stable_diffusion", checkpoint=(str(model / "vae"),), tile=tile)
        latent = jax.ShapeDtypeStruct((1, 1, side, side, 4), jnp.float32)
        return codec.decode.lower(codec.params, latent).compile().memory_analysis().temp_size_in_bytes

    whole, tiled = temporary(64, 0), temporary(64, 64)
    assert tiled < 0.2 * whole


# --- text -----------------------------------------------------------------------------------------


def test_tokens_are_those_of_transformers():
    expected = json.loads((FIXTURES / "clip_text_tokenizer" / "expected.json").read_text())
    tokens, mask = clip_text.make_tokenize(FIXTURES / "clip_text_tokenizer", 20)(expected["captions"])
    assert tokens.tolist() == expected["tokens"]
    assert mask.sum(1).tolist()[:4] == [2, 2, 7, 8] and mask[-1].all()


@pytest.mark.integration
def test_captions_are_embedded_once(model, tmp_path):
    """Checks that training on the embeddings that `latents.prepare` stores gives the losses of training on tokens.

    Training refuses embeddings of another encoder.
    """
    config = load_config("vlfm/procedural.py", "debug")
    config.text = dict(name="clip_text", checkpoint=(str(model / "text_encoder"), str(model / "tokenizer")))
    config.run.update(progress=False)
    config.train.update(steps=2, batch_size=4)
    config.data.update(cache=str(tmp_path / "clips"))
    data = tmp_path / "latents"
    assert latents.prepare(config, data)["settings"]["text"]["name"] == "clip_text"
    train_split = pipeline.open_split(data, "train")
    means = [train_split[i]["latent_mean"][::2] for i in range(len(train_split))]
    assert latents.frame_difference(data, every=2) == pytest.approx(np.sqrt(np.square(np.diff(means, axis=1)).mean()))
    experiment, clip = assemble(config), train_split[0]
    tokens, mask = experiment.text.tokenize([clip["caption"]])
    np.testing.assert_allclose(
        clip["text_embedding"], experiment.text.apply(experiment.text.params, tokens)[0], atol=1e-6
    )
    assert clip["text_mask"].dtype == bool and (clip["text_mask"] == mask[0]).all() and mask.any()
    batch = next(pipeline.batches(data, windows=experiment.windows, batch_size=2, seed=0, latents=True, embedded=True))
    assert batch.text_tokens is None and batch.text_embedding.shape == (2, 12, 12) and batch.text_mask.shape == (2, 12)
    from_tokens = list(train.train(config, tmp_path / "tokens").losses())
    config.data.path = str(data)
    np.testing.assert_allclose(np.asarray(train.train(config, tmp_path / "embedded").losses()), from_tokens, rtol=1e-5)
    other = json.loads((model / "text_encoder" / "config.json").read_text())
    config.text.checkpoint = (
        str(export_random("clip_text", other, tmp_path / "other", seed=9)),
        str(model / "tokenizer"),
    )
    with pytest.raises(
        ValueError, match="the captions in .* were embedded with .*: use that encoder, or encode into another folder"
    ):
        train.train(config, tmp_path / "refused")
    with pytest.raises(ValueError, match="there / here: text.weights: "):
        config.data.path = "procedural:bouncing"
        latents.prepare(config, data)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "folders, message",
    [
        (("{model}/text_encoder",), "takes two folders as config.text.checkpoint"),
        (("{model}/unet", "{model}/tokenizer"), "holds no text model of CLIP"),
        (("{model}/text_encoder", "{model}/unet"), "holds no vocab.json and no merges.txt"),
    ],
)
def test_another_text_encoder(model, folders, message):
    with pytest.raises(ValueError, match=message):
        text.build("clip_text", checkpoint=tuple(folder.format(model=model) for folder in folders))


def test_a_missing_tokenizers_package_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'jvflow\[text\]'"):
        text.build("clip_text", checkpoint=(model / "text_encoder", model / "tokenizer"))
