"""Distances between two sets of features, with the interval and the bias that the number of samples gives them.

    Frechet    of two Gaussians, from samples: |m1 - m2|^2 + tr C1 + tr C2 - 2 |X1 X2^T|_* / sqrt(c1 c2)       (1)
               X the centred rows, c = n - ddof, |.|_* the sum of singular values
    kernel     unbiased MMD^2 with k(x, y) = (x . y / d + 1)^3; its name is KVD with the features of FVD       (2)
    infinity   Frechet over subsets of sizes n, fitted as a + b (1 / n1 + 1 / n2); the value is a              (3)
               (Chong and Forsyth, arXiv 1911.07023)
    interval   value + quantiles of (bootstrap - mean of bootstrap); whole videos are drawn                    (4)

(1) grows as samples get fewer. A bootstrap sample repeats rows, so its values are larger by about that bias; (4) takes
their spread around their own mean. The interval tells how far the value moves with other samples of the same number.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Num

from jvflow.metrics.frechet import frechet_distance
from jvflow.metrics.sums import FeatureSums

DRAWS, COVERAGE = 200, 0.95
"""Bootstrap samples, and the share of values inside the interval."""
BLOCK = 1024
"""Rows of a kernel matrix that are held at a time."""
SIZES = 8
"""Sizes of subsets in (3)."""

Rows, Others = Num[np.ndarray, "n d"], Num[np.ndarray, "m d"]


def frechet_of_rows(first: Rows, second: Others, *, ddof: int = 1, precision: str = "float64") -> float:
    """Returns the Frechet distance (1) of two samples; raises ValueError for fewer than two rows.

    With few rows (1) is exact, where the roots of rank-deficient covariances carry rounding errors.
    """
    dtype = np.dtype(precision)
    first, second = np.asarray(first, dtype), np.asarray(second, dtype)
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"a Frechet distance needs at least 2 clips in each set, got {len(first)} and {len(second)}: "
            "use more or longer videos"
        )
    means = first.mean(0), second.mean(0)
    x, y = ((rows - mean) / np.sqrt(dtype.type(len(rows) - ddof)) for rows, mean in zip((first, second), means))
    width = first.shape[1]
    if min(len(x), len(y)) >= width and precision == "float64":
        return frechet_distance(means[0], x.T @ x, means[1], y.T @ y)
    # tr (C1 C2)^(1/2) = |x y^T|_*; R of a QR decomposition has the same products as x, and at most d rows
    x, y = (np.linalg.qr(rows, mode="r") if len(rows) > width else rows for rows in (x, y))
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    spread = np.square(x).sum() + np.square(y).sum()
    return max(float(np.square(means[0] - means[1]).sum() + spread - 2 * overlap), 0.0)


def frechet(first: FeatureSums, second: FeatureSums, *, ddof: int = 1, precision: str = "float64") -> float:
    """Returns the Frechet distance of all features.

    It comes from the rows if the samples hold all of them and fewer than twice their width, or for float32, whose code
    bases compute so; otherwise from the sums.
    """
    sets = (first, second)
    if any(each.moments.count < 2 for each in sets):
        counts = " and ".join(str(each.moments.count) for each in sets)
        raise ValueError(f"a Frechet distance needs at least 2 clips in each set, got {counts}: use more videos")
    complete = all(each.moments.count == len(each.rows) for each in sets)
    few = min(each.moments.count for each in sets) < 2 * len(first.moments.mean)
    if complete and (few or precision == "float32"):
        return frechet_of_rows(first.rows, second.rows, ddof=ddof, precision=precision)
    if precision == "float32":
        raise ValueError(f"precision float32 needs all features, and only {first.kept:,} of each set are kept")
    moments = [(each.moments.mean, each.moments.covariance(ddof)) for each in sets]
    return frechet_distance(*moments[0], *moments[1])


def kernel_distance(first: Rows, second: Others) -> float:
    """Returns the kernel distance (2); it may be negative, because it is unbiased."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    n, m = len(first), len(second)
    if min(n, m) < 2:
        raise ValueError(f"a kernel distance needs at least 2 clips in each set, got {n} and {m}: use more videos")
    own = lambda rows: (_kernel_sum(rows, rows) - _kernel_diagonal(rows)) / (len(rows) * (len(rows) - 1))
    return float(own(first) + own(second) - 2 * _kernel_sum(first, second) / (n * m))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    blocks = (a[i : i + BLOCK] @ b.T for i in range(0, len(a), BLOCK))
    return float(sum(((block / a.shape[1] + 1) ** 3).sum() for block in blocks))


def _kernel_diagonal(rows: np.ndarray) -> float:
    return float(((np.square(rows).sum(1) / rows.shape[1] + 1) ** 3).sum())


def _by_group(groups: Int[np.ndarray, "n"]) -> list[np.ndarray]:
    """Returns the rows of each video."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def bootstrap(
    value: float,
    first: FeatureSums,
    second: FeatureSums,
    distance: Callable[[np.ndarray, np.ndarray], float],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict:
    """Returns the interval (4) of a distance of two samples.

    Returns:
      `low` and `high`; `standard_error`; `shift`: the mean of the bootstrap values minus the value, an estimate of the
      upward bias; `draws`; `videos`: the numbers of videos that were drawn from.
    """
    return interval_of(value, *bootstrap_values(first, second, distance, seed=seed, draws=draws))


def bootstrap_values(
    first: FeatureSums, second: FeatureSums, distance: Callable, *, seed: int = 0, draws: int = DRAWS
) -> tuple[np.ndarray, list[int]]:
    """Returns `distance(rows, rows)` of each bootstrap sample (draws, ...), and the numbers of videos drawn from.

    The samples depend on the seed and the videos alone: distances that share a call, or a seed, share their samples.
    """
    random, values = np.random.default_rng(seed), []
    parts = [(each.rows, _by_group(each.groups)) for each in (first, second)]
    for _ in range(draws):
        drawn = []
        for rows, videos in parts:
            chosen = random.integers(0, len(videos), len(videos))
            drawn.append(rows[np.concatenate([videos[i] for i in chosen])])
        if min(map(len, drawn)) > 1:
            values.append(distance(*drawn))
    return np.asarray(values), [len(videos) for _, videos in parts]


def interval_of(value: float, values: Float[np.ndarray, "draws"], videos: list[int]) -> dict:
    """Returns the interval (4) of a value from its bootstrap values; see `bootstrap`."""
    spread = values - values.mean()
    low, high = np.quantile(spread, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return dict(
        low=float(value + low),
        high=float(value + high),
        coverage=COVERAGE,
        standard_error=float(spread.std(ddof=1)),
        shift=float(values.mean() - value),
        draws=len(values),
        videos=videos,
    )


def mean_of_videos(values: list[float], *, seed: int = 0) -> dict:
    """Returns `value`, the mean of one value for each video, and its `interval` as in `bootstrap`.

    A mean has no bias, so that the interval is that of the bootstrap values themselves and stays in their range.
    """
    if not len(values):
        raise ValueError("a mean over videos needs at least one video, got none")
    values = np.asarray(values, np.float64)
    drawn = values[np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))].mean(1)
    interval = interval_of(float(drawn.mean()), drawn, [len(values)])
    del interval["shift"]
    return dict(value=float(values.mean()), interval=interval)


def extrapolate(
    first: FeatureSums, second: FeatureSums, distance: Callable[[np.ndarray, np.ndarray], float], *, seed: int = 0
) -> dict | None:
    """Returns the distance (3) at infinitely many samples, and its standard error; None for fewer than 40 clips.

    The subsets have from half to all of the rows; rows of one video are drawn independently.
    """
    random = np.random.default_rng(seed)
    counts = np.array([len(first.rows), len(second.rows)])
    if counts.min() < 40:
        return None
    places, values = [], []
    for share in np.linspace(0.5, 1.0, SIZES):
        sizes = np.round(share * counts).astype(int)
        subsets = [rows[random.permutation(len(rows))[:size]] for rows, size in zip((first.rows, second.rows), sizes)]
        places.append((1 / sizes).sum())
        values.append(distance(*subsets))
    columns = np.stack([np.ones(len(places)), places], axis=1)
    found, residual, *_ = np.linalg.lstsq(columns, np.asarray(values), rcond=None)
    noise = float(residual[0]) / (len(values) - 2) if len(residual) else 0.0
    error = np.sqrt(noise * np.linalg.inv(columns.T @ columns)[0, 0])
    return dict(value=float(found[0]), standard_error=float(error))


def overlap(first: dict, second: dict) -> bool:
    """Returns whether two intervals (`bootstrap`) have values in common: then the order of the two is not certain."""
    return first["low"] <= second["high"] and second["low"] <= first["high"]
