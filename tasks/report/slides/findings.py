"""What a study's figures say, in sentences short enough for a slide; each follows from the metrics files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from statistics import median
from typing import Any

from configs.settings import Settings
from storage.workspace import Workspace
from tasks.evaluate.compare import CONTRAST_FIGURES, TEST_FIGURES, figure, verdict
from tasks.evaluate.results import BASE, study_methods
from tasks.report.charts import Z95
from tasks.report.metrics import load_metrics, own_runs
from tasks.report.recommend import mean_gain, path_costs, recommendations
from tasks.report.words import (
    NOT_MEASURED,
    benchmark_name,
    capital,
    count,
    duration,
    listed,
    method_name,
    number,
    percent,
    plural,
    points,
    size,
)

NAMES = ("comparison", "efficiency", "tests", "dataset", "training", "provenance", "checklist")
OPTIONAL = ("win_rates", "forgetting", "human", "attached")

PAGE = 4  # benchmarks on a slide
CHANCE = ", which may be chance"


@dataclass(frozen=True)
class Study:
    """The metrics files of a study, with what is absent filled in as None."""

    settings: Settings
    metrics: Mapping[str, Any]
    attempted: frozenset[str]
    """Metrics files that are there, of those that a study need not have."""

    @cached_property
    def methods(self) -> list[str]:
        """The study's methods, the required ones first."""
        return study_methods(self.settings)

    @cached_property
    def benchmarks(self) -> list[str]:
        """The study's benchmarks."""
        return list(self.settings.evaluation.benchmarks)

    @cached_property
    def pages(self) -> list[list[str]]:
        """The benchmarks, few enough together that a slide can show every method's figures on them."""
        count = ceil(len(self.benchmarks) / PAGE)
        size = ceil(len(self.benchmarks) / count)
        return [self.benchmarks[start : start + size] for start in range(0, len(self.benchmarks), size)]

    @cached_property
    def contrasts(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Each method's difference to the base model on each benchmark, with the questions it rests on."""
        found: dict[tuple[str, str], dict[str, Any]] = {
            (method, benchmark): dict.fromkeys((*CONTRAST_FIGURES, *TEST_FIGURES))
            for method in self.methods
            for benchmark in self.benchmarks
        }
        for row in [*rows(self.metrics["tests"], "tests"), *rows(self.metrics["comparison"], "contrasts")]:
            key = figure(row, "method"), figure(row, "benchmark")
            if key in found:
                found[key] |= row
        return found

    @cached_property
    def picks(self) -> list[dict[str, Any]]:
        """The recommendations by use case."""
        return recommendations(self.metrics, self.settings)

    def verdict(self, method: str, benchmark: str) -> str:
        """Plain words on a method and a benchmark."""
        return verdict(self.contrasts[method, benchmark], self.settings.evaluation.alpha)

    def judged(self, words: str) -> list[tuple[str, str]]:
        """Methods and benchmarks of one verdict."""
        return [key for key in self.contrasts if self.verdict(*key) == words]

    def runs(self, name: str) -> dict[str, Any]:
        """Runs of the study's own seed in a metrics file, by method."""
        return own_runs(self.metrics[name], self.settings.seed)

    def cost(self, method: str, name: str) -> Any:
        """A figure of a method's own run."""
        return figure(self.runs("efficiency").get(method), name)

    def losses(self, method: str) -> tuple[float | None, float | None]:
        """Loss on the test rows before and after training [nats]."""
        before, after = (
            figure(self.runs("training").get(method), "metrics", "eval", "test", f"loss_{when}")
            for when in ("before", "after")
        )
        return before, after

    @property
    def seed(self) -> str:
        """What a title adds where there are several seeds and one is shown."""
        return f", seed {self.settings.seed}" if self.settings.tuning.seeds > 1 else ""

    def questions(self, benchmark: str) -> int | None:
        """Questions of a benchmark that methods were compared on."""
        known = [self.contrasts[method, benchmark]["questions"] for method in self.methods]
        return max((one for one in known if one is not None), default=None)


def load_study(workspace: Workspace, settings: Settings) -> Study:
    """Read every metrics file that is there."""
    metrics = {name: load_metrics(workspace, name) for name in (*NAMES, *OPTIONAL)}
    return Study(settings, metrics, frozenset(name for name in OPTIONAL if metrics[name]))


def rows(record: Any, *path: str) -> list[Any]:
    """A list inside nested mappings, empty where there is none."""
    found = figure(record, *path)
    return found if isinstance(found, list) else []


def who(methods: Sequence[str], study: Study) -> str:
    """Methods in few words, however many there are."""
    if len(methods) <= 2:
        return listed([method_name(method) for method in methods])
    return f"all {len(methods)} methods" if len(methods) == len(study.methods) else f"{len(methods)} methods"


def where(found: Sequence[tuple[str, str]], study: Study) -> str:
    """The benchmarks of some methods and benchmarks in few words."""
    methods, benchmarks = {method for method, _ in found}, list(dict.fromkeys(benchmark for _, benchmark in found))
    alike = len(found) == len(methods) * len(benchmarks)
    total = len(study.benchmarks)
    if len(benchmarks) <= 2:
        return listed([benchmark_name(name) for name in benchmarks], "and" if alike else "or")
    if not alike:
        return f"some of {total} benchmarks"
    return f"all {total} benchmarks" if len(benchmarks) == total else f"{len(benchmarks)} of {total} benchmarks"


def subject(study: Study) -> str:
    """What the study is about."""
    ways = "Three" if len(study.methods) == 3 else len(study.methods)
    return f"{ways} ways to adapt one language model, and what they cost"


def headline(study: Study) -> str:
    """The comparison with the base model in one sentence."""
    if len(study.judged(NOT_MEASURED)) == len(study.contrasts):
        return f"The comparison with the base model was {NOT_MEASURED}"
    told = []
    for words, verb in (("better", "gained"), ("worse", "lost")):
        if found := study.judged(words):
            methods = list(dict.fromkeys(method for method, _ in found))
            told.append(f"{who(methods, study)} {verb} on {where(found, study)}")
    measured = "measured " if study.judged(NOT_MEASURED) else ""
    if not told:
        return f"No {measured}method can be told apart from the base model at this size"
    if not study.judged("better"):
        told.insert(0, f"no {measured}gain is certain")
    if not study.judged("worse"):
        told.append(f"no {measured}loss is certain")
    return capital("; ".join(told))


def verdict_counts(study: Study) -> str:
    """How many comparisons came out how."""
    better, worse = len(study.judged("better")), len(study.judged("worse"))
    missing = len(study.judged(NOT_MEASURED))
    if missing == len(study.contrasts):
        return f"The {missing} comparisons with the base model were {NOT_MEASURED}"
    text = (
        f"Of {len(study.contrasts)} comparisons with the base model {better} are better, {worse} worse, "
        f"{len(study.contrasts) - better - worse - missing} undecided"
    )
    return text + (f", {missing} {NOT_MEASURED}" if missing else "")


def method_verdicts(study: Study, method: str, benchmarks: Sequence[str]) -> str:
    """The verdicts on a method on some benchmarks, with the differences."""
    found: dict[str, list[str]] = {}
    for benchmark in benchmarks:
        difference = study.contrasts[method, benchmark]["difference"]
        told = "" if difference is None else f" ({points(difference)} points)"
        found.setdefault(study.verdict(method, benchmark), []).append(f"{benchmark_name(benchmark)}{told}")
    return f"{method_name(method)}: {'; '.join(f'{words} on {listed(names)}' for words, names in found.items())}."


def among(study: Study, known: Sized) -> str:
    """What "most" and "least" hold for, where not every method was measured."""
    return "" if len(known) == len(study.methods) else f"of {plural(len(known), 'method')} measured, "


def parameters(study: Study) -> str:
    """Who trains least and who most."""
    known = {method: study.cost(method, "trainable_parameters") for method in study.methods}
    ranked = sorted((one for one in known if known[one]), key=lambda one: known[one])
    if not ranked:
        return f"How many parameters each method trains was {NOT_MEASURED}"
    least, most = ranked[0], max(ranked, key=lambda one: known[one])
    text = f"{among(study, ranked)}{method_name(least)} trains the fewest parameters, {count(known[least])}"
    more = f", {method_name(most)} {known[most] / known[least]:,.1f} times as many"
    return capital(text + (more if known[most] > known[least] else ""))


def memory(study: Study) -> str:
    """Who needs the least memory and who the most."""
    ranked, known = _by_cost(study, "memory")
    if not ranked:
        return f"Training memory was {NOT_MEASURED}"
    first, last = ranked[0], max(ranked, key=lambda one: known[one])  # of DPO and the LoRA before it, LoRA
    text = f"{among(study, ranked)}{method_name(first)} trains in the least memory, {size(known[first])}"
    return capital(
        text + (f", {method_name(last)} in the most, {size(known[last])}" if known[last] > known[first] else "")
    )


def training_time(study: Study) -> str:
    """The shortest and the longest way from the base model to an adapter."""
    ranked, known = _by_cost(study, "seconds")
    if not ranked:
        return f"Training time was {NOT_MEASURED}"
    first, last = ranked[0], ranked[-1]
    text = f"{among(study, ranked)}{method_name(first)} is trained in {duration(known[first])}"
    return capital(text + (f", {method_name(last)} in {duration(known[last])}" if known[last] > known[first] else ""))


def _by_cost(study: Study, name: str) -> tuple[list[str], dict[str, Any]]:
    """Methods of which a cost is known, the cheapest first, and the costs."""
    known = {method: path_costs(study.metrics, method, study.settings.seed)[name] for method in study.methods}
    return sorted((one for one in known if known[one] is not None), key=lambda one: known[one]), known


def training(study: Study) -> str:
    """How many trainings converged and whose held-out loss fell most."""
    runs = study.runs("training")
    told = [figure(runs.get(method), "metrics", "convergence", "converged") for method in study.methods]
    known = [one for one in told if one is not None]
    if not known:
        return f"Whether the trainings converged was {NOT_MEASURED}"
    which = f"{'' if len(known) == len(told) else 'measured '}trainings"
    which += f" of seed {study.settings.seed}" if study.seed else ""
    text = f"{'All' if all(known) else f'{known.count(True)} of'} {len(known)} {which} converged"
    # DPO's loss is another one
    losses = {method: study.losses(method) for method in study.methods if method != "dpo"}
    falls = {method: 1 - after / before for method, (before, after) in losses.items() if before and after is not None}
    if not falls:
        return text
    best = max(falls, key=lambda one: falls[one])
    if falls[best] <= 0:
        return f"{text}; none lowered the loss on unseen answers"
    return f"{text}; {method_name(best)} lowered the loss on unseen answers most, by {percent(falls[best], 0)}"


def score_lead(study: Study) -> str:
    """On how many benchmarks a method's score stands above the base model's, chance or not."""
    values = scores(study)
    known = [name for name in study.benchmarks if (BASE, name) in values]
    if not known:
        return f"The base model's scores were {NOT_MEASURED}"
    above = [name for name in known if any(values.get((one, name), 0) > values[BASE, name] for one in study.methods)]
    whole = len(values) == len(study.benchmarks) * (1 + len(study.methods))
    many = "a method scores" if above else "no method scores" if whole else "no measured method scores"
    place = "any benchmark" if not above else f"{len(above)} of {len(known)} benchmarks"
    return f"Before asking what is chance, {many} above the base model on {place}"


def scores(study: Study) -> dict[tuple[str, str], float]:
    """The measured scores of the study's own seed, by method and benchmark."""
    return {
        (row["method"], row["benchmark"]): row["value"]
        for row in rows(study.metrics["comparison"], "scores")
        if row["seed"] == study.settings.seed and figure(row, "value") is not None
    }


def certain(study: Study) -> str:
    """How many differences hold."""
    gains, losses = len(study.judged("better")), len(study.judged("worse"))
    tested = len(study.contrasts) - len(study.judged(NOT_MEASURED))
    if not tested:
        return f"The differences to the base model were {NOT_MEASURED}"

    told = f"{plural(gains, 'gain')}, {plural(losses, 'loss', 'losses')}"
    return f"{gains + losses} of {tested} differences hold after Holm's adjustment: {told}"


def detectable(study: Study) -> str:
    """What size of difference the study could see."""
    known = [row["mde"] for row in study.contrasts.values() if row["mde"] is not None]
    if not known:
        return f"What difference this study could see was {NOT_MEASURED}"
    which = "these tests" if len(known) == len(study.contrasts) else f"the {len(known)} tests that can see any"
    return f"Half of {which} can only see true differences of {100 * median(known):.1f} points or more"


def questions_needed(study: Study, target: float = 0.02) -> str:
    """How many questions would show a difference of two points; empty where it is not known.

    The detectable difference falls with the square root of the questions (Miller 2024, arXiv 2411.00640, section 5),
    where each stands for itself.
    """
    told = []
    for benchmark in study.benchmarks:
        found = [study.contrasts[method, benchmark] for method in study.methods]
        needed = [row["questions"] * (row["mde"] / target) ** 2 for row in found if row["mde"] and row["questions"]]
        if needed and not any(row["clusters"] for row in found):
            told.append(f"{count(float(f'{max(needed):.2g}'))} {benchmark_name(benchmark)}")
    return f"Seeing a difference of two points takes about {listed(told)} questions." if told else ""


def seed_interval(study: Study) -> str:
    """The widest interval over trainings; empty with one training."""
    found = [(key, row["seeds"]) for key, row in study.contrasts.items() if None not in ends(row.get("seeds"))]
    if not found:
        return ""
    (method, name), seeds = max(found, key=lambda one: one[1]["high"] - one[1]["low"])
    return (
        f"Over new trainings and new questions together, {method_name(method)} on {benchmark_name(name)} lies between "
        f"{points(seeds['low'])} and {points(seeds['high'])} points."
    )


def trade_off(study: Study) -> str:
    """Whose mean gain is largest, and what it costs."""
    gains = {method: mean_gain(study.metrics, method) for method in study.methods}
    known = {method: gain for method, gain in gains.items() if gain is not None}
    if not known:
        return f"The mean difference to the base model was {NOT_MEASURED}"
    best = max(known, key=lambda one: known[one][0])
    value, stderr = known[best]
    told = f"{method_name(best)}'s {points(value)} points"
    if value <= 0:
        return capital(f"{among(study, known)}no method gains on average, whatever it costs; {told} come closest")
    used = path_costs(study.metrics, best, study.settings.seed)["memory"]
    price = "" if used is None else f", for {size(used)} of training memory"
    doubt = "" if stderr is not None and value > Z95 * stderr else CHANCE
    return capital(f"{among(study, known)}{told} are the largest mean gain{price}{doubt}")


def beyond(study: Study) -> str:
    """What was found beside the benchmarks."""
    told = []
    for name, judge in (("win_rates", "the reward model prefers"), ("human", "people prefer")):
        known = [row for row in against_base(study, name).values() if figure(row, "win_rate") is not None]
        if known:
            best = max(known, key=lambda row: row["win_rate"])
            told.append(
                f"{judge} {method_name(best['method'])} most, win rate {percent(best['win_rate'])}{doubt(best, study)}"
            )
    losses = [row for row in against_base(study, "forgetting").values() if figure(row, "difference") is not None]
    if losses and len(told) < 2:
        worst = max(losses, key=lambda row: row["difference"])
        text = f"{method_name(worst['method'])} forgot most, {number(worst['difference'])} bits a byte"
        text += doubt(worst, study)
        told.append(text if worst["difference"] > 0 else "no method forgot general text")
    return capital("; ".join(told)) or f"What lies beyond the benchmarks was {NOT_MEASURED}"


def doubt(row: Any, study: Study) -> str:
    """That a figure may be chance, unless it holds after Holm's adjustment."""
    adjusted = figure(row, "p_holm")
    return "" if adjusted is not None and adjusted <= study.settings.evaluation.alpha else CHANCE


def ends(row: Any) -> tuple[Any, Any]:
    """The ends of an interval, either None where it is not known."""
    return figure(row, "low"), figure(row, "high")


def against_base(study: Study, name: str) -> dict[str, Any]:
    """Rows of a metrics file that hold a method against the base model, by method."""
    return {row["method"]: row for row in rows(study.metrics[name], "rows") if figure(row, "baseline") == BASE}


def decided(study: Study) -> list[dict[str, Any]]:
    """Use cases for which the figures decide."""
    return [pick for pick in study.picks if pick["method"]]


def decisions(study: Study) -> str:
    """How many use cases the figures decide."""
    found = decided(study)
    if not found:
        return f"The figures decide none of the {len(study.picks)} use cases"
    chosen = list(dict.fromkeys(pick["method"] for pick in found))
    return f"The figures decide {len(found)} of {len(study.picks)} use cases, for {who(chosen, study)}"


def basis(study: Study) -> str:
    """How much the figures rest on."""
    seeds = trained_seeds(study)
    if not seeds:
        return f"What the methods gain was {NOT_MEASURED}"
    known = [study.questions(name) for name in study.benchmarks]
    total = sum(one for one in known if one is not None)
    text = f"These figures rest on {'one training' if seeds == 1 else f'{seeds} trainings'} of each method"
    return f"{text} and {total:,} questions" if total else text


def trained_seeds(study: Study) -> int:
    """Trainings of each method that were measured."""
    found = rows(study.metrics["comparison"], "scores")
    return len({row["seed"] for row in found if row["method"] != BASE and figure(row, "value") is not None})


def limits(study: Study) -> list[str]:
    """What the figures do not show."""
    rated = [row for row in rows(study.metrics["human"], "rows") if figure(row, "ratings")]
    judge = f"people gave {sum(row['ratings'] for row in rated):,} ratings" if rated else "no person rated them"
    lines = [f"All training data are synthetic English: a model wrote them, a model scored them, {judge}."]
    if study.settings.world:
        lines.insert(0, "This is the demo: tiny models in an invented world. Its figures say nothing about Llama.")
    if trained_seeds(study) < 2:
        lines.append("The intervals hold for new questions, not for another training run.")
    lines.append(
        "Learning rates were chosen on validation rows, among few candidates."
        if study.settings.tuning.sft.search_rates
        else "Learning rates are the profile's: a method may be shown below its best."
    )
    found = rows(study.metrics["comparison"], "scores")
    missing = sum(figure(row, "value") is None for row in found)
    if missing:
        lines.append(f"{missing} of {len(found)} benchmark scores were {NOT_MEASURED}.")
    refused = rows(study.metrics["tests"], "refused")
    if refused:
        lines.append(f"{len(refused)} results were stale or torn and are not used.")
    if any(figure(run, "device") == "cpu" for run in study.runs("efficiency").values()):
        lines.append("Times were taken on a CPU that other work may have shared.")
    return lines


def conclusion(study: Study) -> str:
    """What to do with it."""
    chosen = list(dict.fromkeys(pick["method"] for pick in decided(study)))
    if not chosen:
        return "By these figures no method can be recommended over the base model"
    return f"Where the figures decide, they recommend {listed([method_name(one) for one in chosen])}"
