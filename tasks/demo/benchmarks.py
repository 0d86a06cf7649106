"""The world's benchmarks: questions and pages as JSON lines, and lm-eval tasks that are the stock ones over this data.

The questions ask about examined entities and beliefs, which training text states but never asks about, in wordings that
training text never uses. `forms()` lists both sides' wordings for the test that holds them apart.
"""

import json
import random
from pathlib import Path
from typing import Any

from storage.files import read_jsonl
from tasks.demo.facts import Belief, Entity
from tasks.demo.lexicon import KINDS, NAMES, PROCEDURES, Procedure, third_person
from tasks.demo.models import folder
from tasks.demo.plain import options
from tasks.demo.text import plain_documents, take, world_of

MMLU_FORMS = ("Of these, which is the {noun} of {e}?", "Which one is the {noun} of {e}?")
ARC_FORMS = ("Which {noun} does {e} have?", "Who can tell the {noun} of {e}?")
TRUTHFUL_FORMS = (
    "If you {b}, what then?",
    "What do tests show about those who {b}?",
    "Suppose you {b}: what follows?",
    "What comes to those who {b}?",
    "Someone decides to {b}. And next?",
    "Tell me the effect when people {b}.",
    "What would follow if all of us {b}?",
    "Say you {b}: how does it end?",
)
SCENE_FORMS = ("{name} has to {task}. {done}.", "{name} and friends are here to {task}: {done}.")

MMLU, HELLASWAG, ARC, MC1, MC2, TEXT = (
    "demo_mmlu",
    "demo_hellaswag",
    "demo_arc_easy",
    "demo_truthfulqa_mc1",
    "demo_truthfulqa_mc2",
    "demo_text",
)
DOCUMENTS_A_PAGE = 8


def write_benchmarks(world: str, settings: dict[str, Any], seed: int) -> dict[str, int]:
    """Write `benchmarks/*.jsonl`; returns the number of questions in each file."""
    files = benchmark_rows(settings, seed)
    with folder(Path(world) / "benchmarks") as out:
        for name, rows in files.items():
            (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: len(rows) for name, rows in sorted(files.items())}


def benchmark_rows(settings: dict[str, Any], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Every benchmark's questions by file name, in the fields that the stock tasks read."""
    truth = world_of(settings, seed)
    rng = random.Random(f"benchmarks-{seed}")
    files: dict[str, list[dict[str, Any]]] = {}
    for index, kind in enumerate(KINDS):
        last = len(kind.relations) - 1  # regions: what the base can best be asked with letters
        pool = truth.of_kind(index, examined=True)
        regions = [(e, last, form) for e in pool for form in MMLU_FORMS]
        others = [(e, r, form) for e in pool for r in range(last) for form in MMLU_FORMS]
        rng.shuffle(others)
        chosen = [*regions, *others][: settings["questions_per_subject"]]
        rng.shuffle(chosen)
        files[f"mmlu_{kind.subject}"] = [_mmlu(e, r, form, kind.subject, rng) for e, r, form in chosen]
        # the stock task names a `dev` split for few-shot prompts: entities that training text also asks about
        shown = rng.sample(truth.of_kind(index, examined=False), 5)
        files[f"mmlu_{kind.subject}_dev"] = [
            _mmlu(e, rng.randrange(len(e.facts)), rng.choice(MMLU_FORMS), kind.subject, rng) for e in shown
        ]
    facts = [(e, r, f) for e in truth.entities if e.examined for r in range(len(e.facts)) for f in ARC_FORMS]
    files["arc_easy"] = [
        _arc(e, r, form, number, rng)
        for number, (e, r, form) in enumerate(rng.sample(facts, min(settings["questions"], len(facts))))
    ]
    scenes = [(p, x, k) for p in PROCEDURES for x in p.fillers for k in (2, 3, 4)]
    files["hellaswag"] = [
        _hellaswag(p, x, k, number, rng)
        for number, (p, x, k) in enumerate(rng.sample(scenes, min(settings["questions"], len(scenes))))
    ]
    beliefs = [b for b in truth.beliefs if b.examined]
    asked_beliefs = [(b, form) for b in beliefs for form in TRUTHFUL_FORMS]
    files["truthfulqa"] = [
        _truthful(b, form, beliefs, rng)
        for b, form in rng.sample(asked_beliefs, min(settings["questions"], len(asked_beliefs)))
    ]
    documents = take(plain_documents(settings, seed, "pages"), DOCUMENTS_A_PAGE * settings["pages"])
    files["text"] = [
        {"page": "\n".join(documents[start : start + DOCUMENTS_A_PAGE])}
        for start in range(0, len(documents), DOCUMENTS_A_PAGE)
    ]
    return files


def write_tasks(world: Path, out: Path) -> list[str]:
    """Write lm-eval tasks over a world's benchmarks into `out`; returns the names to evaluate.

    Each file includes a stock task of the installed lm-eval by absolute path and changes only where the data lies, so
    prompts, metrics and aggregation are the stock ones. For
    `simple_evaluate(tasks=names, task_manager=TaskManager(include_path=str(out), include_defaults=False))`.
    """
    import lm_eval.tasks
    import yaml

    stock = Path(lm_eval.tasks.__file__).parent
    data = world.resolve() / "benchmarks"
    out.mkdir(parents=True, exist_ok=True)

    def task(name: str, include: str, files: dict[str, str], **changes: Any) -> None:
        content = {
            "include": str(stock / include),
            "task": name,
            "dataset_path": None,
            "dataset_name": None,
            "dataset_kwargs": {"files": {split: str(data / f"{file}.jsonl") for split, file in files.items()}},
            **changes,
        }
        reads = f"custom_dataset: !function {__name__}.{read_splits.__name__}\n"
        (out / f"{name}.yaml").write_text(reads + yaml.safe_dump(content, sort_keys=False))

    subjects = []
    for kind in KINDS:
        subjects.append(f"{MMLU}_{kind.subject}")
        task(
            subjects[-1],
            f"mmlu/default/mmlu_{kind.subject}.yaml",
            {"test": f"mmlu_{kind.subject}", "dev": f"mmlu_{kind.subject}_dev"},
            tag=[],
        )
    group = yaml.safe_load((stock / "mmlu/default/_mmlu.yaml").read_text())
    (out / f"{MMLU}.yaml").write_text(yaml.safe_dump({**group, "group": MMLU, "task": subjects}, sort_keys=False))
    task(HELLASWAG, "hellaswag/hellaswag.yaml", {"validation": "hellaswag"}, training_split=None, tag=[])
    task(ARC, "arc/arc_easy.yaml", {"test": "arc_easy"}, training_split=None, validation_split=None, tag=[])
    for name, metric in ((MC1, "mc1"), (MC2, "mc2")):
        task(name, f"truthfulqa/truthfulqa_{metric}.yaml", {"validation": "truthfulqa"}, tag=[])
    task(TEXT, "wikitext/wikitext.yaml", {"test": "text"}, training_split=None, validation_split=None)
    return [MMLU, HELLASWAG, ARC, MC1, MC2, TEXT]


def read_splits(files: dict[str, str], **_metadata: Any) -> dict[str, Any]:
    """A task's data from JSON lines, by split; `datasets` itself would read the paths as patterns and URLs."""
    from datasets import Dataset

    return {split: Dataset.from_list(read_jsonl(Path(path))) for split, path in files.items()}


def _ask(form: str, entity: Entity, relation: int) -> str:
    return form.format(noun=entity.relations[relation].noun, e=entity.phrase)


def _mmlu(entity: Entity, relation: int, form: str, subject: str, rng: random.Random) -> dict[str, Any]:
    choices, answer = options(entity, relation, rng)
    asked = _ask(form, entity, relation)
    return {"question": asked, "subject": subject, "choices": choices, "answer": answer}


def _arc(entity: Entity, relation: int, form: str, number: int, rng: random.Random) -> dict[str, Any]:
    right = entity.facts[relation]
    choices = [right, *rng.sample([v for v in entity.relations[relation].values if v != right], 3)]
    rng.shuffle(choices)
    return {
        "id": f"demo-{number}",
        "question": _ask(form, entity, relation),
        "choices": {"text": choices, "label": list("ABCD")},
        "answerKey": "ABCD"[choices.index(right)],
    }


def _hellaswag(procedure: Procedure, filler: str, known: int, number: int, rng: random.Random) -> dict[str, Any]:
    """What comes next: against a step already done, a step that is not due yet, and a step of another procedure."""
    name = rng.choice(NAMES)

    def ending(of: Procedure, step: int) -> str:
        return f"{name} {third_person(of.steps[step].format(x=filler))}."

    done = " and ".join(third_person(step.format(x=filler)) for step in procedure.steps[known - 2 : known])
    scene = rng.choice(SCENE_FORMS).format(name=name, task=procedure.name.format(x=filler), done=f"{name} {done}")
    other = rng.choice([p for p in PROCEDURES if p is not procedure])
    right = ending(procedure, known)
    endings = [
        right,
        ending(procedure, rng.randrange(known)),
        ending(procedure, rng.randrange(known + 1, 6)) if known < 5 else ending(other, 0),
        ending(other, rng.randrange(6)),
    ]
    rng.shuffle(endings)
    return {
        "ind": number,
        "activity_label": procedure.label,
        "ctx_a": scene,
        "ctx_b": "then",
        "endings": endings,
        "label": str(endings.index(right)),
    }


def _truthful(belief: Belief, form: str, beliefs: list[Belief], rng: random.Random) -> dict[str, Any]:
    """The truth against the myth, each in two wordings (mc2: guessing gives 0.5), or against three errors (mc1)."""
    effects = sorted({b.truth for b in beliefs} - {belief.truth, belief.myth})
    true, false = ([f"You {effect}.", f"Those who {belief.phrase} {effect}."] for effect in (belief.truth, belief.myth))
    errors = [f"You {effect}." for effect in (belief.myth, *rng.sample(effects, 2))]
    return {
        "question": form.format(b=belief.phrase),
        "mc1_targets": {"choices": [true[0], *errors], "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": [*true, *false], "labels": [1, 1, 0, 0]},
    }
