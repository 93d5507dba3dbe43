"""What a codec is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Float


class Posterior(NamedTuple):
    """Mean and standard deviation of the latents of a clip, (b, f, h, w, c) each; std None when exact."""

    mean: Float[Array, "b f h w c"]
    std: Float[Array, "b f h w c"] | None = None


@dataclass(frozen=True)
class Codec:
    """An autoencoder as pure functions.

    Attributes:
      encode: `(params, video uint8 (b, f, h, w, 3)) -> Posterior`.
      decode: `(params, latents) -> video uint8`.
      latent_shape: `(f, h, w) -> (f', h', w', c)`; a ValueError for a size that cannot be encoded.
      valid_frames: whether a number of frames can be encoded.
      range: what decoded latents are clamped to when they are fed back, or None.
      params: its parameters, None where it has none.
      posterior: whether `encode` gives a standard deviation.
    """

    encode: Callable[[Any, Array], Posterior]
    decode: Callable[[Any, Array], Array]
    latent_shape: Callable[[tuple], tuple]
    valid_frames: Callable[[int], bool]
    range: tuple[float, float] | None = None
    params: Any = None
    posterior: bool = False
