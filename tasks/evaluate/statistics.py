"""Paired, clustered statistics of benchmark answers.

Notation: question i in cluster j has the difference d_i between two methods; n questions, J clusters. Where questions
are independent each is a cluster of its own, and every formula falls back to the textbook's.

- Interval: mean ± t(J-1) · SE with the cluster-robust SE (CR1), Miller 2024, arXiv 2411.00640, section 2.2, with the
  factor J/(J-1) and t quantiles for few clusters (Cameron & Miller 2015, J. Human Resources 50(2), II.B and VI):
  SE² = J/(J-1) · Σ_j (Σ_{i in j} (d_i - mean))² / n².
- Test: sign flips. If the methods do not differ, a cluster's summed difference is as likely to have the other sign;
  p is the share of sign patterns with at least as large an absolute sum (Fisher 1935; Canay, Romano & Shaikh 2017,
  Econometrica 85(3), for clusters). All 2^J patterns where they are few, else seeded draws with (1 + hits)/(1 + draws)
  (Phipson & Smyth 2010).
- McNemar, exact: the same test where every question is a cluster and every difference is -1, 0 or 1.
- Holm 1979: step-down adjustment that holds the family-wise error rate.
- Minimal detectable difference: (t(1 - alpha/2) + t(power)) · SE at J-1 degrees of freedom (Bloom 1995).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Values = Sequence[float] | Floats

CHUNK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its cluster-robust standard error; what cannot be computed is None."""

    value: float
    stderr: float | None
    questions: int
    clusters: int

    def interval(self, confidence: float) -> tuple[float | None, float | None]:
        """Two-sided interval."""
        from scipy.stats import t

        if self.stderr is None:
            return None, None
        half = float(t.ppf((1 + confidence) / 2, self.clusters - 1)) * self.stderr
        return self.value - half, self.value + half

    def detectable(self, alpha: float, power: float) -> float | None:
        """Smallest true difference found with this power; None where no two answers differed, so that none is known."""
        from scipy.stats import t

        if not self.stderr:
            return None
        return float(t.ppf(1 - alpha / 2, self.clusters - 1) + t.ppf(power, self.clusters - 1)) * self.stderr


def estimate(values: Values, clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of `values`; without `clusters` each value is independent.

    Raises:
        ValueError: no values, or not one cluster a value.
    """
    import numpy as np

    if not len(values):
        raise ValueError("no values to take the mean of")
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    sums = cluster_sums(data - mean, clusters)
    count = len(sums)
    stderr = None if count < 2 else math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(data)
    return Estimate(mean, stderr, len(data), count)


def cluster_sums(values: Values, clusters: Sequence[Hashable] | None) -> Floats:
    """Sum of the values of each cluster, in the order of first appearance; the values themselves without clusters.

    Raises:
        ValueError: not one cluster a value.
    """
    import numpy as np

    data: Floats = np.asarray(values, dtype=float)
    if clusters is None:
        return data
    if len(clusters) != len(data):
        raise ValueError(f"{len(data)} values in {len(clusters)} clusters")
    order: dict[Hashable, int] = {}
    index = [order.setdefault(cluster, len(order)) for cluster in clusters]
    sums: Floats = np.bincount(index, weights=data, minlength=len(order)).astype(float)
    return sums


def sign_flip_p(differences: Values, clusters: Sequence[Hashable] | None = None, *, draws: int, seed: int) -> float:
    """Two-sided p of the sign-flip test; exact where there are no more than `draws` sign patterns."""
    import numpy as np

    sums = cluster_sums(differences, clusters)
    sums = sums[sums != 0]
    count = len(sums)
    if not count:
        return 1.0
    observed = abs(float(sums.sum()))
    # sums of equal parts in another order differ in the last digits and must still tie
    threshold = observed - 1e-9 * float(np.abs(sums).sum())
    exact = count <= 62 and 2**count <= draws
    total = 2**count if exact else draws
    random = np.random.default_rng(seed)
    hits = 0
    step = max(1, CHUNK // count)
    for start in range(0, total, step):
        rows = min(step, total - start)
        if exact:
            bits = (np.arange(start, start + rows)[:, None] >> np.arange(count)) & 1
        else:
            bits = random.integers(0, 2, size=(rows, count), dtype=np.int8)
        # flipping half the signs of a sum equals the sum less twice the flipped part
        flipped = float(sums.sum()) - 2 * (bits @ sums)
        hits += int((np.abs(flipped) >= threshold).sum())
    return hits / total if exact else (1 + hits) / (1 + total)


def mcnemar_p(differences: Values) -> float | None:
    """Exact two-sided McNemar test, or None where a difference is not -1, 0 or 1."""
    from scipy.stats import binomtest

    if any(value not in (-1, 0, 1) for value in differences):
        return None
    wins = sum(1 for value in differences if value > 0)
    losses = sum(1 for value in differences if value < 0)
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted
