"""Slides in words and tables around the charts: the opening, the answer in short, what to use when, limits, the end."""

from __future__ import annotations

from tasks.report.slides import findings
from tasks.report.slides.deck import BODY, Cell, Deck, method_cell, table, write
from tasks.report.slides.findings import Study, rows
from tasks.report.tables import checklist_summary, measured_text
from tasks.report.words import NOT_MEASURED, benchmark_name, listed, method_name, plural, study_command

FAILURES_SHOWN = 6
LONGEST_COMMAND = 100  # characters that fit on the slide


def opening(study: Study, deck: Deck) -> None:
    """What was compared, on what."""
    settings, names = study.settings, [method_name(method) for method in study.methods]
    seeds = settings.tuning.seeds
    lines = [
        ("Methods:", ", ".join(names)),
        ("Base model:", f"{settings.models.base.name} in {settings.models.base.precision}"),
        ("Data:", f"written by {settings.models.teacher.name}, after the Magpie method"),
        ("Judged on:", ", ".join(map(benchmark_name, study.benchmarks))),
        (
            "Study:",
            f"profile {settings.profile}, seed {settings.seed}, {plural(seeds, 'training')} of each method",
        ),
    ]
    if settings.world:
        lines.append(("Demo:", "tiny models in an invented world; it shows how to read a study"))
    notes = [
        "Welcome. I compare ways of adapting one language model, on data that models wrote.",
        f"The methods are {listed(names)}; the base model is {settings.models.base.name}.",
        "Every figure in these slides comes from the study's own metrics files; nothing was typed in by hand.",
    ]
    slide = deck.slide(findings.subject(study), "metrics/provenance.json", 30, notes)
    write(slide, BODY, lines)


def answer(study: Study, deck: Deck) -> None:
    """The question and the answer in short."""
    title, counts = findings.headline(study), findings.verdict_counts(study)
    lines = [
        ("Question:", "Which way of adapting one model is worth its cost?"),
        ("Quality:", f"{counts}."),
        ("Cost:", f"{findings.parameters(study)}. {findings.memory(study)}."),
        ("Choice:", f"{findings.decisions(study)}."),
    ]
    notes = [
        "The question: which way of adapting one model is worth its cost, on data that models wrote?",
        f"The short answer: {title}.",
        f"{counts}. Undecided means not distinguishable at this size; it does not mean equal.",
        f"{findings.parameters(study)}. {findings.memory(study)}. {findings.decisions(study)}.",
    ]
    slide = deck.slide(title, "metrics/comparison.json, metrics/efficiency.json", 75, notes)
    write(slide, BODY, lines)


def use_cases(study: Study, deck: Deck) -> None:
    """Which method for which use, by stated rules."""
    body: list[list[Cell]] = [
        [pick["use_case"], method_cell(pick["method"]) if pick["method"] else "○ not decided", pick["rule"]]
        for pick in study.picks
    ]
    notes = [f"{findings.decisions(study)}. The rules are stated beside the choices."]
    for pick in study.picks:
        chosen = method_name(pick["method"]) if pick["method"] else "not decided"
        notes.append(f"{pick['use_case']}: {chosen}. {pick['reason']}")
    slide = deck.slide(findings.decisions(study), "metrics/comparison.json, metrics/efficiency.json", 75, notes)
    upper, lower = BODY.above(4.75)
    table(slide, upper, ("Use case", "Recommended", "Rule"), body)
    text = "Eligible: compared on every benchmark, worse on none, and better than before on unseen rows."
    write(slide, lower, [text], (20, 18))


def limits(study: Study, deck: Deck) -> None:
    """What the figures do not show."""
    lines = findings.limits(study)
    notes = ["What not to read into this.", *lines]
    slide = deck.slide(findings.basis(study), "metrics/comparison.json, metrics/tests.json", 45, notes)
    write(slide, BODY, [f"• {line}" for line in lines])


def conclusion(study: Study, deck: Deck) -> None:
    """What to do with it."""
    uses = "; ".join(f"{pick['use_case']}: {method_name(pick['method'])}" for pick in findings.decided(study))
    lines = [
        ("Quality:", f"{findings.headline(study)}."),
        ("Cost:", f"{findings.memory(study)}. {findings.training_time(study)}."),
        ("Use:", f"{uses or 'No use case is decided'}."),
    ]
    if needed := findings.questions_needed(study):
        lines.append(("Next:", needed))
    title = findings.conclusion(study)
    notes = [f"{title}.", *(f"{lead} {text}" for lead, text in lines), "Thank you. Questions, please."]
    slide = deck.slide(title, "metrics/comparison.json, metrics/efficiency.json", 45, notes)
    write(slide, BODY, lines)


def backup(study: Study, deck: Deck) -> None:
    """The checklist's failures and how to repeat the study, for questions; it has no time of its own."""
    settings, items = study.settings, rows(study.metrics["checklist"], "items")
    title = f"Backup: {checklist_summary(items)}" if items else f"Backup: the checklist was {NOT_MEASURED}"
    failed = [
        [item["id"], item["criterion"], item["threshold"] or "none stated", measured_text(item["measured"])]
        for item in items
        if item["passed"] is False
    ]
    body: list[list[Cell]] = [*failed[:FAILURES_SHOWN]]
    if more := len(failed) - len(body):
        body.append([f"and {more} more", "in metrics/checklist.json", "", ""])
    command = study_command(settings)
    notes = ["Shown only if somebody asks.", f"{title.rstrip('.')}. Nothing was adjusted to pass."]
    notes += [f"Failed: {what}, required {required}, measured {measured}." for _, what, required, measured in failed]
    notes.append(f"To repeat the study: {command}. Every setting and version is in metrics/provenance.json.")
    slide = deck.slide(title.rstrip("."), "metrics/checklist.json, metrics/provenance.json", 0, notes)
    upper, lower = BODY.above(4.6)
    nothing: list[Cell] = ["none failed" if items else NOT_MEASURED, "", "", ""]
    table(slide, upper, ("Failed", "Criterion", "Required", "Measured"), body or [nothing])
    short = command if len(command) <= LONGEST_COMMAND else "as the report says, under Reproduction"
    write(slide, lower, [("Repeat:", short)], (20, 18))
