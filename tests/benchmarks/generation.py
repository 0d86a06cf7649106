"""How fast generation is, each ratio measured inside one run.

    python -m tests.benchmarks.generation vllm --shape llama-3.1-8b      # persisted shards against one bare call
    python -m tests.benchmarks.generation hf --shape llama-3.1-8b        # the slot table against `generate`
    python -m tests.benchmarks.generation kill --shape tiny              # what a kill costs, against its bound
    python -m tests.benchmarks.generation overhead                       # Prefect and storage, on the demo

`vllm` and `kill` need vLLM; sizes of the workload are arguments (`--help`).
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.benchmarks.workload import Workload, build_model, sized_requests

SAMPLING = {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 1024}


def main() -> int:
    """Run one comparison and print its table."""
    options = parse()
    workload = Workload(
        options.rows, options.shortest, options.longest, options.mean, options.deviation, options.prompt_words, 0
    )
    options.folder.mkdir(parents=True, exist_ok=True)
    compare = {
        "vllm": compare_vllm,
        "hf": compare_hf,
        "kill": kill_and_resume,
        "overhead": compare_overhead,
        "work": work,
    }
    rows = compare[options.what](workload, options)
    print_table(rows)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["vllm", "hf", "kill", "overhead", "work"])
    parser.add_argument("--shape", default="tiny", choices=["llama-3.1-8b", "tiny"])
    parser.add_argument("--rows", type=int, default=1500, help="responses")
    parser.add_argument("--shortest", type=int, default=20, help="tokens of the shortest response")
    parser.add_argument("--longest", type=int, default=1024, help="tokens of the longest")
    parser.add_argument("--mean", type=int, default=426, help="mean of the normal distribution before clipping")
    parser.add_argument("--deviation", type=int, default=217, help="its standard deviation")
    parser.add_argument("--prompt-words", type=int, default=12, help="words of an instruction")
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=64, help="batches submitted at once")
    parser.add_argument("--rows-at-once", type=int, default=None, help="slots; none takes the engine's own number")
    parser.add_argument("--repeats", type=int, default=2, help="timed rounds of each side, interleaved")
    parser.add_argument("--memory-share", type=float, default=0.45, help="of the accelerator, for each vLLM")
    parser.add_argument("--eager", action="store_true", help="vLLM without compilation")
    parser.add_argument("--seeded", action="store_true", help="vllm: a third side, with a seed for each row")
    parser.add_argument("--hf-rows", type=int, default=96, help="hf: the first rows of the workload")
    parser.add_argument("--hf-batch", type=int, default=32, help="hf: batch of plain generate")
    parser.add_argument("--memory-gb", type=float, default=15, help="hf: cap on the accelerator's memory")
    parser.add_argument("--precision", default="nf4", help="hf: weights")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "generation-benchmark")
    options = parser.parse_args()
    if options.what in ("kill", "work") and options.rows_at_once is None:
        options.rows_at_once = 256
    return options


def answer_in_shards(pool: Any, workload: Workload, options: argparse.Namespace, folder: Path) -> float:
    """Seconds in which the product's task, storage and flow code persist every response."""
    from prefect import flow

    import flows  # noqa: F401 - before Prefect, whose environment it sets
    from configs.settings import SamplingSettings
    from flows.batches import at_once, run_units
    from flows.generate import answer_units
    from storage.shards import RowStore
    from tasks.generate import rows as magpie

    instructions = {magpie.content_id(text): text for text in workload.instructions()}
    store = RowStore(folder / "rows" / "responses-benchmark")

    @flow(name="benchmark", persist_result=False, task_runner=at_once(options.in_flight))
    def answer() -> None:
        units = answer_units(
            pool, store, instructions, SamplingSettings(**SAMPLING), options.rows_per_shard, "benchmark"
        )
        run_units(magpie.write_responses, units, folder / "prefect", "responses", meter=lambda: pool.progress)

    begun = time.monotonic()
    answer()
    seconds = time.monotonic() - begun
    assert sum(row["tokens"] for row in store.collect(instructions)) == sum(workload.lengths())
    return seconds


def sized_pool(source: Path, options: argparse.Namespace, precision: str) -> Any:
    """The product's model in its child process, with rows of given lengths."""
    from tasks.process import ModelPool

    arguments = {
        "engine": "vllm",
        "source": str(source),
        "revision": None,
        "precision": precision,
        "memory_share": options.memory_share,
        "eager": options.eager,
        "rows_at_once": options.rows_at_once,
    }
    return ModelPool("tests.benchmarks.workload:SizedChatModel", arguments, threads=os.cpu_count() or 1)


def vllm_precision(options: argparse.Namespace) -> str:
    """The precision of the shape's saved weights."""
    return "fp32" if options.shape == "tiny" else "bf16"


def built(options: argparse.Namespace) -> Path:
    """The model's folder."""
    return build_model(
        options.folder / options.shape, options.shape, "float32" if options.shape == "tiny" else "bfloat16"
    )


def compare_vllm(workload: Workload, options: argparse.Namespace) -> list[list[str]]:
    """One bare `LLM.generate` call against persisted shards, both engines loaded, rounds interleaved."""
    from flows.server import ensure_server
    from tasks.process import ModelProcess

    source, precision = built(options), vllm_precision(options)
    ensure_server(keep=False)
    instructions, tokens = workload.instructions(), sum(workload.lengths())
    bare_arguments = {
        "source": str(source),
        "precision": precision,
        "memory_share": options.memory_share,
        "eager": options.eager,
    }
    threads = os.cpu_count() or 1
    begun = time.monotonic()
    seconds: dict[str, list[float]] = {"bare": [], "shards": []} | ({"seeded": []} if options.seeded else {})
    warm_up = Workload(64, 8, 16, 12, 2, workload.prompt_words, 7)
    with ModelProcess("tests.benchmarks.workload:BareVllm", bare_arguments, threads=threads) as bare:
        bare.ready.result()
        started = [time.monotonic() - begun]
        with sized_pool(source, options, precision) as pool:
            pool.start()
            started.append(time.monotonic() - begun - started[0])
            print(f"loaded in {started[0]:.0f} s and {started[1]:.0f} s", flush=True)
            bare.call("generate", instructions=warm_up.instructions(), sampling=SAMPLING)
            answer_in_shards(pool, warm_up, options, fresh(options.folder / "warm-up"))
            for number in range(options.repeats):
                seconds["bare"].append(bare.call("generate", instructions=instructions, sampling=SAMPLING)["seconds"])
                place = fresh(options.folder / f"shards-{number}")
                seconds["shards"].append(answer_in_shards(pool, workload, options, place))
                if options.seeded:
                    place = fresh(options.folder / f"seeded-{number}")
                    seeded = replace(workload, seeded=True)
                    seconds["seeded"].append(answer_in_shards(pool, seeded, options, place))
                print({side: [round(value, 2) for value in values] for side, values in seconds.items()}, flush=True)
    best = {side: statistics.median(values) for side, values in seconds.items()}
    return [
        ["vLLM, " + options.shape, workload.described(), "", ""],
        ["side", "seconds (each round)", "tokens/s", "ratio"],
        ["one bare LLM.generate call", listed(seconds["bare"]), f"{tokens / best['bare']:,.0f}", "1.00"],
        *(
            [
                f"persisted in shards of {options.rows_per_shard}" + note,
                listed(seconds[side]),
                f"{tokens / best[side]:,.0f}",
                f"{best['bare'] / best[side]:.3f}",
            ]
            for side, note in (("shards", ""), ("seeded", ", with a seed for each row"))
            if side in seconds
        ),
    ]


def compare_hf(workload: Workload, options: argparse.Namespace) -> list[list[str]]:
    """Plain `generate` in batches against the slot table, one loaded model, one memory cap."""
    import torch
    from transformers import AutoTokenizer

    from tasks.engines.protocol import Sampling
    from tasks.engines.rows_at_once import RowsAtOnce
    from tasks.engines.slots import SlotEngine
    from tasks.generate.chat import load_model

    source = built(options)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_per_process_memory_fraction(
            options.memory_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory
        )
    begun = time.monotonic()
    model = load_model(str(source), None, options.precision)
    print(f"loaded {options.precision} in {time.monotonic() - begun:.0f} s", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    instructions = workload.instructions()[: options.hf_rows]
    requests = sized_requests(tokenizer, instructions, list(range(options.hf_rows)))
    tokens = sum(request.max_new_tokens or 0 for request in requests)

    # the slot table first: it changes the model's attention, which `generate` then gets back
    engine = SlotEngine(model, RowsAtOnce(options.rows_at_once))
    peak_reset(cuda)
    for call, start in enumerate(range(0, len(requests), options.rows_per_shard)):
        engine.add(call, requests[start : start + options.rows_per_shard], Sampling(**SAMPLING, stop_ids=()))
    begun, steps, seen = time.monotonic(), [], 0
    while engine.calls:
        step = time.monotonic()
        seen += sum(len(completion.tokens) for _, ended in engine.step() for completion in ended)
        steps.append(time.monotonic() - step)
    slots_seconds = time.monotonic() - begun
    assert seen == tokens
    slots_peak, capture = peak(cuda), max(steps) - statistics.median(steps)
    usual = statistics.median(steps)
    size = engine._table.size if engine._table else 0
    print(
        f"slots: {slots_seconds:.1f} s, {len(steps)} steps, median {usual * 1000:.1f} ms, longest {max(steps):.1f} s",
        flush=True,
    )
    engine.abandon()
    del engine
    gc.collect()
    model.set_attn_implementation("sdpa")
    if cuda:
        torch.cuda.empty_cache()

    generate_plainly(model, [replace(request, max_new_tokens=4) for request in requests[: options.hf_batch]])
    peak_reset(cuda)
    begun = time.monotonic()
    for start in range(0, len(requests), options.hf_batch):
        generate_plainly(model, requests[start : start + options.hf_batch])
        print(f"generate: {start + options.hf_batch} rows after {time.monotonic() - begun:.1f} s", flush=True)
    plain_seconds = time.monotonic() - begun
    ratio = plain_seconds / (slots_seconds - capture)
    return [
        [
            f"hf, {options.shape}, {options.precision}, cap {options.memory_gb:g} GB",
            f"the first {len(requests)} rows of: {workload.described()}; {tokens:,} tokens of them",
            "",
            "",
            "",
        ],
        ["side", "seconds", "tokens/s", "ratio", "peak, reserved"],
        [
            f"transformers generate, batches of {options.hf_batch}",
            f"{plain_seconds:.1f}",
            f"{tokens / plain_seconds:,.0f}",
            "1.00",
            peak(cuda),
        ],
        [
            f"slot table of {size}, without its compile time",
            f"{slots_seconds - capture:.1f}",
            f"{tokens / (slots_seconds - capture):,.0f}",
            f"{ratio:.2f}",
            slots_peak,
        ],
        [
            "  compile time (capture of the step)",
            f"{capture:.1f}",
            "",
            f"{plain_seconds / slots_seconds:.2f} with it",
            "",
        ],
        [f"  {len(steps)} steps, median", f"{usual * 1000:.1f} ms", "", "", ""],
    ]


def generate_plainly(model: Any, requests: Sequence[Any]) -> None:
    """A padded batch through `generate`, each row until its own length."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    from tasks.engines.hf import left_padded

    tokens, mask = (part.to(model.device) for part in left_padded([request.prompt for request in requests]))
    limits = torch.tensor([request.max_new_tokens for request in requests], device=model.device)
    width = tokens.shape[1]

    class OwnLength(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return input_ids.shape[1] - width >= limits

    with torch.inference_mode():
        model.generate(
            tokens,
            attention_mask=mask,
            do_sample=True,
            temperature=SAMPLING["temperature"],
            top_p=SAMPLING["top_p"],
            top_k=0,
            max_new_tokens=int(limits.max()),
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([OwnLength()]),
        )


def kill_and_resume(workload: Workload, options: argparse.Namespace) -> list[list[str]]:
    """Kill a run's whole process group at a random moment, resume it, count the rows that were drawn twice."""
    from storage.shards import RowStore

    built(options)
    place = fresh(options.folder / "kill")
    command = [sys.executable, "-m", "tests.benchmarks.generation", "work", *sys.argv[2:]]
    chance = random.SystemRandom()
    share = chance.uniform(0.3, 0.7)
    store = RowStore(place / "rows" / "responses-benchmark")
    shards = -(-workload.rows // options.rows_per_shard)
    run = subprocess.Popen(command, start_new_session=True)
    while len(list(store.folder.glob("*.jsonl"))) < share * shards:
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 1))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    kept = len(store.rows())
    first = drawn_rows(place)
    time.sleep(2)
    subprocess.run(command, check=True)
    again = drawn_rows(place) - first
    rows = store.rows()
    assert len(rows) == workload.rows
    slots = options.rows_at_once
    simulated = simulate(workload.lengths(), slots, options.rows_per_shard)
    twice = first + slots - kept
    thumb = round(slots * max(workload.lengths()) / statistics.fmean(workload.lengths())) + options.rows_per_shard
    return [
        ["kill, " + options.shape, f"{workload.described()}; {slots} slots, shards of {options.rows_per_shard}", ""],
        ["what", "rows", "share"],
        ["on disk when killed", f"{kept:,}", f"{kept / workload.rows:.1%}"],
        ["drawn whole by the killed run, as it last said", f"{first:,}", f"{first / workload.rows:.1%}"],
        ["drawn by the resumed run", f"{again:,}", f"{again / workload.rows:.1%}"],
        ["on disk at the end, each once", f"{len(rows):,}", "100%"],
        [
            "begun and lost: whole rows of open shards, and at most every slot's",
            f"{twice:,}",
            f"{twice / workload.rows:.1%}",
        ],
        ["the same, simulated: mean over all moments", f"{simulated[0]:,.0f}", f"{simulated[0] / workload.rows:.1%}"],
        ["bound: the same, simulated, at the worst moment", f"{simulated[1]:,}", f"{simulated[1] / workload.rows:.1%}"],
        ["rule of thumb: slots × longest / mean + shard", f"{thumb:,}", f"{thumb / workload.rows:.1%}"],
    ]


def simulate(lengths: Sequence[int], slots: int, rows_per_shard: int) -> tuple[float, int]:
    """Mean and largest number of rows that were begun but lie on no disk, over the moments at which a row ends."""
    import heapq

    running: list[tuple[int, int]] = []
    left = {shard: 0 for shard in range(-(-len(lengths) // rows_per_shard))}
    for row in range(len(lengths)):
        left[row // rows_per_shard] += 1
    begun = kept = now = 0
    lost = []
    sizes = dict(left)
    while begun < len(lengths) or running:
        while begun < len(lengths) and len(running) < slots:
            heapq.heappush(running, (now + lengths[begun], begun))
            begun += 1
        now, row = heapq.heappop(running)
        shard = row // rows_per_shard
        left[shard] -= 1
        kept += sizes[shard] * (left[shard] == 0)
        lost.append(begun - kept)
    return statistics.fmean(lost), max(lost)


def work(workload: Workload, options: argparse.Namespace) -> list[list[str]]:
    """What `kill` starts: the rows in shards, and how many rows the engine has drawn, every second."""
    import threading

    from flows.server import ensure_server
    from storage.files import write_text

    place = options.folder / "kill"
    place.mkdir(exist_ok=True)
    ensure_server(keep=False)
    with sized_pool(built(options), options, vllm_precision(options)) as pool:

        def tell() -> None:
            while True:
                write_text(place / f"drawn-{os.getpid()}", str(pool.progress["rows"]))
                time.sleep(0.2)

        threading.Thread(target=tell, daemon=True).start()
        answer_in_shards(pool, workload, options, place)
        time.sleep(1.5)
    return []


def drawn_rows(place: Path) -> int:
    """Rows that all runs so far said they had drawn."""
    return sum(int(path.read_text()) for path in place.glob("drawn-*") if path.suffix != ".tmp")


def compare_overhead(workload: Workload, options: argparse.Namespace) -> list[list[str]]:
    """The demo's generate flow against the same calls to the same engine in a bare loop, rounds interleaved."""
    import flows  # noqa: F401 - before Prefect, whose environment it sets
    from configs.settings import load_settings
    from flows.generate import generate
    from flows.server import ensure_server
    from flows.world import build_world
    from storage.workspace import Workspace
    from tasks.generate.rows import chat_model
    from tasks.process import ModelPool

    settings, place = load_settings("demo"), Workspace(options.folder / "demo")
    ensure_server(keep=False)
    build_world(settings, place.root)
    calls: list[tuple[str, dict[str, Any]]] = []
    real_call = ModelPool.call

    def recorded(pool: Any, method: str, **arguments: Any) -> Any:
        calls.append((method, arguments))
        return real_call(pool, method, **arguments)

    def product() -> float:
        for folder in (place.raw, place.state / "rows", place.state / "prefect"):
            shutil.rmtree(folder, ignore_errors=True)
        begun = time.monotonic()
        assert generate(settings, place.root)
        return time.monotonic() - begun

    def bare() -> float:
        begun = time.monotonic()
        arguments = chat_model(
            settings.models.teacher, place, settings.hardware, settings.generation.suppressed_openings
        )
        with (
            ModelPool(
                "tasks.generate.chat:ChatModel",
                arguments,
                threads=settings.hardware.threads,
                size=settings.hardware.workers,
            ) as pool,
            ThreadPoolExecutor(settings.generation.batches_in_flight) as threads,
        ):
            for method, phase in groupby(calls, key=lambda call: call[0]):
                list(threads.map(lambda call, method=method: pool.call(method, **call[1]), phase))
        return time.monotonic() - begun

    ModelPool.call = recorded  # type: ignore[method-assign]
    product()
    ModelPool.call = real_call  # type: ignore[method-assign]
    seconds: dict[str, list[float]] = {"bare": [], "product": []}
    for number in range(options.repeats):
        for side in (["bare", "product"], ["product", "bare"])[number % 2]:
            seconds[side].append({"bare": bare, "product": product}[side]())
        print({side: [round(value, 1) for value in values] for side, values in seconds.items()}, flush=True)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    share = medians["product"] / medians["bare"] - 1
    return [
        [
            "the demo's generation",
            f"{settings.generation.rows:,} rows, {len(calls)} calls, model loading on both sides",
        ],
        ["side", "seconds (each round)", "median", "overhead"],
        ["bare loop over the engine", listed(seconds["bare"]), f"{medians['bare']:.1f}", ""],
        ["python -m flows.generate", listed(seconds["product"]), f"{medians['product']:.1f}", f"{share:+.1%}"],
    ]


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def peak_reset(cuda: bool) -> None:
    """Begin to measure memory."""
    if cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak(cuda: bool) -> str:
    """Most memory that torch reserved."""
    if not cuda:
        return ""
    import torch

    return f"{torch.cuda.max_memory_reserved() / 1e9:.1f} GB"


def listed(seconds: Sequence[float]) -> str:
    """Each round."""
    return ", ".join(f"{value:.1f}" for value in seconds)


def print_table(rows: list[list[str]]) -> None:
    """Aligned columns under a title line."""
    if not rows:
        return
    title, *body = rows
    print("\n" + "  ".join(filter(None, title)))
    widths = [max(len(row[column]) for row in body) for column in range(len(body[0]))]
    for row in body:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
