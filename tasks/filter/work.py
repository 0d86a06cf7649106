"""The filter stage: reads the raw rows, publishes kept and dropped rows, splits and statistics."""

from __future__ import annotations

from typing import Any

from configs.settings import Settings
from storage.files import read_jsonl, write_json, write_jsonl
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.evaluate.work import benchmark_tasks
from tasks.filter.contamination import Question
from tasks.filter.run import filter_rows, sft_row
from tasks.process import run_in_child
from tasks.provenance import provenance
from tasks.stages import Stage

SPLITS = ("train", "val", "test")


def filter_raw_rows(settings: Settings, workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """Filter and publish.

    Raises:
        TooFewRowsError: fewer rows are kept than the splits need.
        ChildError: the benchmarks cannot be read.
    """
    questions = benchmark_questions(settings, workspace)
    result = filter_rows(read_jsonl(workspace.raw / "raw.jsonl"), settings.filter, settings.seed, questions)
    with publishing(workspace.filtered, stage.require_key(), provenance(settings)) as folder:
        write_jsonl(folder / "filtered.jsonl", result.kept)
        write_jsonl(folder / "dropped.jsonl", result.dropped)
        for split in SPLITS:
            write_jsonl(
                folder / f"{split}.jsonl",
                [sft_row(row) for row in result.kept if row["split"] == split],
            )
        write_json(folder / "stats.json", result.stats)
    return {"kept": len(result.kept), "dropped": len(result.dropped)}


def benchmark_questions(settings: Settings, workspace: Workspace) -> list[Question]:
    """Every question that the study's benchmarks can ask.

    Raises:
        ChildError: lm-eval cannot read one, which may be that its data cannot be downloaded.
    """
    benchmarks = {name: benchmark.task for name, benchmark in settings.evaluation.benchmarks.items()}
    with benchmark_tasks(settings, workspace) as known:
        arguments = {"benchmarks": benchmarks, **known}
        found = run_in_child("tasks.evaluate.questions:read_questions", arguments, threads=settings.hardware.threads)
    return [Question(*question) for question in found["questions"]]
