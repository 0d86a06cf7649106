"""How often the reward model prefers a method's answer to the base model's, and whether that is more than length.

An answer wins if its score is higher; a tie counts half. An empty answer has no score and loses to any other; an
instruction with an answer that the reward model could not score is left out. Interval and p are those of the paired
differences (`tasks.evaluate.statistics`): an instruction is a cluster, over which seeds are averaged.

Length control, after AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475, without its terms for instructions): the
probability of a win is modelled as logistic in the difference of lengths [words, in its standard deviations], and the
controlled win rate is what the model says at equal lengths. Its interval is the intercept's, with a sandwich
covariance clustered by instruction, on the logit scale. Where wins and losses can be told apart by length alone, the
model has no finite fit and the controlled rate is None.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from configs.settings import Settings
from storage.files import read_jsonl
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, answers_file, study_methods, study_seeds
from tasks.evaluate.statistics import adjust, cluster_sums, estimate, sign_flip_p

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

Answer = dict[str, Any]
Run = tuple[str, int]

LENGTH_CONTROLLED = ("win_rate_length_controlled", "low_length_controlled", "high_length_controlled")
FIGURES = (
    *("seeds", "questions", "wins", "ties", "losses", "win_rate", "low", "high", "p", "p_holm"),
    *LENGTH_CONTROLLED,
    *("mean_words", "mean_words_baseline", "unfinished", "unfinished_baseline"),
)
NEWTON_STEPS = 50
LARGEST_LOGIT = 20.0
SMALLEST_STEP = 1e-9  # the next would be its square


def build_win_rates(workspace: Workspace, settings: Settings, refused: Collection[Run] = ()) -> dict[str, Any]:
    """`win_rates.json`: the judge, and a row a method; what was not measured is None.

    Args:
        workspace: with `evaluation/answers/<method>/answers.jsonl`.
        settings: whose methods and seeds are read.
        refused: method and seed of answers that must not be used.
    """
    base = None if (BASE, settings.seed) in refused else _answers(workspace, BASE, settings.seed)
    rows = []
    for method in study_methods(settings):
        runs = [_answers(workspace, method, seed) for seed in study_seeds(settings) if (method, seed) not in refused]
        known = [run for run in runs if run]
        figures = _figures(known, base, settings) if base and known else dict.fromkeys(FIGURES)
        rows.append({"method": method, "baseline": BASE, **figures})
    adjust(rows)
    return {"judge": settings.models.reward.name, "rows": rows}


def length_controlled(
    wins: Sequence[float], lengths: Sequence[float], clusters: Sequence[Any], confidence: float
) -> tuple[float, float, float] | None:
    """Win rate at equal lengths with its interval, or None where the model has no finite fit.

    Args:
        wins: 1 a win, 0.5 a tie, 0 a loss.
        lengths: length of the answer less that of the other.
        clusters: what the comparison belongs to.
        confidence: of the two-sided interval.
    """
    import numpy as np
    from scipy.stats import norm

    outcome = np.asarray(wins, dtype=float)
    spread = float(np.std(lengths))
    if not spread or outcome.min() == outcome.max():
        return None
    design = np.column_stack([np.ones(len(outcome)), np.asarray(lengths, dtype=float) / spread])
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-design @ weights))
        information = (design * (chance * (1 - chance))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (outcome - chance))
        except np.linalg.LinAlgError:  # every chance is 0 or 1 to the last digit
            return None
        weights = weights + step
        if not np.isfinite(weights).all() or np.abs(weights).max() > LARGEST_LOGIT:
            return None
        if np.abs(step).max() < SMALLEST_STEP:
            break
    else:  # a slope that grows as long as it may, beside an intercept that stands
        return None
    scores = design * (outcome - chance)[:, None]
    grouped = np.column_stack([cluster_sums(scores[:, column], clusters) for column in (0, 1)])
    bread = np.linalg.inv(information)
    correction = len(grouped) / (len(grouped) - 1)
    variance = correction * float((bread @ grouped.T @ grouped @ bread)[0, 0])
    # rounding makes a zero negative: all answers that are as long may be ties
    half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(max(0.0, variance))
    middle, low, high = (1 / (1 + math.exp(-logit)) for logit in (weights[0], weights[0] - half, weights[0] + half))
    return middle, low, high


def _figures(runs: list[dict[str, Answer]], base: dict[str, Answer], settings: Settings) -> dict[str, Any]:
    shared = [name for name in base if all(name in run for run in runs)]
    if len(shared) < 2:
        return dict.fromkeys(FIGURES)
    outcomes = {name: [_outcome(run[name], base[name]) for run in runs] for name in shared}
    every = [outcome for told in outcomes.values() for outcome in told]
    leads = [sum(told) / len(told) - 0.5 for told in outcomes.values()]
    mean = estimate(leads)
    low, high = mean.interval(1 - settings.evaluation.alpha) if mean.stderr else (None, None)  # all won, or all lost
    lengths = [_words(run[name]) - _words(base[name]) for name in shared for run in runs]
    clusters = [name for name in shared for _ in runs]
    controlled = length_controlled(every, lengths, clusters, 1 - settings.evaluation.alpha)
    return {
        "seeds": len(runs),
        "questions": len(shared),
        "wins": every.count(1.0),
        "ties": every.count(0.5),
        "losses": every.count(0.0),
        "win_rate": 0.5 + mean.value,
        "low": None if low is None else max(0.0, 0.5 + low),
        "high": None if high is None else min(1.0, 0.5 + high),
        "p": sign_flip_p(leads, draws=settings.evaluation.permutations, seed=settings.seed),
        "p_holm": None,
        **dict(zip(LENGTH_CONTROLLED, controlled or (None, None, None), strict=True)),
        "mean_words": sum(_words(run[name]) for name in shared for run in runs) / len(clusters),
        "mean_words_baseline": sum(_words(base[name]) for name in shared) / len(shared),
        "unfinished": sum(_unfinished(run[name]) for name in shared for run in runs) / len(clusters),
        "unfinished_baseline": sum(_unfinished(base[name]) for name in shared) / len(shared),
    }


def _answers(workspace: Workspace, method: str, seed: int) -> dict[str, Answer] | None:
    try:
        rows = read_jsonl(answers_file(workspace, method, seed))
        return {row["id"]: row for row in rows if row["score"] is not None or not row["output"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _outcome(ours: Answer, theirs: Answer) -> float:
    """1 where ours scores higher, 0 where theirs does, else 0.5."""
    mine, other = (-math.inf if answer["score"] is None else answer["score"] for answer in (ours, theirs))
    return 0.5 if mine == other else float(mine > other)


def _words(answer: Answer) -> int:
    return len(answer["output"].split())


def _unfinished(answer: Answer) -> bool:
    return bool(answer["finish_reason"] == "length")
