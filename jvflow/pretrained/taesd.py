"""The tiny autoencoders (`jvflow.networks.taesd`) under their public names, with encoder. and decoder. before them.

diffusers   those of AutoencoderTiny, under layers.
original    those of the authors' two files; the decoder begins with a layer without tensors, and all its numbers are one larger
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from jvflow.networks import taesd
from jvflow.networks import Network
from jvflow.pretrained.base import Kind, Model, both_ways, same, unlike

EXPECTED = dict(
    in_channels=3, out_channels=3, act_fn="relu", upsample_fn="nearest", upsampling_scaling_factor=2, latent_magnitude=3
)


def generation(names) -> str:
    """Whose names these are."""
    return "diffusers" if any(".layers." in name for name in names) else "original"


def model(config: Mapping, generation: str) -> Model:
    """The network and layout of a config of the diffusers package."""
    other = unlike(config, EXPECTED)
    widths = {side: set(config.get(f"{side}_block_out_channels", (64,))) for side in ("encoder", "decoder")}
    other |= {f"{side}_block_out_channels": sorted(some) for side, some in widths.items() if len(some) > 1}
    if other:
        raise ValueError(f"a tiny autoencoder has {EXPECTED} and one width in all its layers, this config says {other}")
    latent = config.get("latent_channels", 4)
    layers = dict(
        encoder=_encoder(config.get("num_encoder_blocks", (1, 3, 3, 3)), *widths["encoder"], latent),
        decoder=_decoder(config.get("num_decoder_blocks", (3, 3, 3, 1)), *widths["decoder"], latent),
    )
    shapes, entries = {}, []
    for side, found in layers.items():
        for number, name, shape in found:
            ours = f"{side}/{number}.{name}"
            shapes[ours] = jax.ShapeDtypeStruct(shape, jnp.float32)
            entries.append(same(ours, _theirs(side, number, name, generation)))
    network = Network(apply=None, config=dict(config))
    return Model(network, shapes, entries, frozenset(), both_ways(_encode, _decode))


def _theirs(side: str, number: int, name: str, generation: str) -> str:
    if generation == "diffusers":
        return f"{side}.layers.{number}.{name}"
    return f"{side}.{number + (side == 'decoder')}.{name}"


def _encoder(blocks, width: int, latent: int) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """(number, name, shape) of each tensor."""
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
    number = 2  # a relu is between
    for level, count in enumerate(blocks):
        last = level == len(blocks) - 1
        for i in range(count):
            yield from _block(number + i, width)
        number += count + (not last)  # the doubling has a number
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


KIND = Kind(model, generation, ("diffusers", "original"))
