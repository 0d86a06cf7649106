"""A whole study through lost machines: what each stage costs, how busy the GPU is, and whether its scores are right.

    python -m tests.benchmarks.real_study run --profile P --workspace W --kills 2      # until it says "exit code 0"
    python -m tests.benchmarks.real_study compare --profile P --workspace W            # the base model beside lm_eval

`run` starts `python -m flows.full_pipeline`, kills it with SIGKILL at points it sees on the disk, and runs it again
until it ends well. It can itself be stopped (`--seconds-limit`, or by a machine's limit) and run again: what it knows
lies in `W-study/`. Options it does not know, such as `--generation.rows 40`, go on to the study.

Stages are timed by their manifests, without the time in which nothing ran. A sample of NVML is busy where a kernel ran
in it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from configs.settings import BenchmarkSettings, Settings
from flows.cli import parse_settings
from storage.files import read_json, read_jsonl, write_json
from storage.stages import MANIFEST
from storage.workspace import Workspace
from tasks.evaluate.harness import _draw
from tasks.evaluate.results import BASE, results_folder
from tasks.evaluate.work import benchmark_tasks
from tasks.models import model_source
from tasks.process import PROJECT, ModelProcess, free_port
from tasks.stages import study_stages
from tests.benchmarks.generation import print_table

SAMPLE_SECONDS = 0.25
POLL_SECONDS = 0.1
FAILURES = 3
STOPPED = 75
"""Exit code of a run that its own limit stopped: the same command goes on."""


def main() -> int:
    """Run a study, or compare its scores, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "compare"])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=2, choices=range(len(POINTS) + 1), help=f"of {', '.join(POINTS)}")
    parser.add_argument("--seconds-limit", type=float, default=float("inf"), help="of this call [s]")
    options, rest = parser.parse_known_args()
    options.arguments = ["--profile", options.profile, "--workspace", str(options.workspace.resolve()), *rest]
    settings, _ = parse_settings("full_pipeline", "", options.arguments)
    place = Workspace(options.workspace.resolve())
    folder = place.root.with_name(f"{place.root.name}-study")
    folder.mkdir(parents=True, exist_ok=True)
    return run_study(settings, place, folder, options) if options.what == "run" else compare(settings, place, folder)


def begun_answers(place: Workspace) -> bool:
    """Generation is under way: instructions and some answers are on disk, nothing is published."""
    return any(place.state.glob("rows/responses-*/*.jsonl")) and not (place.raw / MANIFEST).is_file()


def begun_training(place: Workspace) -> bool:
    """A training is under way: it has a checkpoint, and an adapter is still to come."""
    return (
        any(place.state.glob("checkpoints/*/checkpoint-*"))
        and not (place.models / "dpo" / "seed-0" / MANIFEST).is_file()
    )


def begun_evaluation(place: Workspace) -> bool:
    """A model has answered a benchmark, and none is published."""
    published = place.evaluation.glob(f"results/*/{MANIFEST}")
    return any(place.state.glob("results/*/*.json")) and not any(published)


POINTS: dict[str, Callable[[Workspace], bool]] = {
    "generation": begun_answers,
    "training": begun_training,
    "evaluation": begun_evaluation,
}


class Sampler(threading.Thread):
    """Appends what NVML says to a file as long as it lives; without a GPU it appends nothing."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path, self._ended = path, threading.Event()

    def run(self) -> None:
        """Sample until `end`."""
        try:
            import pynvml

            pynvml.nvmlInit()
            device = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception as error:  # noqa: BLE001 - whatever is missing, the study can be timed
            print(f"GPU not measured: {error}", flush=True)
            return
        with self._path.open("a", buffering=1) as file:
            while not self._ended.wait(SAMPLE_SECONDS):
                told, memory = pynvml.nvmlDeviceGetUtilizationRates(device), pynvml.nvmlDeviceGetMemoryInfo(device)
                file.write(f"[{time.time():.2f}, {told.gpu}, {told.memory}, {memory.used}]\n")

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self.join()


def run_study(settings: Settings, place: Workspace, folder: Path, options: argparse.Namespace) -> int:
    """Start, kill and start again until the study ends well; its exit code, or `STOPPED`."""
    deadline = time.monotonic() + options.seconds_limit
    record = folder / "record.json"
    runs: list[dict[str, Any]] = read_json(record) if record.is_file() else []
    sampler = Sampler(folder / "samples.jsonl")
    sampler.start()
    try:
        before = len(runs)
        while (code := _outcome(runs, before)) is None:
            killed = [run["killed"] for run in runs if run["killed"] in POINTS]
            waiting = next((name for name in list(POINTS)[: options.kills] if name not in killed), None)
            runs.append(_run_once(settings, place, folder, options.arguments, waiting, deadline, runs))
            write_json(record, runs)
            print({name: value for name, value in runs[-1].items() if name != "on disk"}, flush=True)
            if runs[-1]["killed"] == "time limit":
                code = STOPPED
                break
    finally:
        sampler.end()
    _report(settings, place, folder, runs)
    print(f"exit code {code}" if code != STOPPED else "stopped by the time limit; the same command goes on")
    return code


def _outcome(runs: list[dict[str, Any]], before: int) -> int | None:
    """The study's exit code: 0 once it ended well, 1 after so many failures in a row in this call, else None."""
    if any(run["exit code"] == 0 for run in runs):
        return 0
    last = runs[before:][-FAILURES:]
    return 1 if len(last) == FAILURES and not any(run["killed"] for run in last) else None


def _run_once(
    settings: Settings,
    place: Workspace,
    folder: Path,
    arguments: list[str],
    waiting: str | None,
    deadline: float,
    before: list[dict[str, Any]],
) -> dict[str, Any]:
    """One start of the command, to its end, to its point of a kill, or to the deadline."""
    environment = os.environ | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
    }
    run: dict[str, Any] = {"started": time.time(), "killed": None, "children gone after": None}
    with (folder / "study.log").open("ab") as log:
        study = subprocess.Popen(
            [sys.executable, "-m", "flows.full_pipeline", *arguments],
            cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        while study.poll() is None and run["killed"] is None:
            # should this process be killed too, the record tells how long the run was seen
            if time.time() - run.get("ended", 0) > 5:
                run |= {"ended": time.time(), "exit code": None}
                write_json(folder / "record.json", [*before, run | {"killed": "lost"}])
            if waiting and POINTS[waiting](place):
                run["killed"] = waiting
            elif time.monotonic() > deadline:
                run["killed"] = "time limit"
            time.sleep(POLL_SECONDS)
    finally:
        if study.poll() is None:
            run["on disk"] = on_disk(settings, place)
            run["children gone after"] = kill(study)
    return run | {"ended": time.time(), "exit code": study.wait()}


def kill(study: subprocess.Popen[bytes]) -> float | None:
    """SIGKILL to the driver's group, as a lost machine; seconds until every process it started is gone, None if not."""
    family = psutil.Process(study.pid).children(recursive=True)
    begun = time.monotonic()
    os.killpg(study.pid, signal.SIGKILL)
    study.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    for process in alive:
        process.kill()
    return None if alive else round(time.monotonic() - begun, 2)


def on_disk(settings: Settings, place: Workspace) -> dict[str, Any]:
    """What a kill found: published stages, and shards, checkpoints and sealed benchmarks in progress."""
    return {
        "published": [name for name, stage in study_stages(settings, place).items() if _manifest(stage.folder)],
        **{
            kind: len([*place.state.glob(pattern)])
            for kind, pattern in (
                ("instruction shards", "rows/instructions-*/*.jsonl"),
                ("response shards", "rows/responses-*/*.jsonl"),
                ("checkpoints", "checkpoints/*/checkpoint-*"),
                ("benchmarks", "results/*"),
            )
        },
    }


def _manifest(folder: Path) -> float | None:
    path = folder / MANIFEST
    return path.stat().st_mtime if path.is_file() else None


def _report(settings: Settings, place: Workspace, folder: Path, runs: list[dict[str, Any]]) -> None:
    """Print the tables, and write them as `study.json`."""
    samples = folder / "samples.jsonl"
    readings = [json.loads(line) for line in samples.read_text().splitlines()] if samples.is_file() else []
    ended = sorted(
        (at, name, stage.kind)
        for name, stage in study_stages(settings, place).items()
        if (at := _manifest(stage.folder)) is not None
    )
    stages: dict[str, dict[str, Any]] = defaultdict(lambda: {"seconds": 0.0, "readings": [], "stages": 0})
    since = runs[0]["started"]
    for at, _, kind in [*ended, (runs[-1]["ended"], "", "server's end, or unfinished")]:
        spans = [(max(run["started"], since), min(run["ended"], at)) for run in runs]
        spans = [(begin, end) for begin, end in spans if end > begin]
        stages[kind]["seconds"] += sum(end - begin for begin, end in spans)
        stages[kind]["readings"] += [r for r in readings if any(begin <= r[0] < end for begin, end in spans)]
        stages[kind]["stages"] += 1
        since = max(since, at)
    stages["all"] = {
        "seconds": sum(run["ended"] - run["started"] for run in runs),
        "readings": [r for r in readings if any(run["started"] <= r[0] < run["ended"] for run in runs)],
        "stages": len(ended),
    }
    table = [["stage", "s", "samples", "GPU busy", "mean use", "memory use", "peak GB"]]
    for kind, told in stages.items():
        told |= _busy(told.pop("readings"))
        cells = [kind, f"{told['seconds']:.1f}", str(told["samples"])]
        if told["samples"]:
            shares = [f"{told[name]:.0%}" for name in ("busy", "mean use", "memory use")]
            cells += [*shares, f"{told['peak bytes'] / 1e9:.1f}"]
        else:
            cells += ["not measured", "", "", ""]
        table.append(cells)
    print_table(table)
    print_table(
        [["run", "s", "exit code", "killed", "children gone after", "on disk then"]]
        + [
            [
                str(number),
                f"{run['ended'] - run['started']:.1f}",
                *(str(run[name]) for name in ("exit code", "killed", "children gone after")),
                str(run.get("on disk", "")),
            ]
            for number, run in enumerate(runs, 1)
        ]
    )
    unpublished = [name for name, stage in study_stages(settings, place).items() if not stage.state().done]
    files = {
        path.relative_to(place.root).as_posix(): path.stat().st_size
        for path in sorted(place.evaluation.rglob("*"))
        if path.is_file() and not {"results", "answers"} & {*path.relative_to(place.evaluation).parts}
    }
    if files:
        print_table([["deliverable", "bytes"], *([name, f"{size:,}"] for name, size in files.items())])
    print(f"stages not done: {', '.join(unpublished) or 'none'}")
    write_json(folder / "study.json", {"stages": stages, "runs": runs, "deliverables": files, "not done": unpublished})


def _busy(readings: list[list[float]]) -> dict[str, Any]:
    """Share of the samples in which a kernel ran, and NVML's own shares of each sample's time."""
    if not readings:
        return {"samples": 0}
    use = [reading[1] / 100 for reading in readings]
    return {
        "samples": len(use),
        "busy": sum(share > 0 for share in use) / len(use),
        "mean use": sum(use) / len(use),
        "memory use": sum(reading[2] for reading in readings) / 100 / len(use),
        "peak bytes": max(reading[3] for reading in readings),
    }


def compare(settings: Settings, place: Workspace, folder: Path) -> int:
    """The base model's scores beside lm-eval's own command on the same questions: fp32, and the study's precision."""
    own = settings.models.base.precision
    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if own not in names:
        raise SystemExit(f"compare: lm_eval's command takes no {own}")
    table: list[list[str]] = []
    told: list[dict[str, Any]] = []
    for precision in dict.fromkeys(["fp32", own]):
        ours = published_scores(settings, place) if precision == own else fresh_scores(settings, place, precision)
        theirs = their_scores(settings, place, names[precision], folder / f"lm_eval-{precision}")
        for name, mine in ours.items():
            other = theirs[name]
            assert mine.rows.keys() == other.rows.keys(), f"{name}: not the same questions"
            line = {
                "precision": precision,
                "benchmark": name,
                "questions": len(mine.rows),
                "ours": mine.score,
                "lm_eval": other.score,
                "apart": abs(mine.score - other.score),
                "rows apart": sum(abs(mine.rows[key] - other.rows[key]) > 1e-6 for key in mine.rows),
                "s": mine.seconds,
                "lm_eval s, all": other.seconds,
            }
            told.append(line)
            table.append([f"{value:.6g}" if isinstance(value, float) else str(value) for value in line.values()])
    table.insert(0, list(told[0]))
    print_table(table)
    write_json(folder / "compare.json", told)
    far = [row for row in told if row["precision"] == "fp32" and row["apart"] > 1e-6]
    print("fp32: at most 1e-6 apart" if not far else f"fp32: more than 1e-6 apart in {len(far)}")
    return bool(far)


class Score(NamedTuple):
    """One benchmark of the base model."""

    score: float
    rows: dict[Any, float]
    """A number a question, by task, content and place."""
    seconds: float


def published_scores(settings: Settings, place: Workspace) -> dict[str, Score]:
    """What the study published of its base model, in its own precision."""
    folder = results_folder(place, BASE)
    return {
        name: _score(
            benchmark,
            {
                "results": read_json(folder / f"{name}.json"),
                "samples": read_jsonl(folder / f"{name}.samples.jsonl"),
                **read_json(folder / f"{name}.seconds.json"),
            },
        )
        for name, benchmark in settings.evaluation.asked.items()
    }


def fresh_scores(settings: Settings, place: Workspace, precision: str) -> dict[str, Score]:
    """What the study's evaluator says of the base model in this precision."""
    arguments = {
        "base": model_source(settings.models.base, place),
        "precision": precision,
        "batch_size": settings.evaluation.batch_size,
        "reserved_tokens": settings.tuning.longest_soft_prompt,
    }
    asked: dict[str, Any] = {"limit": settings.evaluation.limit, "seed": settings.seed}
    target = "tasks.evaluate.harness:Evaluator"
    with (
        ModelProcess(target, arguments, threads=settings.hardware.threads) as model,
        benchmark_tasks(settings, place) as known,
    ):
        return {
            name: _score(benchmark, model.call("evaluate", task=benchmark.task, **known, **asked))
            for name, benchmark in settings.evaluation.asked.items()
        }


def _score(benchmark: BenchmarkSettings, answer: dict[str, Any]) -> Score:
    rows = {(row["task"], row["doc_hash"], row["doc_id"]): row["metrics"] for row in answer["samples"]}
    score = answer["results"]["results"][benchmark.task][f"{benchmark.metric},none"]
    return Score(score, _values(rows, benchmark.metric), answer["seconds"])


def their_scores(settings: Settings, place: Workspace, dtype: str, folder: Path) -> dict[str, Score]:
    """`lm_eval run` on the same questions, in one command; its seconds are those of all, loading included."""
    from tasks.evaluate.tasks import load_tasks

    base, benchmarks = Path(model_source(settings.models.base, place)), settings.evaluation.asked
    context = read_json(base / "config.json")["max_position_embeddings"] - settings.tuning.longest_soft_prompt
    names = [benchmark.task for benchmark in benchmarks.values()]
    with benchmark_tasks(settings, place) as known:
        loaded = load_tasks(names, known["task_folders"], stock=known["stock"])["tasks"]
        drawn = _draw(loaded, settings.evaluation.limit, settings.seed)
        command = [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", ",".join(names)),
            # no question is as long as 2,048 tokens, and general text is read in windows of as many
            *("--model_args", f"pretrained={base},dtype={dtype},max_length={min(context, 2048)}"),
            *("--batch_size", str(settings.evaluation.batch_size), "--seed", str(settings.seed)),
            *("--log_samples", "--output_path", str(folder)),
            *(["--samples", json.dumps(drawn)] if drawn else []),
            *(["--include_path", *known["task_folders"]] if known["task_folders"] else []),  # it takes one
        ]
        began = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - began
    if ended.returncode:
        raise RuntimeError(f"lm_eval run failed:\n{ended.stderr[-3000:]}")
    newest = max(folder.rglob("results_*.json"))
    results = read_json(newest)
    rows: dict[str, dict[Any, dict[str, Any]]] = defaultdict(dict)
    for file in newest.parent.glob(newest.name.replace("results_", "samples_*_") + "l"):
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        rows[task] = {(task, row["doc_hash"], row["doc_id"]): row for row in read_jsonl(file)}
    scores = {}
    for name, benchmark in benchmarks.items():
        parts = results["group_subtasks"].get(benchmark.task) or [benchmark.task]
        own = {key: row for part in parts for key, row in rows[part].items()}
        score = results["results"][benchmark.task][f"{benchmark.metric},none"]
        scores[name] = Score(score, _values(own, benchmark.metric), seconds)
    return scores


def _values(rows: dict[Any, dict[str, Any]], metric: str) -> dict[Any, float]:
    """A number a question: its metric, or for general text its log-likelihood."""
    values = {}
    for key, row in rows.items():
        value = row[metric]
        values[key] = float(value[0] if isinstance(value, (list, tuple)) else value)
    return values


if __name__ == "__main__":
    sys.exit(main())
