"""The questions of the benchmarks, for the filter to keep out of the training data; runs in a child process."""

from __future__ import annotations

from typing import Any


def read_questions(benchmarks: dict[str, str], tasks_folder: str | None = None) -> dict[str, Any]:
    """Read every question that the benchmarks would ask, as lm-eval has it.

    Args:
        benchmarks: lm-eval task or group, by the benchmark's name here.
        tasks_folder: folder of task YAMLs; none takes lm-eval's own.

    Returns:
        `questions`: (benchmark, text) of each, once; without the choices where the data or the task tell them apart.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import apply_template

    manager = TaskManager(include_path=tasks_folder, include_defaults=tasks_folder is None)
    questions: dict[tuple[str, str], None] = {}
    for name, task in benchmarks.items():
        for one in manager.load([task])["tasks"].values():
            # not lm-eval's own method, which reads what the template gives as a Python literal, and fails
            query = one.config.doc_to_decontamination_query or ""
            for doc in one.eval_docs:
                text = doc.get("question") or doc.get(query) or apply_template(query, doc) or one.doc_to_text(doc)
                questions[name, str(text)] = None
    return {"questions": list(questions)}
