"""The Frechet distance between two Gaussians, and between two sets of features.

    d = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))                          (1)

The trace of the root in (1) is the sum of the singular values of C1^(1/2) C2^(1/2). This form never takes the root of
a rounding error of a product, so covariances of any rank are safe. Everything is in float64.
"""

import numpy as np
from jaxtyping import Float


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns the symmetric square root; eigenvalues below 0 are rounding errors and count as 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(
    mean1: Float[np.ndarray, "..."],
    cov1: Float[np.ndarray, "..."],
    mean2: Float[np.ndarray, "..."],
    cov2: Float[np.ndarray, "..."],
) -> float:
    """Returns the squared Frechet distance (1), at least 0, for means (d,) and covariances (d, d)."""
    mean1, cov1, mean2, cov2 = (np.asarray(a, np.float64) for a in (mean1, cov1, mean2, cov2))
    d = mean1.size
    if mean1.shape != (d,) or mean2.shape != (d,) or cov1.shape != (d, d) or cov2.shape != (d, d):
        raise ValueError(
            "means must be (d,) and covariances (d, d) for one d, got "
            f"{mean1.shape}, {cov1.shape} and {mean2.shape}, {cov2.shape}: use one feature map for both sets"
        )
    if not all(np.all(np.isfinite(a)) for a in (mean1, cov1, mean2, cov2)):
        raise ValueError("means and covariances must be finite: clamp the videos to [-1, 1] and drop those with NaN")
    overlap = np.linalg.svd(_root(cov1) @ _root(cov2), compute_uv=False).sum()
    distance = np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * overlap  # (1)
    return max(float(distance), 0.0)


def moments(features: Float[np.ndarray, "n _"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean (d,) and the unbiased covariance (d, d) of features (n, d)."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a covariance needs features (n, d) with n >= 2, got {features.shape}: use more videos")
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def distance(features_a: Float[np.ndarray, "n _"], features_b: Float[np.ndarray, "m _"]) -> float:
    """Returns the Frechet distance (1) between Gaussians fitted to two sets of features.

    It is biased upwards: between two independent samples of one distribution its expectation is at least (1/n + 1/m)
    times the total variance. Compare only distances with the same n and m.
    """
    return frechet_distance(*moments(features_a), *moments(features_b))
