"""The questions of the benchmarks, for the filter to keep out of the training data; runs in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def read_questions(
    benchmarks: Mapping[str, str],
    task_folders: Sequence[str] = (),
    stock: bool = True,
    revisions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read every question that the benchmarks would ask, as lm-eval has it.

    Args:
        benchmarks: lm-eval task or group, by the benchmark's name here.
        task_folders: folders of task YAMLs.
        stock: whether lm-eval's own tasks are known too.
        revisions: commit by hub data set.

    Returns:
        `questions`: (benchmark, text) of each, once; without the choices where the data or the task tell them apart.
    """
    from lm_eval.utils import apply_template

    from tasks.evaluate.tasks import load_tasks

    questions: dict[tuple[str, str], None] = {}
    for name, task in benchmarks.items():
        for one in load_tasks([task], task_folders, revisions, stock=stock)["tasks"].values():
            # not lm-eval's own method, which reads what the template gives as a Python literal, and fails
            query = one.config.doc_to_decontamination_query or ""
            for doc in one.eval_docs:
                text = doc.get("question") or doc.get(query) or apply_template(query, doc) or one.doc_to_text(doc)
                questions[name, str(text)] = None
    return {"questions": list(questions)}
