"""Codecs: uint8 video to what a flow is learned on, and back.

A codec is four pure functions. Its parameters, where it has any, are the first argument.
"""

import inspect

from jvflow.codecs import pixels, stable_diffusion, tiny, video_vae
from jvflow.codecs.base import Codec, Posterior, decode_chunks, encode_chunks

__all__ = ["Codec", "Posterior", "build", "decode_chunks", "encode_chunks"]

CODECS = {
    "pixels": pixels.codec, "tiny": tiny.codec, "stable_diffusion": stable_diffusion.codec, "stable_diffusion_ddim": stable_diffusion.inverting,
    "ltx_vae": video_vae.ltx, "wan_vae": video_vae.wan,
}


def build(name: str, *, weights: tuple[str, ...] = (), scale: float = 1.0, abstract: bool = False, **options) -> Codec:
    """A codec by its name: a key of `CODECS`, with the files or the folder of its weights, the size of latents, and options of its own.

    With `abstract` and without weights it is that of the public model, where there is one, and knows the shapes of its latents alone.
    """
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}: use one of {', '.join(CODECS)}")
    if name == "pixels":
        return pixels.codec()
    known = inspect.signature(CODECS[name]).parameters
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ValueError(f"the codec {name} has no {', '.join(unknown)}: take config.codec.{unknown[0]} out")
    if abstract and not weights and "abstract" in known:
        options["abstract"] = True
    return CODECS[name](*weights, scale=scale, **options)
