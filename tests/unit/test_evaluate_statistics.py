"""The statistics, against scipy, an ordinary least squares fit by hand, and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.statistics import cluster_sums, estimate, holm, mcnemar_p, sign_flip_p

RANDOM = np.random.default_rng(7)
DIFFERENCES = RANDOM.choice([-1.0, 0.0, 1.0], size=300, p=[0.08, 0.8, 0.12])
CLUSTERS = [f"subject-{i % 11}" for i in range(300)]


def test_without_clusters_the_interval_is_the_t_interval() -> None:
    """Scipy's one-sample t interval, to 1e-12."""
    mean = estimate(DIFFERENCES)
    reference = scipy.stats.ttest_1samp(DIFFERENCES, 0).confidence_interval(0.95)
    assert mean.interval(0.95) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert mean.stderr == pytest.approx(scipy.stats.sem(DIFFERENCES), abs=1e-14)


def test_clustered_standard_error_is_the_sandwich() -> None:
    """(X'X)^-1 X' blockdiag(uu') X (X'X)^-1 of an intercept, written out as a double sum, times J/(J-1)."""
    residuals = DIFFERENCES - DIFFERENCES.mean()
    meat = sum(
        residuals[i] * residuals[j] for i, j in itertools.product(range(300), repeat=2) if CLUSTERS[i] == CLUSTERS[j]
    )
    assert estimate(DIFFERENCES, CLUSTERS).stderr == pytest.approx(math.sqrt(11 / 10 * meat) / 300, abs=1e-12)


def test_clusters_of_one_question_change_nothing() -> None:
    """Independent questions are the special case."""
    assert estimate(DIFFERENCES, list(range(300))) == estimate(DIFFERENCES)


def test_one_cluster_has_no_standard_error() -> None:
    """Nothing is known about the spread between clusters from one."""
    mean = estimate([1.0, 0.0], ["a", "a"])
    assert (mean.stderr, mean.interval(0.95), mean.detectable(0.05, 0.8)) == (None, (None, None), None)


def test_no_values_is_an_error() -> None:
    """A mean of nothing is not zero."""
    with pytest.raises(ValueError, match="no values"):
        estimate([])
    with pytest.raises(ValueError, match="2 values in 1 clusters"):
        cluster_sums([1.0, 2.0], ["a"])


def test_detectable_difference_has_the_power_it_claims() -> None:
    """A t test of 12 cluster means at that true difference, by the noncentral t distribution."""
    mean = estimate(RANDOM.normal(size=12))
    detectable, stderr = mean.detectable(0.05, 0.8), mean.stderr
    assert detectable is not None and stderr is not None
    critical = scipy.stats.t.ppf(0.975, 11)
    power = 1 - scipy.stats.nct.cdf(critical, 11, detectable / stderr)
    assert power == pytest.approx(0.8, abs=0.02)
    large = estimate(RANDOM.normal(size=100_000))
    assert large.stderr is not None
    assert large.detectable(0.05, 0.8) == pytest.approx(2.8016 * large.stderr, rel=1e-3)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_sign_flips_equal_scipys_exact_permutation_test(count: int) -> None:
    """Every pattern, as scipy enumerates them."""
    values = RANDOM.normal(0.4, 1, size=count)
    mine = sign_flip_p(values, draws=2**count, seed=0)
    if count == 1:
        assert mine == 1.0
        return
    reference = scipy.stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert mine == pytest.approx(reference.pvalue, abs=1e-12)


def test_clustered_sign_flips_flip_whole_clusters() -> None:
    """Six clusters leave 64 patterns, enumerated here one by one."""
    clusters = [i % 6 for i in range(300)]
    sums = [sum(DIFFERENCES[i] for i in range(300) if i % 6 == j) for j in range(6)]
    patterns = [
        abs(sum(s * d for s, d in zip(signs, sums, strict=True))) for signs in itertools.product([1, -1], repeat=6)
    ]
    expected = sum(value >= abs(sum(sums)) - 1e-9 for value in patterns) / 64
    assert sign_flip_p(DIFFERENCES, clusters, draws=1000, seed=0) == pytest.approx(expected, abs=1e-12)


def test_drawn_sign_flips_approach_the_exact_binomial() -> None:
    """On unclustered 0/1 answers the test is McNemar's, up to the draws' noise, and never zero."""
    exact = mcnemar_p(DIFFERENCES)
    assert exact is not None
    drawn = sign_flip_p(DIFFERENCES, draws=20_000, seed=3)
    assert abs(drawn - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000) + 1 / 20_000
    assert sign_flip_p([1.0] * 100, draws=500, seed=0) == 1 / 501
    assert sign_flip_p(DIFFERENCES, draws=20_000, seed=3) == drawn


def test_mcnemar() -> None:
    """Scipy's binomial test on the discordant pairs; nothing for graded answers."""
    assert mcnemar_p([1, 1, 1, -1, 0, 0]) == scipy.stats.binomtest(3, 4).pvalue
    assert mcnemar_p([0, 0]) == 1.0
    assert mcnemar_p([0.5, 0]) is None


def test_identical_answers_are_not_a_finding() -> None:
    """No difference, no detectable size, p of 1."""
    same = estimate([0.0] * 50)
    assert (same.value, same.stderr, same.detectable(0.05, 0.8)) == (0.0, 0.0, None)
    assert sign_flip_p([0.0] * 50, draws=100, seed=0) == 1.0


def test_holm_by_hand() -> None:
    """Holm's own step-down, monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_value_and_bonferroni(values: list[float]) -> None:
    """Never below the raw p, never above Bonferroni's, same order."""
    adjusted = holm(values)
    for raw, holms in zip(values, adjusted, strict=True):
        assert raw <= holms <= min(1.0, raw * len(values)) + 1e-12
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


def test_error_rate_and_coverage_under_a_correlated_null() -> None:
    """800 studies without a true difference, 8 subjects correlated: 5% found, 95% covered, within their own noise."""
    random = np.random.default_rng(11)
    studies, subjects, questions = 800, 8, 30
    clusters = np.repeat(np.arange(subjects), questions).tolist()
    found = covered = 0
    for _ in range(studies):
        values = random.normal(size=subjects * questions) + np.repeat(random.normal(0, 0.22, subjects), questions)
        low, high = estimate(values, clusters).interval(0.95)
        assert low is not None and high is not None
        covered += low <= 0 <= high
        found += sign_flip_p(values, clusters, draws=256, seed=0) <= 0.05
    assert scipy.stats.binomtest(covered, studies, 0.95).pvalue > 0.001
    assert scipy.stats.binomtest(found, studies, 0.05, alternative="greater").pvalue > 0.001
    assert found > 0
