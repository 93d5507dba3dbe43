"""Couplings: which past is joined to which future before a path runs between them.

A coupling is `(past, future, key) -> (x0, x1)`; both arguments are (b, f, h, w, c), and row i of
`past` is what came before row i of `future`.

    consecutive     the pairs of the video itself, P(X0, X1) of Bi-flow, section 2.1
    independent     past and future from different videos, the product of the two marginals

Which pairs are optimal for a cost C (n, n) is a plan P, with uniform marginals,

    min_P sum_ij P_ij C_ij,   P 1 = P^T 1 = 1 / n                                              (1)

whose vertices are the permutations over n, so that one of them attains it (Birkhoff and von Neumann).
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

Frames = Float[Array, "b f h w c"]
Coupling = Callable[[Frames, Frames, Key[Array, ""]], tuple[Frames, Frames]]


def consecutive(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to its own past. `key` is not used."""
    del key
    return past, future


def independent(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to the past of a random row of the (global) batch, a permutation of it."""
    return past[jax.random.permutation(key, len(past))], future


def ot_plan(
    cost: Float[np.ndarray, "n n"], mask: Bool[np.ndarray, "n n"] | None = None, penalty: float | None = None
) -> Float[np.ndarray, "n n"]:
    """The optimal plan (1) of a cost, exactly: a permutation matrix over n. On the host, in float64.

    Args:
      cost: of joining row i to column j.
      mask: True where a pair is allowed; every pair when None.
      penalty: what a pair that is not allowed costs more, in place of being impossible.

    Raises:
      ValueError: for a cost that is not square or not finite, and for a mask that allows no plan; says which rows
        are left without a partner.
    """
    cost = np.asarray(cost, np.float64)
    n = len(cost)
    if cost.ndim != 2 or cost.shape != (n, n) or not n:
        raise ValueError(f"a plan between n and n needs a cost (n, n), got {cost.shape}")
    allowed = np.ones((n, n), bool) if mask is None else np.asarray(mask, bool)
    if allowed.shape != cost.shape:
        raise ValueError(f"the mask has shape {allowed.shape}, the cost {cost.shape}")
    if not np.isfinite(cost[allowed]).all():
        raise ValueError("the cost of a pair that is allowed is not finite: leave it out with the mask")
    if penalty is None:
        matched = maximum_bipartite_matching(csr_array(allowed), perm_type="column")
        if (matched < 0).any():
            rows = np.flatnonzero(matched < 0).tolist()
            raise ValueError(
                f"no plan with uniform marginals fits the mask: rows {rows} are left without a column of their own; allow more pairs, or give "
                "penalty=, a price for the others (which then decides where they go)"
            )
        priced = np.where(allowed, cost, np.inf)
    else:
        priced = np.where(allowed, cost, np.where(np.isfinite(cost), cost, 0.0) + penalty)
    plan = np.zeros((n, n))
    plan[linear_sum_assignment(priced)] = 1.0 / n
    return plan
