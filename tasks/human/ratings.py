"""What raters said: each method's win rate over the base model, by the statistics of the benchmarks.

A verdict is 1 for the method, -1 for the base model, 0 for a tie. An instruction's value is the mean over its raters,
so instructions are the independent units; an answer equal to the base model's has the value 0. Where only a part of
a method's pairs is rated, as large a part of those ties counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from configs.settings import Settings
from storage.files import sha256_file
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, answers_file, study_methods
from tasks.evaluate.statistics import adjust, estimate, sign_flip_p
from tasks.given import Refused, RefusedError, read_all, read_given
from tasks.human.files import KEY, RATINGS, Key, RatedPair, Rating, Ratings, Side, human_folder

FIGURES = ("pairs", "identical", "ratings", "wins", "ties", "losses", "win_rate", "low", "high", "p", "p_holm")
FACTS = ("checked", "false_share", "false_share_baseline")
OTHER: dict[Side, Side] = {"left": "right", "right": "left"}


def build_human(workspace: Workspace, settings: Settings) -> dict[str, Any] | None:
    """`human.json`, or None where no page was made.

    pairs: pairs on the page; raters: those whose ratings count.
    rows: one a method; its figures are None where nobody rated it or its answers are no longer those on the page.
        pairs: instructions behind the figures; identical: those of them answered as by the base model and not shown;
        ratings: verdicts; wins, ties, losses: instructions by the sign of their value; win_rate: ties half; low, high:
        t interval, None where all instructions have one value; p: sign-flip test against one half; p_holm: over the
        methods; checked: ratings by raters who checked facts; false_share: of these, the answers marked false.
    agreement: of the raters, or None where no pair has two; see `agreement`.
    refused: files that do not count, each with its reason.
    """
    folder = human_folder(workspace)
    if not (folder / KEY).is_file():
        return None
    methods = study_methods(settings)
    try:
        key = read_given(folder / KEY, Key)
    except RefusedError as error:
        untold = {"pairs": None, "raters": 0, "rows": [_unrated(method) for method in methods], "agreement": None}
        return untold | {"refused": [{"file": KEY, "reason": str(error)}]}
    refused: Refused = []
    raters = _accepted(folder, key, refused)
    given: dict[int, list[Rating]] = {}
    for rating in (rating for rater in raters for rating in rater.ratings):
        given.setdefault(rating.pair, []).append(rating)
    stale = _stale(workspace, settings, key, refused)
    rows = [_unrated(method) if stale & {method, BASE} else _row(method, key, given, settings) for method in methods]
    adjust(rows)
    return {
        "pairs": len(key.pairs),
        "raters": len(raters),
        "rows": rows,
        "agreement": agreement([[rating.verdict for rating in ratings] for ratings in given.values()]),
        "refused": sorted(refused, key=lambda one: one["file"]),
    }


def agreement(verdicts: Sequence[Sequence[str]]) -> dict[str, Any] | None:
    """How far raters agree on left, right or tie, over the pairs that two or more rated; None where there are none.

    Krippendorff's alpha for nominal values, any number of raters and missing verdicts (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability"): 1 - observed / expected disagreement, None where all verdicts are one. Verdicts
    are compared by side, which a coin chose: one method's being better makes no side the likelier.

    Returns:
        pairs: compared; equal: share of equal verdicts; alpha: that share beyond chance.
    """
    shared = [list(pair) for pair in verdicts if len(pair) > 1]
    if not shared:
        return None
    total = sum(map(len, shared))
    observed = sum(_disagreements(pair) / (len(pair) - 1) for pair in shared) / total
    expected = _disagreements([verdict for pair in shared for verdict in pair]) / (total * (total - 1))
    return {"pairs": len(shared), "equal": 1 - observed, "alpha": 1 - observed / expected if expected else None}


def _disagreements(verdicts: Sequence[str]) -> int:
    """Ordered pairs of verdicts that differ."""
    return len(verdicts) ** 2 - sum(count**2 for count in Counter(verdicts).values())


def _accepted(folder: Path, key: Key, refused: Refused) -> list[Ratings]:
    """The newest usable file of each rater; a file holds all that its rater said, so an older one adds nothing."""
    usable = []
    for path, told in read_all(folder, RATINGS, Ratings, refused):
        if reason := _problem(told, key):
            refused.append({"file": path.name, "reason": reason})
        else:
            usable.append((told.saved_at, path.name, told))
    usable.sort(key=lambda one: one[:2])
    newest = {_same(told): (name, told) for _, name, told in usable}
    for _, name, told in usable:
        if name != newest[_same(told)][0]:
            reason = f"replaced by {newest[_same(told)][0]}, which a rater of the same name saved later"
            refused.append({"file": name, "reason": reason})
    return [told for _, told in newest.values()]


def _same(told: Ratings) -> str:
    return told.rater.strip().casefold()


def _problem(told: Ratings, key: Key) -> str | None:
    if told.page != key.page:
        return "rates another page"
    pairs = Counter(rating.pair for rating in told.ratings)
    if unknown := sorted(pairs.keys() - {pair.pair for pair in key.pairs}):
        return f"pair {unknown[0]} is not on the page"
    if twice := sorted(pair for pair, count in pairs.items() if count > 1):
        return f"pair {twice[0]} is rated twice"
    return None


def _stale(workspace: Workspace, settings: Settings, key: Key, refused: Refused) -> set[str]:
    """Models whose answers on the page are no longer the study's."""
    stale = set()
    for method, digest in key.answers.items():
        file = answers_file(workspace, method, settings.seed)
        if not file.is_file() or sha256_file(file) != digest:
            stale.add(method)
            reason = f"the answers of {method} are no longer those on the page; make a new one to rate them"
            refused.append({"file": KEY, "reason": reason})
    return stale


def _unrated(method: str) -> dict[str, Any]:
    return {"method": method, "baseline": BASE} | dict.fromkeys((*FIGURES, *FACTS))


def _row(method: str, key: Key, given: Mapping[int, Sequence[Rating]], settings: Settings) -> dict[str, Any]:
    shown = [pair for pair in key.pairs if method in pair.methods]
    rated = [(pair, given[pair.pair]) for pair in shown if pair.pair in given]
    identical = sum(tie.method == method for tie in key.identical)
    if not rated and (shown or not identical):
        return _unrated(method)
    if shown:
        identical = round(identical * len(rated) / len(shown))
    values = [fmean(_value(rating, pair) for rating in ratings) for pair, ratings in rated] + [0.0] * identical
    options = settings.evaluation
    mean = estimate(values)
    low, high = mean.interval(1 - options.alpha) if mean.stderr else (None, None)
    checks = [(pair, rating.false) for pair, ratings in rated for rating in ratings if rating.false is not None]
    return _unrated(method) | {
        "pairs": len(values),
        "identical": identical,
        "ratings": sum(len(ratings) for _, ratings in rated),
        "wins": sum(value > 0 for value in values),
        "ties": sum(value == 0 for value in values),
        "losses": sum(value < 0 for value in values),
        "win_rate": (1 + mean.value) / 2,
        "low": None if low is None else max(0.0, (1 + low) / 2),
        "high": None if high is None else min(1.0, (1 + high) / 2),
        "p": sign_flip_p(values, draws=options.permutations, seed=settings.seed),
        "checked": len(checks),
        "false_share": fmean(OTHER[pair.baseline_side] in false for pair, false in checks) if checks else None,
        "false_share_baseline": fmean(pair.baseline_side in false for pair, false in checks) if checks else None,
    }


def _value(rating: Rating, pair: RatedPair) -> int:
    return 0 if rating.verdict == "tie" else -1 if rating.verdict == pair.baseline_side else 1
