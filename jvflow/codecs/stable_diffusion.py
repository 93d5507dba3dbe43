"""Stable Diffusion 1.x as a codec, frame by frame, with public weights.

    stable_diffusion          latents of its autoencoder, the mean times the factor that its config names (0.18215), which makes them of about unit size
    stable_diffusion_ddim     the noise that DDIM makes of those latents, and back: the decoder of VLFM (section 6 of its paper)

The second is a bijection up to the accuracy of its steps: each frame is the noise that sampling makes it of. The paper says neither how many steps
nor what guidance.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from jvflow import networks, text
from jvflow.flow import ddim
from jvflow import pretrained
from jvflow.codecs.base import Codec, Posterior, by_image, divided, tiled
from jvflow.flow.ddim import Schedule
from jvflow.flow.field import Condition
from jvflow.pretrained.lazy import Held
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig
from jvflow.networks.unet import UNetConfig

FACTOR = 0.18215
"""Where the config names none."""
SCHEDULER = "scheduler/scheduler_config.json"


def codec(*folders: str | Path, scale: float = 1.0, tile: int = 0) -> Codec:
    """The codec of a folder with config.json and safetensors (see `jvflow.pretrained.load`).

    Args:
      folders: one, of the autoencoder.
      scale: latents are divided by it besides.
      tile: pixels, a multiple of the reduction: larger frames are taken apart into tiles of so many, see `base.tiled`. 0: each frame whole.
    """
    if len(folders) != 1:
        raise ValueError(f"the codec stable_diffusion takes one folder as config.codec.weights, such as ('stable-diffusion-v1-5/vae',), got {folders}")
    sizes = pretrained.look(folders[0]).network.config
    if not isinstance(sizes, KLConfig):
        raise ValueError(f"{folders[0]} holds no autoencoder: give the folder vae of the model")
    network = networks.functional(Autoencoder, sizes)  # in our layout
    factor = json.loads((Path(folders[0]) / pretrained.CONFIG).read_text()).get("scaling_factor", FACTOR) / scale
    reduction = 2 ** (len(network.config.channels) - 1)
    if tile % (4 * reduction):
        raise ValueError(f"config.codec.tile is {tile}: tiles are multiples of {4 * reduction} pixels, four times the reduction of the autoencoder")
    options = dict(factor=factor, tile=tile, reduction=reduction)
    return Codec(
        encode=jax.jit(partial(_encode, network.apply, **options)),
        decode=jax.jit(partial(_decode, network.apply, **options)),
        latent_shape=divided(reduction, network.config.latent),
        valid_frames=lambda frames: frames >= 1,
        held=Held(lambda: pretrained.load(folders[0], dtype=jnp.float32).params),
        posterior=True,
    )


def _encode(apply, params, video: UInt8[Array, "b f h w 3"], *, factor: float, tile: int, reduction: int) -> Posterior:
    def one(images):
        moments = lambda images: jnp.concatenate(apply(params, images.astype(jnp.float32) / 127.5 - 1, method="encode"), axis=-1)
        mean, log_variance = jnp.split(tiled(moments, images, tile, 1 / reduction), 2, axis=-1)
        return mean * factor, jnp.exp(log_variance / 2) * factor

    made = by_image(one, rearrange(video, "b f h w c -> (b f) h w c"), video.shape[2] * video.shape[3])
    return Posterior(*(rearrange(a, "(b f) h w c -> b f h w c", b=len(video)) for a in made))


def _decode(apply, params, latents: Float[Array, "b f h w c"], *, factor: float, tile: int, reduction: int) -> UInt8[Array, "b f h w 3"]:
    def one(some):
        image = tiled(lambda latents: apply(params, latents / factor, method="decode"), some, tile // reduction, reduction)
        return jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8)

    made = by_image(one, rearrange(latents, "b f h w c -> (b f) h w c"), reduction**2 * latents.shape[2] * latents.shape[3])
    return rearrange(made, "(b f) h w c -> b f h w c", b=len(latents))


# --- DDIM -----------------------------------------------------------------------------------------


def inverting(*folders: str | Path, scale: float = 1.0, tile: int = 0, steps: int = 50, guidance: float = 1.0, prompt: str = "") -> Codec:
    """The codec of a whole model: encoding inverts the latents of each frame to noise, decoding samples them from it.

    Args:
      folders: one, of the model as the public hubs lay it out, with vae, unet, text_encoder, tokenizer and scheduler in it.
      scale, tile: as of `codec`; noise has unit size.
      steps: of DDIM, each way; each is one evaluation of the U-Net, two with guidance.
      guidance: of sampling, and of inversion too, which undo each other less the larger it is; 1 is none.
      prompt: what all frames are said to show.
    """
    if len(folders) != 1 or not (Path(folders[0]) / SCHEDULER).is_file():
        raise ValueError(f"the codec stable_diffusion_ddim takes the folder of a whole model as config.codec.weights, with {SCHEDULER} in it, got {folders}")
    folder = Path(folders[0])
    schedule = Schedule.of(json.loads((folder / SCHEDULER).read_text()))
    schedule.moves(steps)  # a number of steps that does not fit is said here
    inner = codec(folder / "vae", tile=tile)
    unet = pretrained.look(folder / "unet")
    if not isinstance(unet.network.config, UNetConfig) or not unet.network.config.text_width:
        raise ValueError(f"{folder / 'unet'} holds no U-Net of Stable Diffusion")
    encoder = text.build("clip", weights=(folder / "text_encoder", folder / "tokenizer"))
    if encoder.width != unet.network.config.text_width:
        raise ValueError(f"the text encoder in {folder} has width {encoder.width}, its U-Net takes {unet.network.config.text_width}: they are of two models")

    def read() -> dict:
        embedded = encoder.apply(encoder.held.read(), encoder.tokenize(["", prompt])[0])
        return dict(vae=inner.held.read(), unet=pretrained.load(folder / "unet", dtype=jnp.float32).params, text=embedded)

    solve = partial(_solved, unet.field, schedule=schedule, steps=steps, guidance=guidance)
    return Codec(
        encode=jax.jit(partial(_inverted, inner.encode, solve, scale=scale)),
        decode=jax.jit(partial(_sampled, inner.decode, solve, scale=scale)),
        latent_shape=inner.latent_shape,
        valid_frames=inner.valid_frames,
        held=Held(read),
    )


def _inverted(encode: Callable, solve: Callable, params, video: UInt8[Array, "b f h w 3"], *, scale: float) -> Posterior:
    return Posterior(solve(ddim.invert, params, encode(params["vae"], video).mean) / scale)


def _sampled(decode: Callable, solve: Callable, params, latents: Float[Array, "b f h w c"], *, scale: float) -> UInt8[Array, "b f h w 3"]:
    return decode(params["vae"], solve(ddim.sample, params, latents * scale))


def _solved(apply: Callable, way: Callable, params, latents, *, schedule: Schedule, steps: int, guidance: float):
    """`ddim.sample` or `ddim.invert` of each frame, some frames at a time."""
    predict = jax.tree_util.Partial(partial(_said, apply, guidance), params["unet"], params["text"])
    frames = rearrange(latents, "b f h w c -> (b f) h w c")
    made = by_image(lambda some: way(predict, some, schedule, steps=steps), frames, 64 * latents.shape[2] * latents.shape[3])
    return rearrange(made, "(b f) h w c -> b f h w c", b=len(latents))


def _said(apply, guidance: float, unet, texts, x, t):
    """What the U-Net says of latents under the prompt, guided away from what it says under the empty one; `texts` are those two, embedded."""
    under = lambda text: apply(unet, x[:, None], (t,), Condition(text=jnp.broadcast_to(text[None], (len(x), *text.shape))))[0][:, 0]
    empty, prompt = texts
    if guidance == 1:
        return under(prompt)
    away = under(empty)
    return away + guidance * (under(prompt) - away)
