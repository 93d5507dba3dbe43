"""The tiny autoencoders (`jvflow.networks.taesd`) under their public names, which begin with encoder. or decoder.

AutoencoderTiny uses the naming "diffusers", with layers. next. The author's two files use "original": their decoder
begins with a layer without tensors, so its layer numbers are larger by one.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from jvflow.networks import Network, taesd
from jvflow.pretrained.layout import Kind, Model, autoencoder_apply, same_entry
from jvflow.pretrained.public_config import LAYERS, SIZE, Key, list_of, one_of, read_config

KEYS = dict(
    in_channels=Key(3, one_of(3)),
    out_channels=Key(3, one_of(3)),
    encoder_block_out_channels=Key([64] * 4, list_of(SIZE)),
    decoder_block_out_channels=Key([64] * 4, list_of(SIZE)),
    act_fn=Key("relu", one_of("relu")),
    upsample_fn=Key("nearest", one_of("nearest")),
    latent_channels=Key(4, SIZE),
    upsampling_scaling_factor=Key(2, one_of(2)),
    num_encoder_blocks=Key([1, 3, 3, 3], list_of(LAYERS)),
    num_decoder_blocks=Key([3, 3, 3, 1], list_of(LAYERS)),
    latent_magnitude=Key(3),
    latent_shift=Key(0.5),
    force_upcast=Key(False),
    scaling_factor=Key(1.0),
    shift_factor=Key(0.0),
)
"""The keys of diffusers' AutoencoderTiny."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "diffusers" if any(".layers." in name for name in names) else "original"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    values = read_config(config, KEYS, "a tiny autoencoder", _rules)
    latent, width = values["latent_channels"], lambda half: values[f"{half}_block_out_channels"][0]
    halves = dict(
        encoder=_encoder(values["num_encoder_blocks"], width("encoder"), latent),
        decoder=_decoder(values["num_decoder_blocks"], width("decoder"), latent),
    )
    shapes, entries = {}, []
    for half, tensors in halves.items():
        for number, name, shape in tensors:
            path = f"{half}/{number}.{name}"
            shapes[path] = jax.ShapeDtypeStruct(shape, jnp.float32)
            entries.append(same_entry(path, _public_name(half, number, name, naming)))
    network = Network(apply=None, config=dict(config))
    return Model(network, shapes, entries, (), autoencoder_apply(_encode, _decode), settings=values)


def _rules(values: dict) -> dict[str, str]:
    wrong = {}
    for half in ("encoder", "decoder"):
        channels = values[f"{half}_block_out_channels"]
        if len(set(channels)) > 1:
            wrong[f"{half}_block_out_channels"] = "one number of channels in all layers"
        if len(values[f"num_{half}_blocks"]) != len(channels):
            wrong[f"num_{half}_blocks"] = f"a list of {len(channels)} entries, as {half}_block_out_channels has"
    return wrong


def _public_name(half: str, number: int, name: str, naming: str) -> str:
    if naming == "diffusers":
        return f"{half}.layers.{number}.{name}"
    return f"{half}.{number + (half == 'decoder')}.{name}"


def _encoder(blocks, width: int, latent: int) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Yields number, name and shape of each tensor."""
    number = 0
    for level, count in enumerate(blocks):
        yield number, "weight", (width, width if level else 3, 3, 3)
        if not level:
            yield number, "bias", (width,)
        for i in range(count):
            yield from _block(number + 1 + i, width)
        number += count + 1
    yield from _convolution(number, "", latent, width)


def _decoder(blocks, width: int, latent: int) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    yield from _convolution(0, "", width, latent)
    number = 2  # number 1 is a relu
    for level, count in enumerate(blocks):
        last = level == len(blocks) - 1
        for i in range(count):
            yield from _block(number + i, width)
        number += count + (not last)  # the upsampling has a number too
        yield number, "weight", (3 if last else width, width, 3, 3)
        if last:
            yield number, "bias", (3,)
        number += 1


def _block(number: int, width: int):
    for name in ("conv.0.", "conv.2.", "conv.4."):
        yield from _convolution(number, name, width, width)


def _convolution(number: int, name: str, outputs: int, inputs: int):
    yield number, f"{name}weight", (outputs, inputs, 3, 3)
    yield number, f"{name}bias", (outputs,)


def _encode(params, images):
    return taesd.encode(params["encoder"], (images + 1) / 2)


def _decode(params, latents):
    return 2 * taesd.decode(params["decoder"], latents) - 1


KIND = Kind(model, find_naming, ("diffusers", "original"))
