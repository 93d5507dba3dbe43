"""Optimal transport between two sets of n points with uniform marginals.

A plan P (n, n) is optimal for a cost C (n, n) when it attains

    min_P sum_ij P_ij C_ij,   P 1 = P^T 1 = 1 / n                                              (1)

The vertices of the set of plans are permutation matrices over n, so one of these is optimal (Birkhoff, von Neumann).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # loads its parts when they are used
from einops import rearrange
from jaxtyping import Array, Bool, Float, Num

REGULARISATION = 0.05
"""Entropy penalty of Sinkhorn's plans, in units of the mean cost."""


def pairwise_costs(a: Float[Array, "n ..."], b: Float[Array, "n ..."]) -> Float[Array, "n n"]:
    """Returns the mean squared distance of each row of `a` to each row of `b`, in float32."""
    a, b = (rearrange(x, "b ... -> b (...)").astype(jnp.float32) for x in (a, b))
    product = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum((a**2).sum(1)[:, None] - 2 * product + (b**2).sum(1)[None], 0) / a.shape[1]


def sinkhorn_plan(cost: Float[Array, "n n"], regularisation: float = REGULARISATION) -> Float[Array, "n n"]:
    """Solves (1) with the entropy penalty `regularisation` mean(cost), by Sinkhorn's algorithm.

    Raises:
      ValueError: if ott-jax is not installed; no other function needs it.
    """
    try:
        from ott.geometry.geometry import Geometry
        from ott.solvers.linear import solve
    except ImportError as error:
        raise ValueError("Sinkhorn's plans need ott-jax: pip install 'jvflow[ot]', or use a smaller batch") from error
    with jax.numpy_rank_promotion("allow"):  # ott-jax promotes ranks; allow it even if the caller forbids it
        epsilon = regularisation * jnp.mean(cost)
        return solve(Geometry(cost_matrix=cost, epsilon=epsilon)).matrix  # pyright: ignore[reportArgumentType]


def ot_plan(
    cost: Num[np.ndarray | Array, "i j"],
    mask: Bool[np.ndarray | Array, "k l"] | None = None,
    penalty: float | None = None,
) -> Float[np.ndarray, "n n"]:
    """Solves (1) exactly, on the host in float64. Returns a permutation matrix, divided by n.

    Args:
      cost: the cost of pairing row i with column j, (n, n).
      mask: True where a pair is allowed, (n, n); all pairs when None.
      penalty: if not None, allows the other pairs too, at this additional cost.

    Raises:
      ValueError: if the cost is not square or not finite, or if no plan fits the mask; the message names the rows
        that have no partner.
    """
    cost = np.asarray(cost, np.float64)
    n = len(cost)
    if cost.ndim != 2 or cost.shape != (n, n) or not n:
        raise ValueError(f"a transport plan needs a cost (n, n), got {cost.shape}")
    allowed = np.ones((n, n), bool) if mask is None else np.asarray(mask, bool)
    if allowed.shape != cost.shape:
        raise ValueError(f"the mask has shape {allowed.shape}, but the cost has shape {cost.shape}: use one shape")
    if not np.isfinite(cost[allowed]).all():
        raise ValueError("the cost of an allowed pair is not finite: exclude the pair with the mask")
    if penalty is None:
        matched = scipy.sparse.csgraph.maximum_bipartite_matching(scipy.sparse.csr_array(allowed), perm_type="column")
        if (matched < 0).any():
            rows = np.flatnonzero(matched < 0).tolist()
            raise ValueError(
                f"no plan with uniform marginals fits the mask: rows {rows} are left without a column of their own; "
                "allow more pairs, or give penalty=, the additional cost of the other pairs"
            )
        priced = np.where(allowed, cost, np.inf)
    else:
        priced = np.where(allowed, cost, np.where(np.isfinite(cost), cost, 0.0) + penalty)
    plan = np.zeros((n, n))
    plan[scipy.optimize.linear_sum_assignment(priced)] = 1.0 / n
    return plan
