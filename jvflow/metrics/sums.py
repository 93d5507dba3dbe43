"""Means and covariances of any number of features in constant memory, and a sample of the features themselves.

    two parts    n = n1 + n2,   m = m1 + (n2 / n) (m2 - m1)
                 S = S1 + S2 + (n1 n2 / n) (m2 - m1) (m2 - m1)^T            Chan, Golub and LeVeque 1983    (1)

S is the sum of products of deviations from the mean, all in float64. (1) serves batches and processes alike; the result
does not depend on how the features are split, but for rounding. The sample keeps the rows whose hash is lowest, so it
does not depend on the split either. Bootstrap intervals, the kernel distance and the extrapolation use it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

KEPT = 10_000
"""Rows of the sample: 16 MB of float32 for the 400 logits of I3D."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean (d,) and sum of products of deviations (d, d) of features, in float64."""

    count: int
    mean: Float[np.ndarray, "d"]
    products: Float[np.ndarray, "d d"]

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both parts together (1)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"features of {len(self.mean)} and {len(other.mean)} numbers have no common moments")
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + other.count / count * step
        products = self.products + other.products + self.count * other.count / count * np.outer(step, step)
        return Moments(count, mean, products)

    def covariance(self, ddof: int = 1) -> Float[np.ndarray, "d d"]:
        """Returns the covariance; raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 clips, got {self.count}: use more or longer videos")
        return self.products / (self.count - ddof)


def moments_of(features: Num[np.ndarray, "n d"]) -> Moments:
    """Returns the moments of features (n, d)."""
    features = np.asarray(features, np.float64)
    if not len(features):
        width = features.shape[1]
        return Moments(0, np.zeros(width), np.zeros((width, width)))
    mean = features.mean(0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """The moments of all features, and a sample of at most `kept` rows.

    Attributes:
      moments: of all rows.
      rows: the sample in the order of `places`, float32.
      places: the place of each row of the sample in the whole set: any number that no other row has.
      groups: the video of each row of the sample; clips of one video are not independent.
      kept: the largest size of the sample.
    """

    moments: Moments
    rows: Float[np.ndarray, "k d"]
    places: Int[np.ndarray, "k"]
    groups: Int[np.ndarray, "k"]
    kept: int = KEPT

    @classmethod
    def empty(cls, width: int, kept: int = KEPT) -> "FeatureSums":
        """Returns the sums of no features of `width` numbers."""
        none = np.zeros(0, np.int64)
        return cls(moments_of(np.zeros((0, width))), np.zeros((0, width), np.float32), none, none, kept)

    def add(
        self, features: Num[np.ndarray, "n d"], places: Int[np.ndarray, "n"], groups: Int[np.ndarray, "n"]
    ) -> "FeatureSums":
        """Returns the sums with more rows; raises ValueError if a number in them is not finite."""
        features = np.asarray(features)
        check_finite(features)
        part = features.astype(np.float32), np.asarray(places, np.int64), np.asarray(groups, np.int64)
        return self.merge(FeatureSums(moments_of(features), *part, self.kept))

    def merge(self, other: "FeatureSums") -> "FeatureSums":
        """Returns the sums of both parts, such as those of two processes."""
        rows, places, groups = (
            np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("rows", "places", "groups")
        )
        if len(rows) > self.kept:
            chosen = np.argpartition(_hash(places), self.kept)[: self.kept]
            rows, places, groups = rows[chosen], places[chosen], groups[chosen]
        order = np.argsort(places, kind="stable")
        return FeatureSums(self.moments.merge(other.moments), rows[order], places[order], groups[order], self.kept)


def check_finite(features: Num[np.ndarray, "n d"]) -> None:
    """Raises ValueError if a number in features is not finite."""
    if not np.all(np.isfinite(features)):
        raise ValueError("features are not finite: the videos hold NaN or infinity; drop them")


def _hash(places: Int[np.ndarray, "n"]) -> np.ndarray:
    """Returns a number for each place that looks random (the finaliser of splitmix64)."""
    x = places.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
