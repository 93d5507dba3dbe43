"""Couplings: which past is joined to which future before a path runs between them.

A coupling is `(past, future, key) -> (x0, x1)`; both arguments are (b, f, h, w, c), and row i of
`past` is what came before row i of `future`. `past` may be a tree of such arrays, which stay together.

    consecutive     the pairs of the video itself, P(X0, X1) of Bi-flow, section 2.1; the "inherent" one of FlowFrames
    independent     past and future from different videos, the product of the two marginals
    minibatch_ot    the optimal pairs of the (global) batch (Pooladian et al., arXiv 2304.14772; Tong et al., arXiv 2302.00482)

Which pairs are optimal for a cost C (n, n) is a plan P, with uniform marginals,

    min_P sum_ij P_ij C_ij,   P 1 = P^T 1 = 1 / n                                              (1)

whose vertices are the permutations over n, so that one of them attains it (Birkhoff and von Neumann).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key
from optax.assignment import hungarian_algorithm
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

Frames = Float[Array, "b f h w c"]
Coupling = Callable[[Frames, Frames, Key[Array, ""]], tuple[Frames, Frames]]

EXACT = 64
"""Rows of a batch up to which `minibatch_ot` is exact."""
REGULARISATION = 0.05
"""Of Sinkhorn's plans, in mean costs."""


def consecutive(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to its own past. `key` is not used."""
    del key
    return past, future


def independent(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to the past of a random row of the (global) batch, a permutation of it."""
    return _rows(past, jax.random.permutation(key, len(future))), future


def minibatch_ot(past: Frames, future: Frames, key: Key[Array, ""]) -> tuple[Frames, Frames]:
    """Joins each future to the past that the optimal plan (1) of the batch gives it; the cost is the mean squared distance.

    Under jit, over all rows of the global batch. Up to `EXACT` rows the plan is exact, a permutation; beyond, each past is drawn
    from the plan of Sinkhorn's algorithm with entropy `REGULARISATION`, and may come twice.
    """
    first = jax.tree.leaves(past)[0]
    cost = costs(first[:, -future.shape[1] :], future)
    if len(cost) <= EXACT:
        rows, columns = hungarian_algorithm(cost)
        partner = jnp.zeros(len(cost), int).at[columns].set(rows)
    else:
        partner = jax.random.categorical(key, jnp.log(sinkhorn_plan(cost)), axis=0)
    return _rows(past, partner), future


def costs(a: Frames, b: Frames) -> Float[Array, "n n"]:
    """The mean squared distance of each row of `a` from each row of `b`."""
    a, b = (rearrange(x, "b ... -> b (...)").astype(jnp.float32) for x in (a, b))
    product = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum((a**2).sum(1)[:, None] - 2 * product + (b**2).sum(1)[None], 0) / a.shape[1]


def sinkhorn_plan(cost: Float[Array, "n n"], regularisation: float = REGULARISATION) -> Float[Array, "n n"]:
    """The plan of (1) with the entropy penalty `regularisation` mean(cost), by ott-jax, which is loaded here alone."""
    try:
        from ott.geometry.geometry import Geometry
        from ott.solvers.linear import solve
    except ImportError as error:
        raise ValueError(f"optimal plans of more than {EXACT} rows need ott-jax: pip install 'jvflow[ot]', or use a smaller batch") from error
    with jax.numpy_rank_promotion("allow"):  # it promotes, wherever its caller forbids that
        return solve(Geometry(cost_matrix=cost, epsilon=regularisation * jnp.mean(cost))).matrix


def _rows(tree, index: Int[Array, "b"]):
    return jax.tree.map(lambda a: a[index], tree)


COUPLINGS = {"consecutive": consecutive, "independent": independent, "minibatch_ot": minibatch_ot}


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
