"""Human evaluation: the page hides who wrote what, and ratings come back as win rates or are refused with a reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings, load_settings
from flows.rate import main
from storage.files import read_json, write_json, write_jsonl, write_text
from storage.stages import StageKey, write_manifest
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, answers_file, study_methods
from tasks.human.files import KEY, PAGE, Answer, Key, RatedPair, Tie, human_folder
from tasks.human.page import PageError, draw_pairs, write_page
from tasks.human.ratings import agreement, build_human
from tasks.report.human import human_section
from tasks.stages import study_stages

INSTRUCTIONS = 40
HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \"'& \u2028 STUDY-JSON\n\n"
    "\tdef f():\n\t\treturn 1"
)

Answering = Callable[[str, int], str]
Choosing = Callable[[RatedPair], str]


class PageReader(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] == ["script"] and data.strip():
            self.scripts.append(data)


def write_answers(workspace: Workspace, settings: Settings, answer: Answering, *without: str) -> None:
    """Answers of each model but those named, to the same instructions."""
    for method in (BASE, *study_methods(settings)):
        if method not in without:
            rows = [
                {"id": f"{i:06d}", "instruction": f"Ask {i}", "output": answer(method, i), "finish_reason": "stop"}
                for i in range(INSTRUCTIONS)
            ]
            write_jsonl(answers_file(workspace, method, settings.seed), rows)


def told_apart(method: str, number: int) -> str:
    """Another answer of each method to each instruction, which says nothing of the method."""
    return f"Answer {random.Random(f'{method}{number}').random()}"


def page_of(workspace: Workspace) -> PageReader:
    reader = PageReader()
    reader.feed((human_folder(workspace) / PAGE).read_text(encoding="utf-8"))
    return reader


def pairs_of(workspace: Workspace) -> list[dict[str, str]]:
    pairs: list[dict[str, str]] = json.loads(page_of(workspace).scripts[0])["pairs"]
    return pairs


def rate(
    workspace: Workspace, name: str, choose: Choosing, saved_at: str = "2026-01-01T10:00:00Z", **other: Any
) -> Path:
    """A rater's file, as the page saves it; `choose` may say nothing of a pair."""
    key = read_json(human_folder(workspace) / KEY)
    ratings = [
        {"pair": pair["pair"], "verdict": verdict, "false": None}
        for pair in key["pairs"]
        if (verdict := choose(RatedPair.model_validate(pair)))
    ]
    path = human_folder(workspace) / f"ratings-{name}.json"
    write_json(path, {"page": key["page"], "rater": name, "saved_at": saved_at, "ratings": ratings} | other)
    return path


def for_method(pair: RatedPair) -> str:
    return "right" if pair.baseline_side == "left" else "left"


def rows_of(workspace: Workspace, settings: Settings) -> dict[str, Mapping[str, Any]]:
    human = build_human(workspace, settings)
    assert human is not None
    return {row["method"]: row for row in human["rows"]}


def refused_of(workspace: Workspace, settings: Settings) -> dict[str, str]:
    human = build_human(workspace, settings)
    assert human is not None
    return {one["file"]: one["reason"] for one in human["refused"]}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


@pytest.fixture
def place(tmp_path: Path, settings: Settings) -> Workspace:
    """A workspace with a page of 20 instructions and three methods."""
    workspace = Workspace(tmp_path)
    write_answers(workspace, settings, told_apart)
    write_page(settings, workspace, 20)
    return workspace


def test_the_page_says_nothing_of_the_methods(place: Workspace, settings: Settings) -> None:
    """Neither their names nor their folders; a pair holds an instruction and two texts, its place is its only name."""
    text = (human_folder(place) / PAGE).read_text(encoding="utf-8").lower()
    for word in (*study_methods(settings), "baseline", "lora", "adapter", "prompt tuning", "000001", str(place.root)):
        assert word not in text
    study = json.loads(page_of(place).scripts[0])
    assert list(study) == ["page", "pairs"]
    assert {tuple(pair) for pair in study["pairs"]} == {("instruction", "left", "right")}


def test_the_key_tells_which_answer_is_whose(place: Workspace) -> None:
    key = read_json(human_folder(place) / KEY)
    for pair, shown in zip(key["pairs"], pairs_of(place), strict=True):
        (method,), number = pair["methods"], int(pair["id"])
        texts = {
            pair["baseline_side"]: told_apart(BASE, number),
            for_method(RatedPair(**pair)): told_apart(method, number),
        }
        assert shown == {"instruction": f"Ask {number}"} | texts


def test_sides_are_a_fair_coins(settings: Settings, tmp_path: Path) -> None:
    """Of 120 tosses a fair coin gives 42 to 78 heads but once in a thousand; no method has a side of its own."""
    workspace = Workspace(tmp_path)
    write_answers(workspace, settings, told_apart)
    pairs = write_page(settings, workspace, INSTRUCTIONS).pairs
    assert len(pairs) == 120 and 42 <= sum(pair.baseline_side == "left" for pair in pairs) <= 78
    for method in study_methods(settings):
        assert 10 <= sum(pair.baseline_side == "left" for pair in pairs if method in pair.methods) <= 30


def test_every_method_answers_the_same_instructions_each_once_a_round(place: Workspace, settings: Settings) -> None:
    pairs = read_json(human_folder(place) / KEY)["pairs"]
    rounds = [[pair["id"] for pair in pairs[start : start + 20]] for start in (0, 20, 40)]
    assert all(len(set(ids)) == 20 and set(ids) == set(rounds[0]) for ids in rounds)
    assert rounds[0] != rounds[1] != sorted(rounds[1])
    assert {method: len({p["id"] for p in pairs if method in p["methods"]}) for method in study_methods(settings)} == {
        method: 20 for method in study_methods(settings)
    }


def test_equal_inputs_give_equal_bytes_and_another_seed_another_page(place: Workspace, settings: Settings) -> None:
    files = [human_folder(place) / name for name in (PAGE, KEY)]
    before = [file.read_bytes() for file in files]
    write_page(settings, place, 20)
    assert [file.read_bytes() for file in files] == before
    first = {pair["id"] for pair in read_json(files[1])["pairs"]}
    assert first < {pair.id for pair in write_page(settings, place, 30).pairs}, "more pairs keep those there are"
    other = load_settings("demo", {"seed": 1})
    write_answers(place, other, told_apart)
    assert {pair.id for pair in write_page(other, place, 20).pairs} != first


def test_answers_stay_whole_and_nothing_in_them_runs(settings: Settings, tmp_path: Path) -> None:
    """Tags, quotes and line separators of an answer are its text: no element of the page comes from one."""
    workspace = Workspace(tmp_path)
    write_answers(workspace, settings, told_apart)
    write_page(settings, workspace, 5)
    harmless = page_of(workspace).elements
    write_answers(workspace, settings, lambda method, number: f"{HOSTILE} {method != BASE} {number}")
    write_page(settings, workspace, 5)
    page = page_of(workspace)
    assert page.elements == harmless and len(page.scripts) == 2
    assert all(pair["left"].startswith(HOSTILE) and pair["right"].startswith(HOSTILE) for pair in pairs_of(workspace))


def test_equal_answers_are_ties_and_shared_ones_are_rated_once(settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    answers = {BASE: "as ever ", "prompt_tuning": "as ever\n", "sft": "anew", "dpo": "anew"}
    write_answers(workspace, settings, lambda method, number: answers[method])
    write_page(settings, workspace, 10)
    assert len(pairs_of(workspace)) == 10
    assert rows_of(workspace, settings)["sft"]["win_rate"] is None, "nobody rated it"
    rate(workspace, "a", for_method)
    rows = rows_of(workspace, settings)
    assert (rows["sft"]["wins"], rows["dpo"]["wins"]) == (10, 10)
    tied = rows["prompt_tuning"]
    assert (tied["ties"], tied["identical"], tied["ratings"]) == (10, 10, 0)
    assert (tied["win_rate"], tied["p"], tied["low"]) == (0.5, 1.0, None)


def test_a_rater_who_always_prefers_one_method(place: Workspace, settings: Settings) -> None:
    """SFT wins all, DPO loses all, prompt tuning ties; the page's sides do not matter."""

    def choose(pair: RatedPair) -> str:
        if "prompt_tuning" in pair.methods:
            return "tie"
        return for_method(pair) if "sft" in pair.methods else pair.baseline_side

    rate(place, "a", choose)
    rows = rows_of(place, settings)
    sft, tied, dpo = (rows[method] for method in ("sft", "prompt_tuning", "dpo"))
    assert (sft["win_rate"], sft["wins"], sft["ratings"]) == (1.0, 20, 20) and sft["p_holm"] < 0.001
    assert (dpo["win_rate"], dpo["losses"]) == (0.0, 20) and dpo["p_holm"] < 0.001
    assert (tied["win_rate"], tied["ties"], tied["p"]) == (0.5, 20, 1.0)
    section = human_section({"human": build_human(place, settings)}, settings)
    assert "| LoRA SFT | 20 / 0 / 0 | 0 | 20 | 100.0% | unknown |" in section and "better |" in section


def test_a_rater_who_tosses_a_coin_finds_nothing(settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_answers(workspace, settings, told_apart)
    write_page(settings, workspace, INSTRUCTIONS)
    coin = random.Random(3)
    rate(workspace, "a", lambda pair: coin.choice(["left", "right", "tie"]))
    for row in rows_of(workspace, settings).values():
        assert 0.3 < row["win_rate"] < 0.7 and row["p"] > 0.05
        assert row["low"] < 0.5 < row["high"]


def test_several_raters_of_an_instruction_are_one_value(place: Workspace, settings: Settings) -> None:
    """Two of three raters for the method: each instruction is won, its value is 1/3, and agreement is counted."""
    for name, choose in (("a", for_method), ("b", for_method), ("c", lambda pair: pair.baseline_side)):
        rate(place, name, choose)
    human = build_human(place, settings)
    assert human is not None and human["raters"] == 3
    for row in human["rows"]:
        assert (row["pairs"], row["ratings"], row["wins"], row["losses"]) == (20, 60, 20, 0)
        assert row["win_rate"] == pytest.approx(2 / 3)
    assert human["agreement"]["pairs"] == 60
    assert human["agreement"]["equal"] == pytest.approx(1 / 3), "one of the three pairs of raters agrees"
    assert human["agreement"]["alpha"] < 0


def test_agreement_is_krippendorffs_alpha() -> None:
    """The nominal example of Krippendorff 2011: four observers, twelve units, missing values, alpha 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[row[i] for row in observers if row[i] != "."] for i in range(12)]
    told = agreement(units)
    assert told is not None and told["alpha"] == pytest.approx(0.743, abs=5e-4) and told["pairs"] == 11
    assert agreement([["left"], ["tie"]]) is None, "one rater agrees with nobody"
    assert agreement([["tie", "tie"]]) == {"pairs": 1, "equal": 1.0, "alpha": None}


def test_false_answers_are_counted_where_facts_were_checked(place: Workspace, settings: Settings) -> None:
    """A rater who did not look says nothing of truth; one who marked nothing found nothing false."""
    path = rate(place, "a", for_method)
    assert rows_of(place, settings)["sft"]["false_share"] is None
    told = read_json(path)
    sides = {pair["pair"]: pair["baseline_side"] for pair in read_json(human_folder(place) / KEY)["pairs"]}
    for rating in told["ratings"]:
        rating["false"] = [sides[rating["pair"]]]
    write_json(path, told)
    rate(place, "b", for_method)
    row = rows_of(place, settings)["sft"]
    assert (row["checked"], row["false_share"], row["false_share_baseline"]) == (20, 0.0, 1.0)
    assert "| LoRA SFT | 20 | 0.0% | 100.0% |" in human_section({"human": build_human(place, settings)}, settings)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"page": "0123456789abcdef"}, "rates another page"),
        ({"ratings": [{"pair": 999, "verdict": "left", "false": None}]}, "pair 999 is not on the page"),
        ({"ratings": [{"pair": 1, "verdict": "left", "false": None}] * 2}, "pair 1 is rated twice"),
        ({"ratings": [{"pair": 1, "verdict": "up", "false": None}]}, "ratings.0.verdict"),
        ({"ratings": [{"pair": True, "verdict": "tie", "false": None}]}, "ratings.0.pair"),
        ({"ratings": [{"pair": 1, "verdict": "tie", "false": ["both"]}]}, "ratings.0.false"),
        ({"ratings": []}, "ratings"),
        ({"saved_at": "yesterday"}, "saved_at"),
        ({"rater": ""}, "rater"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_is_no_rating_of_this_page_is_refused(
    place: Workspace, settings: Settings, broken: dict[str, Any], reason: str
) -> None:
    rate(place, "bad", for_method, **broken)
    assert reason in refused_of(place, settings)["ratings-bad.json"]
    assert rows_of(place, settings)["sft"]["win_rate"] is None
    rate(place, "good", for_method)
    assert rows_of(place, settings)["sft"]["ratings"] == 20, "a bad file costs no other"


@pytest.mark.parametrize("content", [b"", b'{"page": "01', b"[1]", b"\xff\xfe", b"[" * 100_000, b"NaN"])
def test_a_torn_file_is_refused_and_told(place: Workspace, settings: Settings, content: bytes) -> None:
    """Whether it is a rater's or the key; the report says so instead of a figure."""
    for name in ("ratings-a.json", KEY):
        (human_folder(place) / name).write_bytes(content)
        assert refused_of(place, settings)[name]
        section = human_section({"human": build_human(place, settings)}, settings)
        assert name in section and "| LoRA SFT | not measured |" in section


def test_a_raters_newest_file_replaces_the_others(place: Workspace, settings: Settings) -> None:
    """By the time it was saved, not by its name: a browser numbers its downloads."""
    rate(place, "kim", lambda pair: pair.baseline_side, "2026-01-01T10:00:00Z")
    rate(place, "kim (1)", for_method, "2026-01-01T12:00:00+01:00", rater="Kim ")
    human = build_human(place, settings)
    assert human is not None and human["raters"] == 1
    assert rows_of(place, settings)["sft"]["win_rate"] == 1.0
    assert refused_of(place, settings) == {
        "ratings-kim.json": "replaced by ratings-kim (1).json, which a rater of the same name saved later"
    }


def test_without_a_page_there_is_nothing(settings: Settings, tmp_path: Path) -> None:
    assert build_human(Workspace(tmp_path), settings) is None
    assert human_section({"human": None}, settings) == human_section({}, settings) == ""


def test_without_its_key_a_page_says_nothing(place: Workspace, settings: Settings) -> None:
    rate(place, "a", for_method)
    (human_folder(place) / KEY).unlink()
    assert build_human(place, settings) is None
    write_page(settings, place, 20)
    assert rows_of(place, settings)["sft"]["win_rate"] == 1.0, "the same command makes the same key again"


def test_a_method_without_answers_is_not_measured(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    write_answers(workspace, settings, told_apart, "dpo")
    write_text(answers_file(workspace, "prompt_tuning", 0), '{"id": "000001"}\n')
    assert main(["--workspace", str(tmp_path), "--pairs", "5"]) == 1
    assert "no manifest.json says what it was made from" in capsys.readouterr().err
    for folder in (workspace.evaluation / "answers").iterdir():
        write_manifest(folder, StageKey("judge", 1, {}, {}), {}, folder.glob("*.jsonl"))
    assert main(["--workspace", str(tmp_path), "--pairs", "5"]) == 0
    told = capsys.readouterr()
    assert "5 pairs" in told.out and "prompt_tuning, dpo" in told.err
    rate(workspace, "a", for_method)
    rows = rows_of(workspace, settings)
    assert rows["sft"]["win_rate"] == 1.0
    assert rows["dpo"]["win_rate"] is None and rows["dpo"]["ratings"] is None
    assert "| DPO | not measured |" in human_section({"human": build_human(workspace, settings)}, settings)


@pytest.mark.parametrize(("changed", "left"), [("sft", {"prompt_tuning", "dpo"}), (BASE, set())])
def test_ratings_of_answers_that_are_no_longer_the_studys_do_not_count(
    place: Workspace, settings: Settings, changed: str, left: set[str]
) -> None:
    rate(place, "a", for_method)
    answers_file(place, changed, 0).unlink()
    rows = rows_of(place, settings)
    assert {method for method, row in rows.items() if row["win_rate"] is not None} == left
    assert f"answers of {changed} are no longer" in refused_of(place, settings)[KEY]


def test_a_page_that_was_rated_is_not_replaced_by_another(place: Workspace, settings: Settings) -> None:
    rate(place, "a", for_method)
    before = (human_folder(place) / KEY).read_bytes()
    with pytest.raises(PageError, match="ratings of another page"):
        write_page(settings, place, 19)
    assert (human_folder(place) / KEY).read_bytes() == before


def test_the_command_refuses_before_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workspace", str(tmp_path), "--pairs", "0"]) == 2
    assert "--pairs" in capsys.readouterr().err
    assert main(["--workspace", str(tmp_path)]) == 1
    assert "python -m flows.judge" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_only_instructions_that_all_models_answered_are_drawn() -> None:
    base = {name: Answer(f"Ask {name}", "base") for name in ("2", "3", "4")}
    sft = {"1": Answer("Ask 1", "sft"), "2": Answer("Another", "sft"), "3": Answer("Ask 3", "sft")}
    pairs, identical = draw_pairs(base, {"sft": sft}, 50, 0)
    assert [pair.id for pair in pairs] == ["3"] and identical == []


def test_ratings_make_the_report_stale_and_the_number_of_pairs_no_answers(place: Workspace, settings: Settings) -> None:
    """New ratings must reach the report; asking people about more rows must not evaluate the models again."""
    before = study_stages(settings, place)["report"].inputs()
    rate(place, "a", for_method)
    after = study_stages(settings, place)["report"].inputs()
    assert {name for name in after if after[name] != before[name]} == {"evaluation/human"}
    more = load_settings("demo", {"evaluation.human_pairs": 7})
    assert study_stages(more, place)["evaluate-sft"].settings == study_stages(settings, place)["evaluate-sft"].settings


def test_a_partly_rated_page_counts_as_large_a_part_of_the_answers_that_were_not_shown(
    settings: Settings, tmp_path: Path
) -> None:
    """Else ties that nobody rated would draw the win rate of a few ratings towards one half."""
    pairs = [RatedPair(pair=n, id=f"{n}", methods=["sft"], baseline_side="left") for n in range(1, 21)]
    identical = [Tie(id=f"t{n}", method="sft") for n in range(20)]
    write_json(
        human_folder(Workspace(tmp_path)) / KEY,
        Key(page="p", answers={}, pairs=pairs, identical=identical).model_dump(mode="json"),
    )
    for rated in (5, 20):
        ratings = [{"pair": n, "verdict": "right", "false": None} for n in range(1, rated + 1)]
        file = {"page": "p", "rater": "a", "saved_at": "2026-01-01T00:00:00Z", "ratings": ratings}
        write_json(human_folder(Workspace(tmp_path)) / "ratings-a.json", file)
        row = rows_of(Workspace(tmp_path), settings)["sft"]
        assert (row["wins"], row["ties"], row["win_rate"]) == (rated, rated, 0.75)
