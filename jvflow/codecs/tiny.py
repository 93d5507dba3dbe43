"""The TAESD family as codecs of single frames: `jvflow.networks.taesd` with the original files or diffusers' files."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from jvflow import pretrained
from jvflow.codecs import Codec, Posterior
from jvflow.codecs.tiling import image_latent_shape, map_images
from jvflow.networks.taesd import Tensors, decode, encode, layers
from jvflow.pretrained import KINDS, LazyParams, hub
from jvflow.pretrained.folder import PICKLES, SAFETENSORS
from jvflow.pretrained.sources import open_tensors


def build(*files: str | Path, scale: float = 1.0) -> Codec:
    """Returns the codec of an autoencoder of the family.

    Args:
      files: one file whose tensor names begin with `encoder.` and `decoder.`, or one file for each half; or one folder
        with the files of diffusers or with both halves. Files are safetensors or of PyTorch.
      scale: latents are divided by it, so that they have about unit variance.

    Raises:
      ValueError: if the tensors are no autoencoder of the family, or encoder and decoder do not fit each other.
    """
    params = _read(files)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    try:
        latent = jax.eval_shape(encode, params["encoder"], image)
        decoded = jax.eval_shape(decode, params["decoder"], latent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the tensors of {', '.join(map(str, files))} do not fit one another: {error}") from error
    if decoded.shape != image.shape:
        raise ValueError(
            f"{', '.join(map(str, files))}: the decoder returns images {decoded.shape} for encoded images {image.shape}"
        )
    factor = image.shape[1] // latent.shape[1]
    return Codec(
        encode=jax.jit(partial(_encode_video, scale=scale)),
        decode=jax.jit(partial(_decode_video, scale=scale)),
        latent_shape=image_latent_shape(factor, latent.shape[-1]),
        valid_frames=lambda frames: frames >= 1,
        lazy=LazyParams(partial(_read, files)),
    )


def _encode_video(params, video: UInt8[Array, "b f h w 3"], *, scale: float) -> Posterior:
    images, pixels = rearrange(video, "b f h w c -> (b f) h w c"), video.shape[2] * video.shape[3]
    latents = map_images(lambda images: encode(params["encoder"], images.astype(jnp.float32) / 255), images, pixels)
    return Posterior(rearrange(latents / scale, "(b f) h w c -> b f h w c", b=len(video)))


def _decode_video(params, latents: Float[Array, "b f h w c"], *, scale: float) -> UInt8[Array, "b f _ _ 3"]:
    def to_uint8(latents):
        images = decode(params["decoder"], latents * scale)
        return jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)

    pixels = 64 * latents.shape[2] * latents.shape[3]
    images = map_images(to_uint8, rearrange(latents, "b f h w c -> (b f) h w c"), pixels)
    return rearrange(images, "(b f) h w c -> b f h w c", b=len(latents))


# --- tensors --------------------------------------------------------------------------------------


def _read(files: Sequence[str | Path]) -> dict[str, Tensors]:
    """Reads the tensors of encoder and decoder in float32, under their names without prefixes."""
    params = {}
    for file, opened in _open(files):
        tensors = {name: np.asarray(tensor, np.float32) for name, tensor in opened.items()}
        for name, tensor in tensors.items():
            half, _, rest = name.partition(".")
            if half not in ("encoder", "decoder"):
                half, rest = _half(tensors, file), name
            params.setdefault(half, {})[rest.removeprefix("layers.")] = jnp.asarray(tensor)
    for half in ("encoder", "decoder"):
        if half not in params:
            read = f"in {', '.join(map(str, files))}" if files else "because config.codec.checkpoint is empty"
            raise ValueError(f"no tensors of the {half} {read}: give both files, or one that holds both")
    return params


def _open(files: Sequence[str | Path]) -> list[tuple[str | Path, Mapping]]:
    """Returns each file and its tensors, not read yet; the files of a folder if one folder is given."""
    if len(files) != 1 or not (folder := hub.fetch(files[0], KINDS["taesd"].file)).is_dir():
        return [(file, open_tensors(file)) for file in files]
    for suffixes in (SAFETENSORS, PICKLES):
        found = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
        pair = [[path for path in found if path.stem.endswith(f"_{half}")] for half in ("encoder", "decoder")]
        if not (folder / pretrained.CONFIG).is_file() and all(len(halves) == 1 for halves in pair):
            return [(halves[0], open_tensors(halves[0])) for halves in pair]
    kind, config, tensors = pretrained.open_folder(folder, "taesd")
    if kind != "taesd":
        raise ValueError(f"{files[0]} holds a {kind}, no autoencoder of the TAESD family")
    KINDS["taesd"].model(config, "diffusers")  # raises ValueError for another config
    return [(files[0], tensors)]


def _half(tensors: Mapping, file) -> str:
    """Returns which half a file without prefixes holds: the encoder takes 3 channels, the decoder returns 3."""
    try:
        found = [layer for layer, _ in layers(tensors)]
        if found[0]["weight"].shape[1] == 3:
            return "encoder"
        if found[-1]["weight"].shape[0] == 3:
            return "decoder"
    except (ValueError, KeyError, IndexError):
        pass
    raise ValueError(
        f"{file} holds no autoencoder of the TAESD family: its tensors are {', '.join(sorted(tensors)[:4])}, ..."
    )
