"""Couplings: which past is joined to which future before a path runs between them.

A coupling is `(past, future, key) -> (x0, x1)`; both arguments are (b, f, h, w, c), and row i of
`past` is what came before row i of `future`.

    consecutive     the pairs of the video itself, P(X0, X1) of Bi-flow, section 2.1
    independent     past and future from different videos, the product of the two marginals
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key

Frames = Float[Array, "b f h w c"]
Coupling = Callable[[Frames, Frames, Key[Array, ""]], tuple[Frames, Frames]]


def consecutive(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to its own past. `key` is not used."""
    del key
    return past, future


def independent(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to the past of a random row of the (global) batch, a permutation of it."""
    return past[jax.random.permutation(key, len(past))], future
