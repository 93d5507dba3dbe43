"""What a text encoder is."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jvflow.pretrained.lazy import Held

LOG = logging.getLogger(__name__)

Tokens = tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b m"]]


@dataclass(frozen=True)
class TextEncoder:
    """An encoder of captions as functions.

    Attributes:
      tokenize: `captions -> (tokens (b, n), mask (b, m))`, on the host. The mask says which of the m
        embeddings stand for text; an empty caption has none.
      apply: `(params, tokens) -> (b, m, width)`, pure.
      width: of an embedding.
      init: `key -> params` of an encoder that is trained with its network; None for a pretrained one.
      held: the parameters of a pretrained encoder, which stays as it is; they are read when `params` is asked for.
      pure: whether `apply` can be compiled; one that cannot embeds captions before training, see `jvflow.data.latents`.
    """

    tokenize: Callable[[Sequence[str]], Tokens]
    apply: Callable[[Any, Int[Array, "b n"]], Float[Array, "b m d"]]
    width: int
    init: Callable | None = None
    held: Held = field(default_factory=Held)
    pure: bool = True

    @property
    def params(self) -> Any:
        """The parameters of a pretrained encoder; else None."""
        return self.held.get()


@cache
def say_cut(length: int):
    """Logs once that captions are longer than what is read."""
    LOG.warning("captions are cut to the %d tokens that the text encoder reads", length)
