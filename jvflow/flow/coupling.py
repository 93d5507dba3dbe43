"""Couplings: they pair each future of a batch with a past, before a path runs between the two.

A coupling is `(past, future, key) -> (x0, x1)`. `future` is (b, f, h, w, c); `past` is such an array too, or a tree of
arrays with b rows each, whose rows stay together. Row i of `past` comes before row i of `future` in the same video.

    consecutive     keeps the pairs of the video, P(X0, X1) of Bi-flow, section 2.1; FlowFrames' "inherent" coupling
    independent     pairs past and future of different videos: the product of the two marginals
    minibatch_ot    forms the optimal pairs of the (global) batch (Pooladian et al., arXiv 2304.14772; Tong et al.,
                    arXiv 2302.00482)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from optax.assignment import hungarian_algorithm

from jvflow.flow.transport import ot_plan, pairwise_costs, sinkhorn_plan

__all__ = ["COUPLINGS", "MAX_EXACT_ROWS", "choose", "consecutive", "independent", "minibatch_ot", "ot_plan"]

Frames = Float[Array, "b f h w c"]

MAX_EXACT_ROWS = 64
"""`minibatch_ot` is exact for batches of up to this many rows."""


def consecutive(past: Any, future: Frames, key: Key[Array, ""]) -> tuple[Any, Frames]:
    """Pairs each future with its own past. `key` is not used."""
    del key
    return past, future


def independent(past: Any, future: Frames, key: Key[Array, ""]) -> tuple[Any, Frames]:
    """Pairs each future with the past of a random row: permutes the pasts of the (global) batch."""
    return _take(past, jax.random.permutation(key, len(future))), future


def minibatch_ot(past: Any, future: Frames, key: Key[Array, ""]) -> tuple[Any, Frames]:
    """Pairs each future with a past by an optimal plan, see `transport`; the cost is the mean squared distance.

    The cost compares the first array of `past` (its last f frames) with `future`. Under jit the plan covers all rows
    of the global batch. Up to `MAX_EXACT_ROWS` rows the plan is exact, a permutation. For more rows the function draws
    each past from Sinkhorn's plan, and may draw one past twice.
    """
    first = jax.tree.leaves(past)[0]
    cost = pairwise_costs(first[:, -future.shape[1] :], future)
    if len(cost) <= MAX_EXACT_ROWS:
        rows, columns = hungarian_algorithm(cost)
        partner = jnp.zeros(len(cost), int).at[columns].set(rows)
    else:
        partner = jax.random.categorical(key, jnp.log(sinkhorn_plan(cost)), axis=0)
    return _take(past, partner), future


def _take(tree, rows: Int[Array, "b"]):
    return jax.tree.map(lambda a: a[rows], tree)


COUPLINGS = {"consecutive": consecutive, "independent": independent, "minibatch_ot": minibatch_ot}


def choose(name: str, microbatches: int = 1) -> Callable:
    """Returns the coupling `name`; raises ValueError if it needs a whole batch, and the batch has several parts."""
    if name not in COUPLINGS:
        raise ValueError(f"unknown coupling {name!r}: use one of {', '.join(COUPLINGS)}")
    if microbatches > 1 and name == "minibatch_ot":
        raise ValueError(
            f"coupling 'minibatch_ot' pairs the rows of a whole batch, which config.run.microbatches={microbatches} "
            "splits: use 1, or another coupling"
        )
    return COUPLINGS[name]
