"""Text encoders: captions to the tokens that a field is conditioned on.

Strings end on the host: `tokenize` makes arrays of them while batches are read, `apply` embeds those inside a compiled step.
"""

from jvflow.text import byte_encoder, clip, t5
from jvflow.text.base import TextEncoder

__all__ = ["TextEncoder", "build"]


def build(name: str, *, weights: tuple[str, ...] = (), abstract: bool = False, **sizes) -> TextEncoder | None:
    """A text encoder by its name: "bytes" with the sizes of `byte_encoder.BytesConfig`, "clip" or "t5" with two folders, or "none".

    With `abstract` and without weights "t5" has the shapes of the XXL encoder, and embeds nothing.
    """
    if name == "none":
        return None
    if name == "bytes":
        return byte_encoder.encoder(byte_encoder.BytesConfig(**sizes))
    if name == "clip":
        return clip.encoder(*weights)
    if name == "t5":
        return t5.abstract(**sizes) if abstract and not weights else t5.encoder(*weights, **sizes)
    raise ValueError(f"unknown text encoder {name!r}: use 'bytes', 'clip', 't5' or 'none'")
