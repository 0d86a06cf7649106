"""Every model answers held-out instructions; the reward model scores the answers, for win rates against the base model.

Run alone: `python -m flows.judge --profile demo`.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, at_once, run_units
from flows.cli import run
from flows.prefer import scored
from storage.files import write_jsonl
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.evaluate.answers import answer_store, held_out_instructions, speaker, write_answers
from tasks.evaluate.results import ANSWERS
from tasks.models import fetch_models
from tasks.provenance import provenance
from tasks.stages import Stage, study_stages


@flow(
    name="judge",
    flow_run_name="judge-{settings.profile}-{settings.seed}",
    persist_result=False,
    task_runner=at_once(64),
)
def judge(settings: Settings, workspace: Path) -> None:
    """Let the base model and each adapter answer the same instructions, and score what they say."""
    place = Workspace(workspace)
    stages = study_stages(settings, place).values()
    waiting = [stage for stage in stages if stage.kind == "judge" and not stage.state().done]
    if waiting:
        fetch_models([settings.models.base, settings.models.reward], place)
    keys = {stage.name: stage.require_key() for stage in waiting}
    size = settings.hardware.workers
    for group in [waiting[i : i + size] for i in range(0, len(waiting), size)]:
        _answer(settings, place, group)
    asked = held_out_instructions(settings, place) if waiting else {}
    answers = {stage.name: answer_store(settings, place, stage).collect(asked) for stage in waiting}
    rows = iter(scored(settings, place, [row for told in answers.values() for row in told]))
    for stage in waiting:
        with publishing(stage.folder, keys[stage.name], provenance(settings, place)) as folder:
            write_jsonl(folder / ANSWERS, [next(rows) for _ in answers[stage.name]])


def _answer(settings: Settings, place: Workspace, group: list[Stage]) -> None:
    evaluation = settings.evaluation
    asked = held_out_instructions(settings, place)
    with ExitStack() as children:
        units = []
        for stage in group:
            name, store = stage.name.removeprefix("judge-"), answer_store(settings, place, stage)
            pool = children.enter_context(speaker(settings, place, stage))
            units += [
                Unit(
                    f"answer-{name}-b{number:05d}",
                    f"{store.folder.name}-{batch.name}",
                    {
                        "pool": pool,
                        "store": store,
                        "batch": batch,
                        "instructions": [asked[row_id] for row_id in batch.ids],
                        "max_new_tokens": evaluation.answer_max_new_tokens,
                    },
                    lambda store=store, batch=batch: store.done(batch),  # type: ignore[misc]
                    len(batch.ids),
                )
                for number, batch in enumerate(store.plan(asked, evaluation.batch_size))
            ]
        label = "answers of " + " and ".join(stage.name.removeprefix("judge-") for stage in group)
        run_units(write_answers, units, place.state / "prefect", label)


if __name__ == "__main__":
    sys.exit(run(judge, "judge", ["judge"]))
