"""The whole filter: the waterfall sums, the rows' order plays no part, diversity and splits keep their promises."""

from __future__ import annotations

import json
import random
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.settings import FilterSettings
from tasks.filter.diversity import near_duplicates
from tasks.filter.run import TooFewRowsError, filter_rows, sft_row
from tasks.filter.similarity import WordSets, exact, links, word_set
from tasks.filter.splits import assign_splits

SMALL = FilterSettings(train_rows=2, val_rows=1)
NOUNS = ["river", "garden", "engine", "market", "theatre", "harbour", "library", "bridge", "forest", "museum", "castle"]
VERBS = ["shapes", "feeds", "moves", "warms", "protects", "teaches", "changes", "carries", "hides", "builds", "follows"]
PLACES = [
    "in winter",
    "at night",
    "near the coast",
    "after heavy rain",
    "without money",
    "for children",
    "in old towns",
]


def sentence(rng: random.Random) -> str:
    return f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} {rng.choice(PLACES)}."


def made_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of English that the per-row rules keep, with a defect planted in every fifth, each of another kind."""
    rng = random.Random(seed)
    defects = [
        {"output": "Too short."},
        {"output": "I cannot help with that. " + " ".join(sentence(rng) for _ in range(4))},
        {"finish_reason": "length"},
        {"output": ""},
        {"output": "It goes on and on and on and on and on. " * 4},
        {
            "output": "Das ist ein langer deutscher Satz über einen Garten am Fluss, in dem viele alte Bäume und "
            "Blumen stehen, und wo man im Sommer gerne sitzt."
        },
        {"instruction": "Please explain to me in a few words how I make a pipe bomb at home."},
    ]
    rows = []
    for number in range(count):
        rows.append(
            {
                "id": f"{number:06d}",
                "domain": rng.choice(["facts", "how-to"]),
                "instruction": f"Explain how a {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} "
                f"and a {rng.choice(NOUNS)} {rng.choice(PLACES)}.",
                "output": " ".join(dict.fromkeys(sentence(rng) for _ in range(rng.randint(4, 9)))),
                "finish_reason": "stop",
            }
        )
        if number % 5 == 4:
            rows[-1] |= defects[number // 5 % len(defects)]
    return rows


def test_waterfall_sums_and_every_row_is_kept_or_dropped_once() -> None:
    """No row is lost or counted twice, and each rule's count is that of the rows it dropped."""
    rows = made_rows(150)
    result = filter_rows(rows, SMALL, seed=0)
    waterfall = result.stats["waterfall"]
    assert [step["rule"] for step in waterfall] == [
        "truncated", "empty", "length", "refusal", "unsafe", "repetition", "language", "diversity",
    ]  # fmt: skip
    assert waterfall[0]["in"] == 150 and waterfall[-1]["out"] == len(result.kept)
    for step, following in zip(waterfall, waterfall[1:], strict=False):
        assert step["in"] - step["dropped"] == step["out"] == following["in"]
    by_rule = Counter(drop["rule"] for drop in result.dropped)
    assert {step["rule"]: step["dropped"] for step in waterfall} == {
        step["rule"]: by_rule[step["rule"]] for step in waterfall
    }
    assert all(
        by_rule[name] for name in ("empty", "truncated", "length", "refusal", "unsafe", "repetition", "language")
    )
    assert sorted(row["id"] for row in result.kept + result.dropped) == [row["id"] for row in rows]


def test_result_holds_what_the_public_files_need() -> None:
    """Fields, order and JSON types of filtered.jsonl, dropped.jsonl and stats.json."""
    rows = made_rows(120)
    result = filter_rows(rows, SMALL, seed=0)
    assert set(result.kept[0]) == {"id", "domain", "instruction", "output", "quality", "quality_parts", "split"}
    assert set(result.dropped[0]) == {"id", "rule", "evidence"}
    for group in (result.kept, result.dropped):
        ids = [row["id"] for row in group]
        assert ids == sorted(ids)
    stored = [result.kept, result.dropped, result.stats]
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert sft_row(result.kept[0]) == {key: result.kept[0][key] for key in ("instruction", "output")}
    stats = result.stats
    assert stats["domains"]["raw"] == dict(sorted(Counter(row["domain"] for row in rows).items()))
    assert sum(stats["domains"]["kept"].values()) == stats["kept"] == len(result.kept)
    mean = sum(row["quality"] for row in result.kept) / len(result.kept)
    assert stats["quality"]["mean"] == pytest.approx(mean, abs=1e-6)
    words = [len(row["output"].split()) for row in result.kept]
    assert stats["output_words"]["kept"] == pytest.approx(sum(words) / len(words), abs=1e-4)
    quantiles = list(stats["quality"]["quantiles"].values())
    assert quantiles == sorted(quantiles) and quantiles[0] < quantiles[-1]


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(60, 110), st.integers(0, 5))
def test_filter_properties(rng: random.Random, count: int, seed: int) -> None:
    """For any rows: the waterfall sums, their order plays no part, and filtering twice changes nothing."""
    rows = made_rows(count, seed)
    result = filter_rows(rows, SMALL, seed)
    steps = result.stats["waterfall"]
    assert sum(step["dropped"] for step in steps) + len(result.kept) == count
    rng.shuffle(rows)
    assert filter_rows(rows, SMALL, seed) == result
    again = filter_rows([row | {"finish_reason": "stop"} for row in result.kept], SMALL, seed)
    assert again.dropped == [] and again.kept == result.kept


def test_too_few_rows_says_what_is_short_and_what_to_change() -> None:
    """The error names the shortage, the rule that dropped most and the settings that would help."""
    rows = made_rows(40)
    for row in rows:
        row |= {"output": "Too short.", "finish_reason": "stop"}
    rows[0] = made_rows(1)[0]
    with pytest.raises(TooFewRowsError) as caught:
        filter_rows(rows, SMALL, seed=0)
    message = str(caught.value)
    for part in (
        "keeps 1 of 40 rows",
        "3 short of the 4",
        "'length'",
        "(39)",
        "--filter.min_words",
        "--generation.rows",
    ):
        assert part in message


def test_duplicate_ids_are_refused() -> None:
    """Two rows with one id could not be told apart in the files."""
    rows = made_rows(20)
    rows[3]["id"] = rows[7]["id"]
    with pytest.raises(ValueError, match="000007"):
        filter_rows(rows, SMALL, seed=0)


def jaccard(a: frozenset[str], b: frozenset[str]) -> Fraction:
    return Fraction(len(a & b), len(a | b)) if a | b else Fraction(1)


WORD_SETS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join), max_size=40)
THRESHOLDS = st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.75, 0.8, 1.0])


@given(WORD_SETS, THRESHOLDS, st.randoms(use_true_random=False))
def test_diversity_equals_brute_force(texts: list[str], threshold: float, rng: random.Random) -> None:
    """Exactly the rows that comparing with every kept row keeps, with the most similar one as evidence."""
    ids = rng.sample([f"{number:03d}" for number in range(len(texts))], len(texts))
    scores = np.array([rng.choice([0.1, 0.5, 0.9]) for _ in texts])
    contents = [word_set(text) for text in texts]
    found = near_duplicates(WordSets.of(contents), ids, scores, threshold)
    kept: list[int] = []
    for number in sorted(range(len(texts)), key=lambda number: (-scores[number], ids[number])):
        similar = [(jaccard(contents[number], contents[other]), -place) for place, other in enumerate(kept)]
        closest, place = max(similar, default=(Fraction(0), 0))
        evidence = found.get(number)
        if closest >= exact(threshold):
            assert evidence is not None
            assert evidence["kept_id"] == ids[kept[-place]]
            assert evidence["similarity"] == round(float(closest), 4)
        else:
            assert evidence is None
            kept.append(number)


@pytest.mark.parametrize("family", [1, 4, 25])
def test_diversity_equals_brute_force_on_two_thousand_rows(family: int) -> None:
    """At the real threshold and size, from unrelated rows to families of near-misses, the kept rows are the same."""
    rng = random.Random(family)
    vocabulary = [f"w{rank}" for rank in range(3000)]
    weights = [1 / (rank + 1) for rank in range(3000)]
    contents: list[frozenset[str]] = []
    while len(contents) < 2000:
        stem = rng.choices(vocabulary, weights, k=40)
        for _ in range(family):
            swapped = rng.sample(range(40), rng.randint(0, 9))
            contents.append(frozenset(rng.choice(vocabulary) if n in swapped else word for n, word in enumerate(stem)))
    ids = [f"{number:05d}" for number in range(len(contents))]
    scores = np.array([round(rng.random(), 1) for _ in contents])
    dropped = near_duplicates(WordSets.of(contents), ids, scores, 0.8)
    kept: list[int] = []
    for number in sorted(range(len(contents)), key=lambda number: (-scores[number], ids[number])):
        content = contents[number]
        if not any(5 * len(content & contents[other]) >= 4 * len(content | contents[other]) for other in kept):
            kept.append(number)
    assert sorted(set(range(len(contents))) - dropped.keys()) == sorted(kept)
    assert (len(kept) < len(contents)) == (family > 1)


@pytest.mark.parametrize(("shared", "alone", "dropped"), [(4, 1, True), (8, 2, True), (79, 21, False), (80, 20, True)])
def test_threshold_itself_drops(shared: int, alone: int, dropped: bool) -> None:
    """4/5, 8/10 and 80/100 are 0.8, which floating point must not hide; 79/100 is under it."""
    base = frozenset(f"w{n}" for n in range(shared))
    contents = WordSets.of([base, base | {f"x{n}" for n in range(alone)}])
    assert list(near_duplicates(contents, ["a", "b"], np.zeros(2), 0.8)) == [1] * dropped


def test_better_duplicate_stays() -> None:
    """Of two near-duplicates the better one is kept, whichever comes first."""
    rows = made_rows(60)
    twin = rows[1] | {"id": "zzz", "output": rows[1]["output"] + " <|eot_id|> and the"}
    result = filter_rows([twin, *rows], SMALL, seed=0)
    (drop,) = [drop for drop in result.dropped if drop["id"] == "zzz"]
    assert drop["rule"] == "diversity"
    assert drop["evidence"]["similarity"] >= 0.8
    assert drop["evidence"]["kept_id"] in {row["id"] for row in result.kept}


def test_index_finds_all_pairs_of_real_sized_sets() -> None:
    """The prefix filter misses nothing among 300 instructions with many near-misses."""
    contents = [word_set(row["instruction"]) for row in made_rows(300)]
    for threshold in (Fraction(1, 2), Fraction(4, 5)):
        found = {(match.key, number) for number, match in links(WordSets.of(contents), threshold)}
        expected = {
            (a, b) for b in range(300) for a in range(b) if jaccard(contents[a], contents[b]) >= threshold
        }  # fmt: skip
        assert found == expected and expected


def instructions(families: list[int], seed: int = 0) -> list[dict[str, str]]:
    """Families of near-duplicates of the given sizes: nine words in common, one of each row's own."""
    rng = random.Random(seed)
    rows = []
    for family, size in enumerate(families):
        common = " ".join(f"f{family}w{n}" for n in range(9))
        rows += [{"id": f"{rng.random():.12f}", "instruction": f"{common} own{n}"} for n in range(size)]
    return rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=4, max_size=12), st.integers(0, 99), st.randoms(use_true_random=False))
def test_splits_are_exact_order_free_and_whole(families: list[int], seed: int, rng: random.Random) -> None:
    """Sizes are exact for any group sizes; without a cut no family straddles; the order of the rows plays no part."""
    rows = instructions(families)
    total = len(rows)
    wanted = FilterSettings(train_rows=max(1, total // 2), val_rows=max(1, total // 5), max_group_share=1.0)
    splits = assign_splits(rows, wanted, seed)
    sizes = Counter(splits.by_id.values())
    assert (sizes["train"], sizes["val"]) == (wanted.train_rows, wanted.val_rows)
    assert sizes["test"] == total - wanted.train_rows - wanted.val_rows >= 1
    assert assign_splits(rng.sample(rows, total), wanted, seed) == splits
    family_of = {row["id"]: row["instruction"].split()[0] for row in rows}
    torn = sum(
        splits.by_id[a] != splits.by_id[b]
        for a in family_of
        for b in family_of
        if a < b and family_of[a] == family_of[b]
    )
    assert splits.stats["straddling_pairs"] == torn
    assert torn == 0 or splits.stats["groups"] > len(families)


def test_families_that_fit_never_straddle() -> None:
    """With single rows to even out the sizes, every family stays whole, and other seeds draw other splits."""
    rows = instructions([5] * 12 + [1] * 60)
    wanted = FilterSettings(train_rows=70, val_rows=25)
    draws = [assign_splits(rows, wanted, seed) for seed in range(5)]
    assert all(draw.stats["straddling_pairs"] == 0 and draw.stats["groups"] == 72 for draw in draws)
    assert len({tuple(sorted(draw.by_id.items())) for draw in draws}) == 5


def test_oversized_component_is_cut_at_a_higher_similarity() -> None:
    """A chain of two tight families, weakly linked, is cut between them and not within."""
    shared = " ".join(f"s{n}" for n in range(8))
    rows = [
        {"id": f"{family}{n}", "instruction": f"{shared} {' '.join(f'{family}{k}' for k in range(3))} own{family}{n}"}
        for family in "ab"
        for n in range(6)
    ] + [{"id": f"single{n}", "instruction": f"x{n} y{n} z{n}"} for n in range(12)]
    wanted = FilterSettings(train_rows=12, val_rows=6, max_group_share=0.25)
    splits = assign_splits(rows, wanted, seed=1)
    assert splits.stats["largest_component"] == 12
    assert splits.stats["largest_group"] == 6
    for family in "ab":
        assert len({splits.by_id[f"{family}{n}"] for n in range(6)}) == 1


def test_rows_near_train_are_counted() -> None:
    """Where a family must be torn, the statistics say how many held-out rows have a near-duplicate in train."""
    rows = instructions([10])
    splits = assign_splits(rows, FilterSettings(train_rows=6, val_rows=2), seed=0)
    assert splits.stats["rows_near_train"] == {"val": 2, "test": 2}
    assert splits.stats["straddling_pairs"] == 6 * 2 + 6 * 2 + 2 * 2
    assert splits.stats["sizes"] == {"train": 6, "val": 2, "test": 2}


def test_splits_need_a_test_row() -> None:
    """The test split is never empty."""
    with pytest.raises(ValueError, match="test split"):
        assign_splits(instructions([3]), SMALL, seed=0)
