"""Stable Diffusion 1.x as a codec of single frames, with a public checkpoint.

    stable_diffusion          (its autoencoder's mean - shift) factor, with the config's shift (0) and factor (0.18215):
                              about unit variance
    stable_diffusion_ddim     the noise that DDIM inverts these latents to: the decoder of VLFM (section 6 of its paper)

DDIM is a bijection up to the accuracy of its steps. The paper gives neither the number of steps nor the guidance.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from jvflow import networks, pretrained, text
from jvflow.codecs import Codec, Posterior
from jvflow.codecs.tiling import apply_tiled, image_latent_shape, map_images
from jvflow.flow import ddim
from jvflow.flow.ddim import Schedule
from jvflow.flow.field import Condition
from jvflow.networks import precision, unet_field
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig
from jvflow.networks.unet import UNet, UNetConfig
from jvflow.pretrained import LazyParams, hub
from jvflow.pretrained.readers import read_json

KIND = "sd_vae"
SCHEDULER = "scheduler_config.json"


def build(*folders: str | Path, scale: float = 1.0, tile: int = 0, dtype: str = "float32") -> Codec:
    """Returns the codec of an autoencoder.

    Args:
      folders: one folder or file, see `jvflow.pretrained.load`.
      scale: latents are also divided by it.
      tile: side of a tile in pixels, a multiple of four times the reduction of height and width. Larger frames are
        encoded and decoded in tiles, see `tiling.apply_tiled`; 0 for no tiles.
      dtype: dtype of kernels and their products, float32 or bfloat16; norms are float32.
    """
    precision.check_dtype("config.codec.dtype", dtype)
    if len(folders) != 1:
        raise ValueError(
            "the codec stable_diffusion takes one folder as config.codec.checkpoint, "
            f"such as ('stable-diffusion-v1-5/vae',), got {folders}"
        )
    public = pretrained.inspect(folders[0], kind=KIND)
    sizes, settings = public.network.config, public.settings
    if not isinstance(sizes, KLConfig):
        raise ValueError(f"{folders[0]} holds no autoencoder: give the folder vae of the model")
    network = networks.functional(precision.computed_in(Autoencoder, dtype), sizes)  # in our layout
    factor, shift = settings["scaling_factor"] / scale, settings["shift_factor"] or 0.0
    reduction = 2 ** (len(network.config.channels) - 1)
    if tile % (4 * reduction):
        raise ValueError(
            f"config.codec.tile is {tile}: tiles are multiples of {4 * reduction} pixels, "
            "four times the reduction of the autoencoder"
        )
    options = dict(factor=factor, shift=shift, tile=tile, reduction=reduction)
    return Codec(
        encode=jax.jit(partial(_encode, network.apply, **options)),
        decode=jax.jit(partial(_decode, network.apply, **options)),
        latent_shape=image_latent_shape(reduction, network.config.latent),
        valid_frames=lambda frames: frames >= 1,
        lazy=LazyParams(lambda: pretrained.load(folders[0], kind=KIND, dtype=jnp.dtype(dtype)).params),
        posterior=True,
    )


def _encode(
    apply, params, video: UInt8[Array, "b f h w 3"], *, factor: float, shift: float, tile: int, reduction: int
) -> Posterior:
    def moments(images):
        return jnp.concatenate(apply(params, images.astype(jnp.float32) / 127.5 - 1, method="encode"), axis=-1)

    def encode(images):
        mean, log_variance = jnp.split(apply_tiled(moments, images, tile, 1 / reduction), 2, axis=-1)
        return (mean - shift) * factor, jnp.exp(log_variance / 2) * factor

    latents = map_images(encode, rearrange(video, "b f h w c -> (b f) h w c"), video.shape[2] * video.shape[3])
    return Posterior(*(rearrange(a, "(b f) h w c -> b f h w c", b=len(video)) for a in latents))


def _decode(
    apply, params, latents: Float[Array, "b f h w c"], *, factor: float, shift: float, tile: int, reduction: int
) -> UInt8[Array, "b f _ _ 3"]:
    def decode(latents):
        to_image = lambda latents: apply(params, latents / factor + shift, method="decode")
        images = apply_tiled(to_image, latents, tile // reduction, reduction)
        return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5).astype(jnp.uint8)

    pixels = reduction**2 * latents.shape[2] * latents.shape[3]
    images = map_images(decode, rearrange(latents, "b f h w c -> (b f) h w c"), pixels)
    return rearrange(images, "(b f) h w c -> b f h w c", b=len(latents))


# --- DDIM -----------------------------------------------------------------------------------------


def build_ddim(
    *folders: str | Path,
    scale: float = 1.0,
    tile: int = 0,
    dtype: str = "float32",
    steps: int = 50,
    guidance: float = 1.0,
    prompt: str = "",
) -> Codec:
    """Returns the codec of a whole model: `encode` inverts each frame's latents to noise, `decode` samples from noise.

    Args:
      folders: one folder in the layout of the public hubs: vae, unet, text_encoder, tokenizer and scheduler.
      scale, tile, dtype: as in `build`; noise has unit variance.
      steps: DDIM steps in each direction; a step evaluates the U-Net once, or twice with guidance.
      guidance: guidance scale of sampling and inversion; 1 for none. Larger values make the round trip less exact.
      prompt: prompt for all frames.
    """
    scheduler = hub.fetch(hub.join(folders[0], "scheduler")) / SCHEDULER if len(folders) == 1 else None
    if scheduler is None or not scheduler.is_file():
        raise ValueError(
            "the codec stable_diffusion_ddim takes the folder of a whole model as config.codec.checkpoint, "
            f"with scheduler/{SCHEDULER} in it, got {folders}"
        )
    part = partial(hub.join, folders[0])
    schedule = _read_schedule(scheduler)
    schedule.step_table(steps)  # raises ValueError if the number of steps does not fit
    vae = build(part("vae"), tile=tile, dtype=dtype)
    unet = pretrained.inspect(part("unet"), kind="sd_unet")
    if not isinstance(unet.network.config, UNetConfig) or not unet.network.config.text_width:
        raise ValueError(f"{part('unet')} holds no U-Net of Stable Diffusion")
    sizes, channels = unet.network.config, vae.latent_shape((1, 512, 512))[-1]
    if (sizes.inputs, sizes.outputs) != (channels, channels):
        raise ValueError(
            f"{part('unet')} maps {sizes.inputs} channels to {sizes.outputs}, the latents have {channels}: DDIM "
            "inverts models of text alone, not of inpainting or of images"
        )
    encoder = text.build("clip_text", checkpoint=(part("text_encoder"), part("tokenizer")), dtype=dtype)
    if encoder.width != unet.network.config.text_width:
        raise ValueError(
            f"the text encoder in {folders[0]} has width {encoder.width}, its U-Net takes "
            f"{unet.network.config.text_width}: they come from different models"
        )

    def read() -> dict:
        embedded = encoder.apply(encoder.lazy.read(), encoder.tokenize(["", prompt])[0])
        unet_params = pretrained.load(part("unet"), kind="sd_unet", dtype=jnp.dtype(dtype)).params
        return dict(vae=vae.lazy.read(), unet=unet_params, text=embedded)

    field = unet_field.single_unet_field(networks.functional(precision.computed_in(UNet, dtype), unet.network.config))
    solve = partial(_solve_ddim, field, schedule=schedule, steps=steps, guidance=guidance)
    return Codec(
        encode=jax.jit(partial(_invert, vae.encode, solve, scale=scale)),
        decode=jax.jit(partial(_sample, vae.decode, solve, scale=scale)),
        latent_shape=vae.latent_shape,
        valid_frames=vae.valid_frames,
        lazy=LazyParams(read),
    )


def _read_schedule(file: Path) -> Schedule:
    config = read_json(file)
    try:
        return Schedule.from_config(config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _invert(encode: Callable, solve: Callable, params, video: UInt8[Array, "b f h w 3"], *, scale: float) -> Posterior:
    return Posterior(solve(ddim.invert, params, encode(params["vae"], video).mean) / scale)


def _sample(
    decode: Callable, solve: Callable, params, latents: Float[Array, "b f h w c"], *, scale: float
) -> UInt8[Array, "b f _ _ 3"]:
    return decode(params["vae"], solve(ddim.sample, params, latents * scale))


def _solve_ddim(apply: Callable, solver: Callable, params, latents, *, schedule: Schedule, steps: int, guidance: float):
    """Applies `ddim.sample` or `ddim.invert` to each frame, a few frames at a time."""
    predict = jax.tree_util.Partial(partial(_guided, apply, guidance), params["unet"], params["text"])
    frames = rearrange(latents, "b f h w c -> (b f) h w c")
    pixels = 64 * latents.shape[2] * latents.shape[3]
    solved = map_images(lambda frames: solver(predict, frames, schedule, steps=steps), frames, pixels)
    return rearrange(solved, "(b f) h w c -> b f h w c", b=len(latents))


def _guided(apply, guidance: float, unet, texts, x, t):
    """Returns the U-Net's prediction for the prompt, guided away from its prediction for the empty prompt."""

    def predict(text):
        text = jnp.broadcast_to(text[None], (len(x), *text.shape))
        return apply(unet, x[:, None], (t,), Condition(text=text))[0][:, 0]

    empty, prompt = texts
    if guidance == 1:
        return predict(prompt)
    unconditional = predict(empty)
    return unconditional + guidance * (predict(prompt) - unconditional)
