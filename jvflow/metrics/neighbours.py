"""Precision and recall of two sets of features (Kynkaanniemi et al., arXiv 1904.06991).

    r_k(x)      distance from x to its k-th nearest other row of its own set                (1)
    precision   share of generated rows g with |g - x| <= r_k(x) for a real row x           (2)
    recall      share of real rows x with |x - g| <= r_k(g) for a generated row g           (3)

A low precision means that generated videos look unlike real ones; a low recall, that they lack variety. Both depend on
the number of rows.
"""

import numpy as np
import scipy  # loads its parts when they are used
from jaxtyping import Bool, Float, Num

K = 3
"""Neighbours, as in the paper."""
BLOCK = 512
"""Rows whose distances to all others are held at a time."""

Rows, Others = Num[np.ndarray, "n d"], Num[np.ndarray, "m d"]


def precision_recall(generated: Rows, real: Others, k: int = K) -> dict | None:
    """Returns `precision` (2), `recall` (3), `k` and the numbers of `rows`; None if a set has at most k rows."""
    if min(len(generated), len(real)) <= k:
        return None
    return dict(
        precision=float(_covered(generated, real, _radii(real, k)).mean()),
        recall=float(_covered(real, generated, _radii(generated, k)).mean()),
        k=k,
        rows=[len(generated), len(real)],
    )


def _radii(rows: Rows, k: int) -> Float[np.ndarray, "n"]:
    """Returns (1) for each row."""
    found = []
    for begin in range(0, len(rows), BLOCK):
        apart = scipy.spatial.distance.cdist(rows[begin : begin + BLOCK], rows)
        # a row is its own nearest: 0 is at its place, so that the k-th other one is number k from 0
        found.append(np.partition(apart, k, axis=1)[:, k])
    return np.concatenate(found)


def _covered(rows: Rows, others: Others, radii: Float[np.ndarray, "m"]) -> Bool[np.ndarray, "n"]:
    """Returns for each row whether it lies within the radius of one of the others."""
    blocks = (rows[begin : begin + BLOCK] for begin in range(0, len(rows), BLOCK))
    return np.concatenate([(scipy.spatial.distance.cdist(block, others) <= radii[None]).any(1) for block in blocks])
