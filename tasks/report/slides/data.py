"""Slides on what was made: the data, the preference pairs, the methods and their training."""

from __future__ import annotations

from typing import Any

from tasks.evaluate.compare import figure
from tasks.report.charts import COLOURS
from tasks.report.slides import findings
from tasks.report.slides.charts import Curve, curves, histogram, waterfall
from tasks.report.slides.deck import BODY, WHITE, Box, Cell, Deck, arrow, box_of_text, method_cell, table, write
from tasks.report.slides.findings import Study, rows
from tasks.report.words import NOT_MEASURED, benchmark_name, count, few, listed, method_name, number, percent, short

MADE, TUNED = "#dbeefb", "#fdebd0"
TRAINED = {
    "sft": "low-rank updates of attention",
    "prompt_tuning": "virtual tokens before the input",
    "dpo": "LoRA's adapter, on preferences",
    "prefix_tuning": "keys and values before each layer's",
    "p_tuning": "virtual tokens from a small network",
    "ia3": "factors of keys, values, activations",
    "dora": "low-rank directions and magnitudes",
    "loha": "products of low-rank updates",
}


def pipeline(study: Study, deck: Deck) -> None:
    """How the data were made, as a picture."""
    data, models = figure(study.metrics["dataset"], "rows"), study.settings.models
    raw, kept, pairs = (count(figure(data, name)) for name in ("raw", "filtered", "pairs"))
    title = f"{raw} written answers became {kept} kept rows and {pairs} preference pairs"
    if NOT_MEASURED in (raw, kept, pairs):
        title = f"Raw answers: {raw}; kept rows: {kept}; preference pairs: {pairs}"
    responders = listed([short(model.name) for model in models.responders])
    notes = [
        f"{short(models.teacher.name)} gets only the part of a chat that precedes the user's message. It writes the "
        f"instruction, then answers it. Raw answers: {raw}.",
        f"Rules filter the pairs; rows kept: {kept}. The split is fixed once, by groups of similar instructions.",
        f"{responders} answer the kept instructions again, a reward model scores the answers, and the best and the "
        f"worst make a pair. Pairs: {pairs}.",
        "All models then answer the same benchmark questions, so that answers can be compared one by one.",
    ]
    slide = deck.slide(title, "metrics/dataset.json, metrics/tests.json", 60, notes)
    first, *more = [method_name(method) for method in study.methods if method != "dpo"]
    also = f"{first} and\n{more[0] if len(more) == 1 else f'{len(more)} more methods'}"
    width, height, gap = 2.55, 1.45, 0.643
    across = [BODY.left + place * (width + gap) for place in range(4)]
    upper, lower, last = (BODY.top + 0.1 + row * 2.05 for row in range(3))
    for place, top, text, fill in (
        (0, upper, f"Teacher writes\ninstructions and\nanswers: {raw}", MADE),
        (1, upper, f"Filter keeps\n{kept} rows,\nsplit once", MADE),
        (2, upper, _splits("SFT rows", data, "sft"), MADE),
        (3, upper, also, TUNED),
        (0, lower, f"Base model\n{short(models.base.name)},\nfrozen", WHITE),
        (1, lower, "Three models\nanswer again, a\nreward model scores", MADE),
        (2, lower, _splits("Preference pairs", data, "dpo"), MADE),
        (3, lower, "DPO\ngoes on from\nLoRA's adapter", TUNED),
    ):
        box_of_text(slide, Box(across[place], top, width, height), text, fill)
    for place, top in ((0, upper), (1, upper), (2, upper), (1, lower), (2, lower)):
        arrow(slide, Box(across[place] + width + 0.1, top + height / 2 - 0.2, gap - 0.2, 0.4))
    for place, top in ((1, upper), (3, upper), (3, lower)):
        arrow(slide, Box(across[place] + width / 2 - 0.2, top + height + 0.08, 0.4, 0.44), down=True)
    asked = ", ".join(f"{benchmark_name(name)} {count(study.questions(name))}" for name in study.benchmarks)
    box_of_text(slide, Box(BODY.left, last, BODY.width, 1.1), f"All models answer the same questions\n{asked}", WHITE)


def filtering(study: Study, deck: Deck) -> None:
    """Rows left after each rule."""
    steps = [(step["step"], step["rows"], step["dropped"]) for step in rows(study.metrics["dataset"], "waterfall")]
    title = f"What the filter dropped was {NOT_MEASURED}"
    notes = [f"{title}."]
    if steps:
        raw, kept = steps[0][1], steps[-1][1]
        rule, _, most = max(steps, key=lambda step: step[2])
        title = f"The filter kept {kept:,} of {raw:,} rows ({percent(kept / raw if raw else None)})"
        title += f"; the {rule} rule dropped most, {most:,}" if most else "; no rule dropped any"
        drops = ", ".join(f"{name} {dropped:,}" for name, _, dropped in steps if dropped)
        quality = number(figure(study.metrics["dataset"], "quality", "mean"))
        notes = [
            f"Of {raw:,} rows {kept:,} are left. A row falls to the first rule that it breaks: {drops or 'none did'}.",
            f"Mean quality score of the kept rows: {quality}. It measures form, not truth.",
        ]
    slide = deck.slide(title, "metrics/dataset.json", 45, notes)
    waterfall(slide, BODY, "Rows left after each filter rule", steps)


def preferences(study: Study, deck: Deck) -> None:
    """How far chosen and rejected answers lie apart, and whose they are."""
    data = study.metrics["dataset"]
    told, margins = figure(data, "stats", "preference"), figure(data, "margins")
    mean, longer = figure(margins, "spread", "mean"), figure(told, "length", "longer_chosen_share")
    link = number(figure(told, "length", "spearman_score_words"), 2)
    title = f"How far the chosen answers lead was {NOT_MEASURED}"
    if mean is not None:
        title = f"The chosen answer leads by {number(mean, 2)} reward units on average"
        title += "" if longer is None else f" and is the longer one in {percent(longer, 0)} of pairs"
    notes = [
        f"{title}.",
        f"Correlation of score and length (Spearman): {link}. Part of what DPO learns may be length.",
        f"Pairs whose chosen answer has the higher score: {count(figure(margins, 'ordered'))} of "
        f"{count(figure(margins, 'pairs'))}.",
    ]
    slide = deck.slide(title, "metrics/dataset.json", 45, notes)
    left, right = BODY.beside(5.8)
    x_title = "Chosen minus rejected, from … on [reward units]"
    histogram(slide, left, "Preference pairs by score margin", x_title, rows(margins, "edges"), rows(margins, "counts"))
    body: list[list[Cell]] = []
    for name, one in (figure(told, "models") or {}).items():
        shares = (percent(figure(one, f"{what}_share")) for what in ("win", "loss"))
        body.append([short(name), number(figure(one, "score", "mean"), 2), *shares])
    upper, lower = right.above(3.9)
    table(slide, upper, ("Model", "Score", "Chosen", "Rejected"), body or [[NOT_MEASURED, "", "", ""]])
    write(slide, lower, [("Correlation of score and length:", f"{link}.")], (20, 18))


def methods(study: Study, deck: Deck) -> None:
    """What each method trains, on what, at which rate."""
    runs = study.runs("training")
    body: list[list[Cell]] = []
    for method, section in study.settings.tuning.methods.items():
        trained = figure(study.metrics["dataset"], "rows", f"{'dpo' if method == 'dpo' else 'sft'}_train")
        rate = figure(runs.get(method), "metrics", "learning_rate")
        share = study.cost(method, "trainable_percent")
        body.append(
            [
                method_cell(method),
                TRAINED[method],
                NOT_MEASURED if trained is None else f"{count(trained)} × {section.epochs:g}",
                NOT_MEASURED if rate is None else f"{rate:g}",
                count(study.cost(method, "trainable_parameters")),
                NOT_MEASURED if share is None else f"{share:.2g}%",
            ]
        )
    title = findings.parameters(study)
    notes = [
        f"{title}.",
        "LoRA adds low-rank updates to frozen matrices. Prompt tuning trains embeddings before the input and nothing "
        "else. DPO goes on from LoRA's adapter with preference pairs; that adapter, frozen, is its reference.",
        "The base model's own weights never change.",
    ]
    slide = deck.slide(title, "metrics/efficiency.json, metrics/training.json, metrics/dataset.json", 60, notes)
    header = ("Method", "What is trained", "Rows × epochs", "Rate", "Parameters", "Share")
    table(slide, BODY, header, body)


def training(study: Study, deck: Deck) -> None:
    """Loss curves, DPO's apart from the others, since its loss is another one."""
    runs, title = study.runs("training"), findings.training(study)
    lines = {}
    for method in study.methods:
        points = [(step, loss) for step, loss in rows(runs.get(method), "metrics", "loss_curve")]
        lines[method] = Curve(method_name(method), points, COLOURS[method])
    notes = [f"{title}. The curves are training loss{study.seed}."]
    for method in study.methods:
        before, after = study.losses(method)
        notes.append(f"{method_name(method)}: test loss {number(before)} before, {number(after)} after.")
    notes.append("DPO's loss is one of pairs and starts at 0.693, where it agrees with its reference.")
    slide = deck.slide(title, "metrics/training.json", 60, notes)
    upper, lower = BODY.above(4.6)
    left, right = upper.beside(7.0)
    on_answers = [line for method, line in lines.items() if method != "dpo"]
    curves(slide, left, f"Training loss on answers{study.seed}", ("Optimizer step", "Nats a token"), on_answers)
    curves(slide, right, f"Training loss of DPO{study.seed}", ("Optimizer step", "Nats a pair"), [lines["dpo"]])
    accuracy = figure(runs.get("dpo"), "metrics", "eval", "test", "accuracy")
    text = f"DPO ranks {percent(accuracy)} of the unseen test pairs as the reward model does."
    if accuracy is None:
        text = f"DPO's preference accuracy on test pairs: {NOT_MEASURED}."
    if missing := [line.name for line in lines.values() if not line.points]:
        text += f" Curves {NOT_MEASURED}: {few(missing)}."
    write(slide, lower, [text], (20, 18))


def _splits(title: str, data: Any, name: str) -> str:
    train, val, test = (count(figure(data, f"{name}_{split}")) for split in ("train", "val", "test"))
    known = NOT_MEASURED not in (train, val, test)
    return f"{title}\n{train} train,\n{val} val, {test} test" if known else f"{title}\n{NOT_MEASURED}"
