"""The tiny autoencoders (`jvflow.networks.taesd`) under their public names, which begin with encoder. or decoder.

AutoencoderTiny uses the naming "diffusers", with layers. next. The author's two files use "original": their decoder
begins with a layer without tensors, so its layer numbers are larger by one.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from jvflow.networks import Network, taesd
from jvflow.pretrained.layout import Kind, Model, autoencoder_apply, find_differences, same_entry

EXPECTED = dict(
    in_channels=3, out_channels=3, act_fn="relu", upsample_fn="nearest", upsampling_scaling_factor=2, latent_magnitude=3
)


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "diffusers" if any(".layers." in name for name in names) else "original"


def model(config: Mapping, naming: str) -> Model:
    """Returns the model of a config of the diffusers package."""
    unsupported = find_differences(config, EXPECTED)
    widths = {half: set(config.get(f"{half}_block_out_channels", (64,))) for half in ("encoder", "decoder")}
    unsupported |= {f"{half}_block_out_channels": sorted(found) for half, found in widths.items() if len(found) > 1}
    if unsupported:
        raise ValueError(
            f"a tiny autoencoder has {EXPECTED} and one width in all its layers, this config says {unsupported}"
        )
    latent = config.get("latent_channels", 4)
    halves = dict(
        encoder=_encoder(config.get("num_encoder_blocks", (1, 3, 3, 3)), *widths["encoder"], latent),
        decoder=_decoder(config.get("num_decoder_blocks", (3, 3, 3, 1)), *widths["decoder"], latent),
    )
    shapes, entries = {}, []
    for half, tensors in halves.items():
        for number, name, shape in tensors:
            path = f"{half}/{number}.{name}"
            shapes[path] = jax.ShapeDtypeStruct(shape, jnp.float32)
            entries.append(same_entry(path, _public_name(half, number, name, naming)))
    network = Network(apply=None, config=dict(config))
    return Model(network, shapes, entries, frozenset(), autoencoder_apply(_encode, _decode))


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
