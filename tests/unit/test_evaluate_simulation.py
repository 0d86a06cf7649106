"""The comparison on simulated studies: false alarms, coverage, power, and the interval over seeds.

A study is three methods and a base model on four benchmarks. A fifth of the questions is in play: there each model's
answer is a throw of its own, and elsewhere all models are right or all wrong, since a question is hard for all. So two
models differ on a tenth of the answers. A model has a skill of its own in each subject, of such a spread that its
differences to the base model, whose answers all contrasts share, have the stated correlation within a subject (ICC).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from tasks.evaluate.compare import verdict
from tasks.evaluate.statistics import (
    cluster_sums,
    estimate,
    estimate_over_seeds,
    holm,
    sign_flip_level,
    sign_flip_p,
)

Floats = np.ndarray[Any, np.dtype[np.float64]]
Test = tuple[Floats, Any]

ALPHA, POWER = 0.05, 0.8
METHODS = 3
IN_PLAY = 0.2
ICCS = (0.01, 0.05)
SEEDS = (1, 2, 3)
STUDIES = 1000  # of each seed
DRAWS = 299  # of signs, where they cannot be counted: Phipson and Smyth's p is valid with any number
MMLU = [
    100, 135, 152, 100, 265, 144, 100, 100, 100, 173, 102, 100, 235, 114, 145, 378, 126, 100, 310, 203, 100, 165, 198,
    193, 390, 270, 238, 151, 545, 216, 204, 237, 223, 131, 121, 108, 163, 112, 103, 234, 100, 783, 346, 895, 306, 311,
    324, 282, 1534, 272, 612, 110, 245, 201, 100, 166, 171,
]  # fmt: skip
REAL = {"subjects": MMLU, "right or wrong": [1000, 1000], "graded": 817}
DEMO = {"subjects": [48] * 5, "right or wrong": [204, 204], "graded": 204}


def simulate(
    random: np.random.Generator, subjects: Any, icc: float = 0.0, *, runs: int = METHODS, effect: Any = 0.0
) -> Floats:
    """Differences to one base model, a row a run; `effect` is the true one, or each run's, `subjects` are numbers."""
    spread = np.sqrt(3 * icc / (4 * IN_PLAY))
    shift = np.append(0.0, np.broadcast_to(effect, runs)) / IN_PLAY
    middle = 0.5 + shift - shift[1:].mean() / 2  # leaves every skill a probability
    skill = middle[:, None] + random.uniform(-spread, spread, size=(1 + runs, subjects[-1] + 1))
    in_play = np.flatnonzero(random.random(len(subjects), dtype=np.float32) < IN_PLAY)
    right = random.random((1 + runs, len(in_play)), dtype=np.float32) < skill[:, subjects[in_play]]
    differences = np.zeros((runs, len(subjects)))
    differences[:, in_play] = right[1:].astype(float) - right[0]
    return differences


def numbered(sizes: list[int]) -> Any:
    """The subject of each question."""
    return np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)


def simulate_study(random: np.random.Generator, shape: dict[str, Any]) -> tuple[list[Test], dict[float, list[Test]]]:
    """The tests of three benchmarks, no method being different, and those of the one with subjects at each ICC."""
    subjects = numbered(shape["subjects"])
    graded = random.random((1 + METHODS, shape["graded"]))
    rows = [simulate(random, numbered([count])) for count in shape["right or wrong"]]
    plain = [(row, None) for benchmark in [*rows, graded[1:] - graded[0]] for row in benchmark]
    return plain, {icc: [(row, subjects) for row in simulate(random, subjects, icc)] for icc in ICCS}


def covers(test: Test) -> bool:
    low, high = estimate(*test).interval(1 - ALPHA)
    return low is not None and high is not None and low <= 0 <= high


def finds(tests: list[Test], p: list[float]) -> bool:
    """Whether any method is called better or worse anywhere."""
    rows = [
        {"difference": values.mean(), "p_holm": adjusted} for (values, _), adjusted in zip(tests, holm(p), strict=True)
    ]
    return any(verdict(row, ALPHA) in ("better", "worse") for row in rows)


@pytest.mark.parametrize(("shape", "least"), [(REAL, 0.03), (DEMO, 0.015)], ids=["real", "demo"])
def test_false_alarms_and_coverage(shape: dict[str, Any], least: float) -> None:
    """At most 5% of the studies find something that is not there, and 93 to 97% of the intervals cover zero.

    Not far fewer than 5% either: 4.2%, since the contrasts share the base model's answers, which Holm does not use;
    2.1% in the demo, whose five subjects leave no p below 1/16 and whose other tests, on some twenty changed answers,
    have wide steps.
    """
    alarms = dict.fromkeys(ICCS, 0)
    covered: dict[float, list[bool]] = {icc: [] for icc in (0.0, *ICCS)}
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        for number in range(STUDIES):
            plain, clustered = simulate_study(random, shape)
            plain_p = [sign_flip_p(*test, draws=DRAWS, seed=number) for test in plain]
            covered[0.0] += map(covers, plain)
            for icc, tests in clustered.items():
                p = [sign_flip_p(*test, draws=DRAWS, seed=number) for test in tests]
                alarms[icc] += finds(tests + plain, p + plain_p)
                covered[icc] += map(covers, tests)
    for icc in ICCS:
        rate = scipy.stats.binomtest(alarms[icc], len(SEEDS) * STUDIES).proportion_ci(0.95)
        assert least <= rate.low and rate.high <= 0.07
    assert all(0.93 <= np.mean(hits) <= 0.97 for hits in covered.values())


def test_the_simulation_can_fail() -> None:
    """A test that takes MMLU's correlated questions for independent ones raises many false alarms in it."""
    random, subjects = np.random.default_rng(0), numbered(MMLU)
    alarms = sum(sign_flip_p(simulate(random, subjects, 0.05)[0], draws=DRAWS, seed=0) <= ALPHA for _ in range(200))
    assert alarms / 200 > 0.2


def test_simulated_subjects_correlate_as_stated() -> None:
    """The ICC of the differences, by the analysis of variance, over 100 draws of MMLU."""
    random, subjects = np.random.default_rng(0), numbered(MMLU)
    sizes = np.array(MMLU)
    size = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    for icc in ICCS:
        found = []
        for values in (simulate(random, subjects, icc, runs=1)[0] for _ in range(100)):
            means = cluster_sums(values, subjects) / sizes
            between = (sizes * (means - values.mean()) ** 2).sum() / (len(sizes) - 1)
            within = ((values - means[subjects]) ** 2).sum() / (len(values) - len(sizes))
            found.append((between - within) / (between + (size - 1) * within))
        assert np.mean(found) == pytest.approx(icc, rel=0.15)


@pytest.mark.parametrize(
    ("sizes", "clustered", "icc"),
    [(MMLU, True, 0.01), (MMLU, True, 0.05), ([20] * 12, True, 0.05), ([204], False, 0.0), ([1000], False, 0.0)],
)
def test_power_is_that_of_the_detectable_difference(sizes: list[int], clustered: bool, icc: float) -> None:
    """A true difference as large as the stated one is found in 80% of 600 studies, within three standard errors."""
    random, subjects = np.random.default_rng(5), numbered(sizes)
    clusters = subjects if clustered else None
    stated = []
    for values in (simulate(random, subjects, icc, runs=1)[0] for _ in range(200)):
        level = sign_flip_level(values, clusters, alpha=ALPHA, draws=DRAWS)
        stated.append(estimate(values, clusters).detectable(level, POWER))
    effect = np.mean([value for value in stated if value is not None])
    studies = 600
    found = sum(
        sign_flip_p(simulate(random, subjects, icc, runs=1, effect=effect)[0], clusters, draws=DRAWS, seed=0) <= ALPHA
        for _ in range(studies)
    )
    assert found / studies == pytest.approx(POWER, abs=3 * np.sqrt(POWER * (1 - POWER) / studies))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("strength", [0, 1, 4])
@pytest.mark.parametrize("sizes", [[600], [50] * 20], ids=["questions", "subjects"])
def test_the_interval_over_seeds_covers(seeds: int, strength: int, sizes: list[int]) -> None:
    """Zero is covered 93 to 97% of the time, where seeds add `strength` times the variance of the questions.

    Where they add some, the interval of the questions alone covers far too little; where they add none, this one is
    hardly wider.
    """
    random, subjects = np.random.default_rng(8), numbered(sizes)
    clusters = subjects if len(sizes) > 1 else None
    icc = 0.05 if len(sizes) > 1 else 0.0
    pilot = [estimate(simulate(random, subjects, icc, runs=seeds).mean(axis=0), clusters).stderr for _ in range(50)]
    spread = np.sqrt(strength * seeds) * np.mean([stderr for stderr in pilot if stderr is not None])
    over_seeds, over_questions, width = [], [], []
    for number in range(400):
        effect = random.normal(0, spread, size=seeds)
        runs = simulate(random, subjects, icc, runs=seeds, effect=effect)
        own = estimate_over_seeds(runs, clusters, confidence=1 - ALPHA, draws=200, seed=number)
        low, high = estimate(runs.mean(axis=0), clusters).interval(1 - ALPHA)
        assert own.low is not None and own.high is not None and low is not None and high is not None
        over_seeds.append(own.low <= 0 <= own.high)
        over_questions.append(low <= 0 <= high)
        width.append((own.high - own.low) / (high - low))
    assert 0.93 <= np.mean(over_seeds) <= 0.97
    if strength:
        assert np.mean(over_questions) < 0.9
    else:
        assert np.mean(width) < 1.25
