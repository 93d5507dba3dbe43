"""Codecs of single frames: they agree with the original code, and reconstruct real frames."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from conftest import debug_config
from public_models import FIXTURES, read_fixture
from safetensors.numpy import save_file

from jvflow import codecs, commands, metrics
from jvflow.codecs import tiny
from jvflow.data import video
from jvflow.experiment import assemble
from jvflow.networks import taesd
from jvflow.training import loop as train

HALVES = ("encoder", "decoder")


@pytest.fixture(scope="module")
def files():
    from conftest import SHARED

    folder = SHARED / "data" / "weights"
    if not folder.exists():
        pytest.skip("needs the folder shared/ next to the checkout")
    return [str(folder / f"taef2_{half}.safetensors") for half in HALVES]


@pytest.fixture(scope="module")
def taef2(files):
    return tiny.build(*files)


def test_pixels_return_exactly():
    codec = codecs.build("pixels")
    clip = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    latents = codec.encode(None, clip).mean
    assert codec.latent_shape((3, 8, 8)) == latents.shape[1:] and abs(latents).max() <= 1
    np.testing.assert_array_equal(codec.decode(None, latents), clip)


def test_taef2_equals_the_original(shared, taef2):
    golden = np.load(shared / "golden" / "taef2_roundtrip.npz")
    images = golden["frames_u8"] / np.float32(255)
    latents = taesd.encode(taef2.params["encoder"], images)
    np.testing.assert_allclose(np.moveaxis(latents, -1, 1), golden["latents"], atol=1e-4)
    decoded = taesd.decode(taef2.params["decoder"], np.moveaxis(golden["latents"], 1, -1))
    np.testing.assert_allclose(np.moveaxis(decoded, -1, 1), golden["decoded"], atol=1e-4)


@pytest.mark.integration
def test_real_frames_come_back(shared, taef2):
    """Checks that the mean PSNR of the clips exceeds 30 dB; fine texture (grass, printed letters) reaches 25 dB."""
    clips = sorted(path for path in (shared / "data" / "clips").iterdir() if path.suffix in (".mp4", ".webm"))
    frames = [video.resize(next(video.frames(path))[1], (256, 256), "crop") for path in clips]
    signal = lambda clip: jnp.asarray(clip, jnp.float32) / 127.5 - 1
    back = [taef2.decode(taef2.params, taef2.encode(taef2.params, frame[None, None]).mean)[0, 0] for frame in frames]
    psnr = [float(metrics.psnr(signal(b)[None, None], signal(a)[None, None])[0]) for a, b in zip(frames, back)]
    assert np.mean(psnr) > 30 and min(psnr) > 24, dict(zip([path.name for path in clips], psnr))


def test_scale_divides_the_latents_and_nothing_else(files, taef2):
    clip = np.random.default_rng(0).integers(0, 256, (1, 2, 16, 24, 3), dtype=np.uint8)
    scaled = codecs.build("tiny", checkpoint=tuple(files), scale=2.0)
    assert scaled.latent_shape((2, 16, 24)) == (2, 2, 3, 32) and scaled.latent_range is None
    latents, plain = scaled.encode(scaled.params, clip).mean, taef2.encode(taef2.params, clip).mean
    np.testing.assert_allclose(2 * latents, plain, rtol=1e-6)
    np.testing.assert_array_equal(scaled.decode(scaled.params, latents), taef2.decode(taef2.params, plain))


# --- other autoencoders of the family, with random tensors ----------------------------------------


def conv(n, m, size=3, bias=True):
    kernel = np.random.default_rng(n * m).normal(0, (n * size * size) ** -0.5, (m, n, size, size)).astype(np.float32)
    return {"weight": kernel} | ({"bias": np.full(m, 0.1, np.float32)} if bias else {})


def block(n, m):
    parts = {"conv.0": conv(n, m), "conv.2": conv(m, m), "conv.4": conv(m, m)}
    parts |= {"skip": conv(n, m, 1, bias=False)} if n != m else {}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def family(decoder_first=1, channels=4):
    """Returns an encoder and a decoder with two scales; diffusers' decoders start at 0, the original ones at 1."""
    encoder = {
        0: conv(3, 8),
        1: block(8, 8),
        2: conv(8, 8, bias=False),
        3: block(8, 8),
        4: conv(8, 8, bias=False),
        5: conv(8, channels),
    }
    decoder = {
        0: conv(channels, 8),
        2: block(8, 16),
        4: conv(16, 8, bias=False),
        5: block(8, 8),
        7: conv(8, 8, bias=False),
        8: conv(8, 3),
    }
    flat = lambda layers, first: {
        f"{i + first}.{name}": tensor for i, layer in layers.items() for name, tensor in layer.items()
    }
    return flat(encoder, 0), flat(decoder, decoder_first)


def reference(x, layer, stride=1, prefix=""):
    """Convolves one image (h, w, c), in loops over the kernel."""
    kernel, bias = layer[f"{prefix}weight"], layer.get(f"{prefix}bias", 0.0)
    around = kernel.shape[-1] // 2
    padded = np.pad(x, ((around, around), (around, around), (0, 0)))
    h, w = x.shape[0], x.shape[1]
    y = sum(
        padded[i : i + h, j : j + w] @ kernel[:, :, i, j].T
        for i in range(kernel.shape[2])
        for j in range(kernel.shape[3])
    )
    return y[::stride, ::stride] + bias


def test_one_file_with_prefixes_and_two_files_are_the_same(tmp_path):
    encoder, decoder = family(decoder_first=1)
    save_file(encoder, tmp_path / "e.safetensors")
    save_file(decoder, tmp_path / "d.safetensors")
    one = {f"encoder.layers.{name}": t for name, t in encoder.items()}
    one |= {f"decoder.layers.{name}": t for name, t in family(decoder_first=0)[1].items()}
    save_file(one, tmp_path / "one.safetensors")
    two, one = (
        tiny.build(tmp_path / "d.safetensors", tmp_path / "e.safetensors"),
        tiny.build(tmp_path / "one.safetensors"),
    )
    clip = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8, 3), dtype=np.uint8)
    latents = two.encode(two.params, clip).mean
    assert latents.shape[1:] == two.latent_shape((1, 8, 8)) == (1, 2, 2, 4)
    np.testing.assert_array_equal(latents, one.encode(one.params, clip).mean)
    np.testing.assert_array_equal(two.decode(two.params, latents), one.decode(one.params, latents))


def test_the_layouts_of_the_hub_and_of_the_author(tmp_path):
    """Reads a folder with the files of diffusers and of the author, a folder of the author's, and files of PyTorch."""
    config, tensors, _ = read_fixture(FIXTURES / "taesd_three_levels.safetensors")
    hub, own = tmp_path / "hub", tmp_path / "own"
    hub.mkdir(), own.mkdir()
    (hub / "config.json").write_text(json.dumps(dict(config, _class_name="AutoencoderTiny")))
    save_file(tensors, hub / "diffusion_pytorch_model.safetensors")
    halves = {half: {} for half in HALVES}
    for name, tensor in tensors.items():  # the author's decoder begins with a layer without tensors
        half, _, number, rest = name.split(".", 3)
        halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = tensor
    for half, part in halves.items():
        save_file({name: np.zeros_like(tensor) for name, tensor in part.items()}, hub / f"taesd_{half}.safetensors")
        torch_files.write(own / f"taesd_{half}.pth", part)
    sources = [(hub,), (own,), tuple(own / f"taesd_{half}.pth" for half in HALVES), (str(hub),)]
    first, *others = [tiny.build(*source).params for source in sources]
    image, latent = np.ones((1, 8, 8, 3), np.float32), np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 2, 2, 4)
    assert first["encoder"].keys() == halves["encoder"].keys()
    for other in others:
        np.testing.assert_array_equal(taesd.encode(other["encoder"], image), taesd.encode(first["encoder"], image))
        np.testing.assert_array_equal(taesd.decode(other["decoder"], latent), taesd.decode(first["decoder"], latent))
    torch_files.write(own / "taesdxl_encoder.pth", halves["encoder"])
    with pytest.raises(
        ValueError, match="own holds taesd_decoder.pth, taesd_encoder.pth, taesdxl_encoder.pth, and none"
    ):
        tiny.build(own)
    (hub / "config.json").write_text(json.dumps(dict(config, _class_name="AutoencoderKL")))
    with pytest.raises(ValueError, match="hub holds a sd_vae"):
        tiny.build(hub)


def test_the_decoder_agrees_with_its_layers_one_by_one():
    """Recomputes the decoder layer by layer: clamp, convolution, relu, block with a skip, upsampling, ..."""
    _, tensors = family()
    latents = np.random.default_rng(1).normal(0, 3, (3, 2, 4)).astype(np.float32)
    relu = lambda x: np.maximum(x, 0)
    layer = lambda number: {
        name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == str(number)
    }
    double = lambda x: x.repeat(2, 0).repeat(2, 1)

    def run_block(x, parts):
        y = reference(x, parts, prefix="conv.0.")
        y = reference(relu(y), parts, prefix="conv.2.")
        y = reference(relu(y), parts, prefix="conv.4.")
        return relu(y + (reference(x, parts, prefix="skip.") if "skip.weight" in parts else x))

    x = relu(reference(3 * np.tanh(latents / 3), layer(1)))
    x = reference(double(run_block(x, layer(3))), layer(5))
    x = reference(double(run_block(x, layer(6))), layer(8))
    np.testing.assert_allclose(taesd.decode(tensors, latents[None])[0], reference(x, layer(9)), atol=1e-5)


def test_a_convolution_before_a_skipped_layer_number_has_stride_two_and_a_relu(tmp_path):
    """Covers TAESANA's encoder, which begins with two such convolutions."""
    tensors = {
        f"{i}.{name}": t
        for i, layer in {0: conv(3, 8), 2: conv(8, 8), 4: block(8, 8), 5: conv(8, 4)}.items()
        for name, t in layer.items()
    }
    image = np.random.default_rng(0).random((8, 12, 3), np.float32)
    relu = lambda x: np.maximum(x, 0)
    x = relu(reference(relu(reference(image, conv(3, 8), stride=2)), conv(8, 8), stride=2))
    head = {name: t for name, t in tensors.items() if name[0] in "02"} | {
        "4.weight": np.eye(8, dtype=np.float32)[..., None, None],
        "4.bias": np.zeros(8, np.float32),
    }
    np.testing.assert_allclose(taesd.encode(head, image[None])[0], x, atol=1e-5)
    assert taesd.encode(tensors, image[None]).shape == (1, 2, 3, 4)


@pytest.mark.integration
def test_training_and_streaming_in_latents(files, tmp_path):
    config = debug_config(tmp_path, steps=2)
    config.data.size = (32, 32)
    config.codec.update(name="tiny", checkpoint=tuple(files))
    config.network.patch = (1, 2, 2)
    train.train(config, tmp_path / "run")
    record = commands.sample(tmp_path / "run", tmp_path / "out", count=1, length=3)
    assert record["samples"][0]["nfe_per_frame"] >= 2
    config.network.patch = (1, 8, 8)
    with pytest.raises(ValueError, match=r"does not divide.*\(1, 4, 4\)"):
        assemble(config)


def test_mistakes(tmp_path, files, taef2):
    encoder, decoder = family()
    save_file(encoder, tmp_path / "e.safetensors")
    save_file({"model.weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="multiples of 8, got 60 x 64: use 64 x 64"):
        taef2.latent_shape((1, 60, 64))
    with pytest.raises(ValueError, match="no tensors of the decoder in .*e.safetensors: give both"):
        tiny.build(tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match="no tensors of the encoder because config.codec.checkpoint is empty"):
        tiny.build()
    with pytest.raises(
        ValueError, match="other.safetensors holds no autoencoder of the TAESD family: its tensors are model.weight"
    ):
        tiny.build(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="there is no file .*none.safetensors"):
        tiny.build(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="do not fit one another"):
        save_file(decoder, tmp_path / "d.safetensors")
        tiny.build(files[0], tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="unknown codec 'jpeg'"):
        codecs.build("jpeg")
