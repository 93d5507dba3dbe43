"""Codecs: uint8 video to what a flow is learned on, and back.

A codec is four pure functions. Its parameters, where it has any, are the first argument.
"""

from jvflow.codecs import pixels, stable_diffusion, tiny
from jvflow.codecs.base import Codec, Posterior

__all__ = ["Codec", "Posterior", "build"]


def build(name: str, *, weights: tuple[str, ...] = (), scale: float = 1.0) -> Codec:
    """A codec by its name: "pixels"; "tiny" with the files of its weights, or "stable_diffusion" with its folder, and the size of latents."""
    if name == "pixels":
        return pixels.codec()
    if name == "tiny":
        return tiny.codec(*weights, scale=scale)
    if name == "stable_diffusion":
        return stable_diffusion.codec(*weights, scale=scale)
    raise ValueError(f"unknown codec {name!r}: use 'pixels', 'tiny' or 'stable_diffusion'")
