"""Where a method's answers lie: `evaluation/results/<method>/`, and `<method>-seed-<s>/` for seeds above 0.

| file | holds |
|---|---|
| `<benchmark>.json` | lm-eval's result format, without clock times: equal inputs give equal bytes |
| `<benchmark>.samples.jsonl` | a row a question: task, doc_id, doc_hash, cluster, metrics, responses |
| `<benchmark>.seconds.json` | how long it took on what, a measurement |
| `speed.json` | inference tokens a second, unmerged and merged, a measurement |

`evaluation/answers/<method>/answers.jsonl` holds its answers to held-out instructions: id, instruction, output,
finish_reason, tokens, score.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.files import fingerprint, read_json, read_jsonl, sha256_file, write_json, write_jsonl
from storage.stages import StageKey, result_digest
from storage.workspace import Workspace

BASE = "base"
TUNED = ("sft", "prompt_tuning", "dpo")
"""The methods that the requirements ask for; a study may have more."""
METHODS = (BASE, *TUNED)
SPEED = "speed.json"
ANSWERS = "answers.jsonl"
MEASURE_SPEED = "speed"
FORGETTING = "forgetting"
"""The parts of an evaluation that are no benchmarks."""


def study_methods(settings: Settings) -> list[str]:
    """The study's methods, the required ones first."""
    return list(settings.tuning.methods)


def study_seeds(settings: Settings) -> list[int]:
    """Seeds that the study trains with: its own and the next; a workspace may hold others, of another study."""
    return [settings.seed + number for number in range(settings.tuning.seeds)]


def study_runs(settings: Settings) -> list[tuple[str, int]]:
    """Method and seed of each model that is measured: the base model, which has the study's, then every adapter."""
    trained = [(method, seed) for method in study_methods(settings) for seed in study_seeds(settings)]
    return [(BASE, settings.seed), *trained]


def results_folder(workspace: Workspace, method: str, seed: int = 0) -> Path:
    """Where a method's results are published; the base model has no seed of its own."""
    name = method if seed == 0 or method == BASE else f"{method}-seed-{seed}"
    return workspace.evaluation / "results" / name


def answers_folder(workspace: Workspace, method: str, seed: int = 0) -> Path:
    """Where a method's answers to held-out instructions are published."""
    return workspace.evaluation / "answers" / results_folder(workspace, method, seed).name


def answers_file(workspace: Workspace, method: str, seed: int = 0) -> Path:
    """These answers, a row an instruction."""
    return answers_folder(workspace, method, seed) / ANSWERS


def evaluation_parts(settings: Settings) -> list[str]:
    """What is asked of every model, the speed last, after which its process has nothing left to do."""
    return [*settings.evaluation.asked, MEASURE_SPEED]


def data_of(task: str | None) -> str:
    """What a stage calls the data that a task asks about, among its inputs."""
    return f"the data of {task}"


def part_folder(workspace: Workspace, key: StageKey, part: str) -> Path:
    """Where a part of an evaluation lies, sealed, for as long as anything may ask for it again.

    Its name is what the part reads, so that a further benchmark, or another metric, evaluates nothing else anew.
    """
    read = {name: key.settings[name] for name in ("batch_size", "limit", "reserved_tokens", "seed")}
    if part == MEASURE_SPEED:
        read |= {name: value for name, value in key.settings.items() if name.startswith("speed_")}
        read["prompts"] = result_digest(workspace.filtered)
    else:
        benchmark = key.settings[FORGETTING] if part == FORGETTING else key.settings["benchmarks"][part]
        read["task"] = benchmark["task"]
    others = {
        data_of(each["task"]) for each in (*key.settings["benchmarks"].values(), key.settings[FORGETTING]) if each
    }
    inputs = {name: digest for name, digest in key.inputs.items() if name not in others - {data_of(read.get("task"))}}
    name = fingerprint({"version": key.version, "inputs": inputs, "part": part, "read": read})
    return workspace.state / "results" / name


def write_benchmark(
    folder: Path, benchmark: str, answer: Mapping[str, Any], device: Mapping[str, Any]
) -> dict[str, Any]:
    """Publish what `Evaluator.evaluate` returned, the results last; returns the manifest of the three files."""
    write_jsonl(folder / f"{benchmark}.samples.jsonl", answer["samples"])
    write_json(folder / f"{benchmark}.seconds.json", {"seconds": answer["seconds"], **device})
    write_json(folder / f"{benchmark}.json", answer["results"])
    return {
        "benchmark": benchmark,
        "rows": len(answer["samples"]),
        "files": {
            name: sha256_file(folder / name)
            for name in (f"{benchmark}.json", f"{benchmark}.samples.jsonl", f"{benchmark}.seconds.json")
        },
    }


def load_json(path: Path) -> Any:
    """A JSON file, or None where there is none that parses."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def load_samples(folder: Path, benchmark: str) -> list[dict[str, Any]] | None:
    """A benchmark's rows, or None where they are missing, torn or not those its results were computed from."""
    results = load_json(folder / f"{benchmark}.json")
    try:
        rows: list[dict[str, Any]] = read_jsonl(folder / f"{benchmark}.samples.jsonl")
        same = results is not None and results["config"]["questions"] == len(rows)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if same else None
