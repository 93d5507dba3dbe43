"""Text encoders: captions to the tokens that a field is conditioned on.

Strings end on the host: `tokenize` makes arrays of them while batches are read, `apply` embeds those inside a compiled step.
"""

import inspect

from jvflow.text import byte_encoder, clip_text, t5
from jvflow.text.base import TextEncoder

__all__ = ["TextEncoder", "build"]


def build(name: str, *, weights: tuple[str, ...] = (), abstract: bool = False, **sizes) -> TextEncoder | None:
    """A text encoder by its name: "bytes" with the sizes of `byte_encoder.BytesConfig`, "clip" or "t5" with two folders, or "none".

    With `abstract` and without weights "t5" has the shapes of the XXL encoder, and embeds nothing.
    """
    if name == "none":
        return None
    makers = dict(bytes=byte_encoder.BytesConfig, clip=clip_text.encoder, t5=t5.encoder)
    if name not in makers:
        raise ValueError(f"unknown text encoder {name!r}: use 'bytes', 'clip', 't5' or 'none'")
    unknown = sorted(sizes.keys() - inspect.signature(makers[name]).parameters.keys())
    if unknown:
        raise ValueError(f"the text encoder {name} has no {', '.join(unknown)}: take config.text.{unknown[0]} out")
    if name == "bytes":
        return byte_encoder.encoder(byte_encoder.BytesConfig(**sizes))
    if name == "t5" and abstract and not weights:
        return t5.abstract(**sizes)
    return makers[name](*weights, **sizes)
