"""The statistics, against scipy, statsmodels, a least squares fit by hand, and enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from tasks.evaluate.statistics import (
    cluster_sums,
    estimate,
    estimate_over_seeds,
    holm,
    mcnemar_p,
    sign_flip_level,
    sign_flip_p,
)

RANDOM = np.random.default_rng(7)
DIFFERENCES = RANDOM.choice([-1.0, 0.0, 1.0], size=300, p=[0.08, 0.8, 0.12])
CLUSTERS = [f"subject-{i % 11}" for i in range(300)]
EQUAL = [f"subject-{i % 10}" for i in range(300)]
UNEQUAL = [f"subject-{math.isqrt(i)}" for i in range(300)]


def regression(values: Any, clusters: Any) -> Any:
    """The constant of statsmodels' least squares with cluster-robust errors."""
    groups = np.unique(clusters, return_inverse=True)[1]
    return sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True}, use_t=True
    )


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


@pytest.mark.parametrize("clusters", [EQUAL, UNEQUAL])
def test_clustered_figures_are_statsmodels(clusters: list[str]) -> None:
    """Its cluster-robust standard error, its t interval where clusters are equal, else at the effective number."""
    mean, reference = estimate(DIFFERENCES, clusters), regression(DIFFERENCES, clusters)
    assert (mean.value, mean.stderr) == pytest.approx((reference.params[0], reference.bse[0]), abs=1e-9)
    plain = reference.conf_int()[0]
    if clusters is EQUAL:
        assert mean.interval(0.95) == pytest.approx(tuple(plain), abs=1e-9)
    shares = np.unique(clusters, return_counts=True)[1] / 300
    interval = scipy.stats.t.interval(0.95, 1 / (shares**2).sum() - 1, reference.params[0], reference.bse[0])
    assert mean.interval(0.95) == pytest.approx(interval, abs=1e-9)
    low, high = mean.interval(0.95)
    assert low is not None and high is not None
    assert high - low >= plain[1] - plain[0] - 1e-12, "unequal clusters must not make it shorter"


def test_effective_degrees_of_freedom_are_bell_and_mccaffreys() -> None:
    """Their correction (CR2, independent questions) as a trace of matrices, at sizes as unequal as MMLU's."""
    sizes = np.array([100, 135, 265, 144, 100, 173, 235, 378, 310, 545, 783, 895, 1534, 612, 201, 171] * 3, dtype=float)
    residual = np.eye(len(sizes)) - np.outer(sizes, np.ones(len(sizes))) / sizes.sum()
    spread = residual.T @ np.diag(1 / (1 - sizes / sizes.sum())) @ residual * sizes
    exact = np.trace(spread) ** 2 / np.trace(spread @ spread)
    clusters = np.repeat(np.arange(len(sizes)), sizes.astype(int))
    mean = estimate(RANDOM.normal(size=len(clusters)), clusters)
    assert mean.freedom == pytest.approx(exact, rel=0.02) and mean.freedom < len(sizes) - 10


def test_clusters_may_be_numbers() -> None:
    """Unsigned numbers, with gaps and in any order, mean what labels mean."""
    numbers = np.array([3 * (i * 7 % 11) for i in range(300)], dtype=np.uint8)
    labels = [f"{number}" for number in numbers]
    assert estimate(DIFFERENCES, numbers).interval(0.95) == pytest.approx(estimate(DIFFERENCES, labels).interval(0.95))
    assert estimate(DIFFERENCES, numbers).clusters == 11


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


def test_detectable_difference_is_statsmodels_for_many_questions() -> None:
    """And Bloom's formula, with scipy's quantiles, for any number."""
    mean = estimate(DIFFERENCES, CLUSTERS)
    assert mean.stderr is not None
    quantiles = scipy.stats.t.ppf([1 - 0.04 / 2, 0.9], mean.freedom).sum()
    assert mean.detectable(0.04, 0.9) == pytest.approx(quantiles * mean.stderr, abs=1e-9)
    large = estimate(RANDOM.normal(size=20_000))
    exact = TTestPower().solve_power(nobs=20_000, alpha=0.05, power=0.8)
    assert large.stderr is not None
    assert large.detectable(0.05, 0.8) == pytest.approx(exact * large.stderr * math.sqrt(20_000), rel=1e-4)


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


def test_right_and_wrong_answers_are_counted_not_drawn() -> None:
    """Without clusters the test is McNemar's exactly, however small p is."""
    assert sign_flip_p(DIFFERENCES, draws=1, seed=0) == pytest.approx(mcnemar_p(DIFFERENCES), rel=1e-9)
    assert sign_flip_p([1.0] * 100, draws=1, seed=0) == pytest.approx(2.0**-99, rel=1e-9)


@pytest.mark.parametrize("seeds", [1, 3])
def test_counted_sign_flips_equal_scipys_exact_permutation_test(seeds: int) -> None:
    """Fifteen clusters of answers averaged over seeds, in thirds whose sums differ in the last digits."""
    runs = RANDOM.choice([-1.0, 0.0, 1.0], size=(seeds, 300), p=[0.1, 0.7, 0.2])
    values, clusters = runs.sum(axis=0) / seeds, [i % 15 for i in range(300)]
    reference = scipy.stats.permutation_test(
        (np.round(seeds * cluster_sums(values, clusters)),), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(values, clusters, draws=1, seed=0) == pytest.approx(reference.pvalue, abs=1e-9)


def test_clusters_that_cancel_are_left_out() -> None:
    """0.1 + 0.2 - 0.3 is not zero in floating point, but no difference either."""
    values, clusters = [0.1, 0.2, -0.3, *[1.0] * 6], ["a", "a", "a", *"bcdefg"]
    assert sign_flip_p(values, clusters, draws=128, seed=0) == pytest.approx(2 / 64)


def test_drawn_sign_flips_approach_the_exact_test() -> None:
    """Graded answers of 14 questions, whose 16,384 patterns are counted or drawn; never zero, and seeded."""
    values = RANDOM.normal(0.4, 1, size=14)
    exact = sign_flip_p(values, draws=2**14, seed=0)
    drawn = sign_flip_p(values, draws=2**14 - 1, seed=3)
    assert drawn != exact
    assert abs(drawn - exact) < 4 * math.sqrt(exact * (1 - exact) / 2**14) + 1 / 2**14
    assert sign_flip_p(values, draws=2**14 - 1, seed=3) == drawn
    assert sign_flip_p(RANDOM.normal(9, 1, size=100), draws=500, seed=0) == 1 / 501


def test_level_is_the_largest_p_that_the_test_can_give() -> None:
    """By trying all 2^10 patterns of ten clusters' signs; with too few clusters there is none."""
    sums = np.array([1, 1, 2, 2, 3, 3, 3, 4, 5, 7.0])
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    totals = np.abs(signs @ sums)
    possible = {(totals >= total).mean() for total in totals}
    for alpha in (0.05, 0.01):
        largest = max(p for p in possible if p <= alpha)
        assert sign_flip_level(sums, alpha=alpha, draws=1) == pytest.approx(largest, abs=1e-12)
    assert sign_flip_level(sums + 0.1 * RANDOM.random(10), alpha=0.05, draws=1024) == pytest.approx(50 / 1024)
    assert sign_flip_level(RANDOM.normal(size=99), alpha=0.05, draws=299) == pytest.approx(15 / 300)
    assert sign_flip_level([1.0] * 50, [i % 5 for i in range(50)], alpha=0.05, draws=100) == 0
    assert estimate(DIFFERENCES[:50], [i % 5 for i in range(50)]).detectable(0, 0.8) is None
    assert sign_flip_level([1.0] * 5 + [0.0] * 50, alpha=0.05, draws=100) == 0.05


def test_mcnemar_is_statsmodels() -> None:
    """Its exact test of the same table, either way round."""
    for values in (DIFFERENCES, -DIFFERENCES, DIFFERENCES[:40]):
        gained, lost = int((values > 0).sum()), int((values < 0).sum())
        exact = mcnemar([[100, lost], [gained, 100]], exact=True).pvalue
        assert mcnemar_p(values) == pytest.approx(exact, abs=1e-9)


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


def test_seeds_and_questions_add_up() -> None:
    """The bootstrap's two parts, against the variances that it stands for in the long run."""
    base, own = RANDOM.normal(size=400), RANDOM.normal(size=(3, 400))
    runs = base + own + np.array([[-0.3], [0.0], [0.6]])
    found = estimate_over_seeds(runs, confidence=0.95, draws=20_000, seed=0)
    mean = estimate(runs.mean(axis=0))
    between = runs.mean(axis=1).var(ddof=1) / 3
    noise = (runs - runs.mean(axis=0)).var(axis=1, ddof=1).sum() / 2 / 400 / 3
    assert mean.stderr is not None and found.stderr is not None and found.low is not None and found.high is not None
    assert found.stderr**2 == pytest.approx(mean.stderr**2 + between - noise, rel=0.02)
    assert (found.low + found.high) / 2 == pytest.approx(mean.value)
    parts = (mean.stderr * scipy.stats.t.ppf(0.975, 399)) ** 2, (between - noise) * scipy.stats.t.ppf(0.975, 2) ** 2
    assert (found.high - found.low) / 2 == pytest.approx(math.sqrt(sum(parts)), rel=0.02)
    assert found == estimate_over_seeds(runs, confidence=0.95, draws=20_000, seed=0)


def test_seeds_that_agree_leave_the_questions_interval() -> None:
    """Within the noise of the draws, with clusters and without."""
    for clusters in (None, CLUSTERS):
        found = estimate_over_seeds([DIFFERENCES] * 3, clusters, confidence=0.95, draws=20_000, seed=0)
        low, high = estimate(DIFFERENCES, clusters).interval(0.95)
        assert low is not None and high is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))


def test_seeds_of_one_cluster_or_one_seed_tell_nothing() -> None:
    """No interval from one cluster, an error from one seed, and no width where nothing differs."""
    found = estimate_over_seeds([[1.0, 0.0]] * 2, ["a", "a"], confidence=0.95, draws=10, seed=0)
    assert (found.count, found.low, found.high, found.stderr) == (2, None, None, None)
    with pytest.raises(ValueError, match="one seed"):
        estimate_over_seeds([[1.0, 0.0]], confidence=0.95, draws=10, seed=0)
    same = estimate_over_seeds([[0.0] * 9] * 2, confidence=0.95, draws=10, seed=0)
    assert (same.low, same.high, same.stderr) == (0.0, 0.0, 0.0)


def test_holm_by_hand() -> None:
    """Holm's own step-down, monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize("count", [1, 4, 12])
def test_holm_is_statsmodels(count: int) -> None:
    """Its step-down adjustment, with ties and without."""
    for values in (RANDOM.random(count) ** 3, RANDOM.integers(0, 5, count) / 50, np.full(count, 0.01)):
        assert holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1].tolist(), abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_value_and_bonferroni(values: list[float]) -> None:
    """Never below the raw p, never above Bonferroni's, same order."""
    adjusted = holm(values)
    for raw, holms in zip(values, adjusted, strict=True):
        assert raw <= holms <= min(1.0, raw * len(values)) + 1e-12
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))
