"""How fast a million rows are filtered, in how much memory, and against what others offer.

    python -m tests.benchmarks.filtering rows --rows 100000 1000000          # the whole command; growth
    python -m tests.benchmarks.filtering rows --rows 1000000 --kind families # many near-misses
    python -m tests.benchmarks.filtering peers --rows 100000                 # datasketch, datatrove, on the same rows

Needs `pip install wordfreq psutil`; `peers` also datasketch, datatrove (0.10 fails with xxhash 4), nltk and spacy, and
leaves out what is not installed. Rows are made from the seed: Zipf words (exponent 1) of the 50,000 commonest of
English, instructions of 60 words, outputs of 250; `plain`: 30% of the instructions are near-duplicates of an earlier
one, at Jaccard 0.7 to 0.95; `families`: templates of 45 fixed and 15 free words, 200 rows each, so that most pairs of
a family are near-misses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import wordfreq

from storage.files import read_json

VOCABULARY = 50_000
INSTRUCTION, OUTPUT, SENTENCE = 60, 250, 12
DUPLICATES, CLOSEST, FARTHEST = 0.3, 0.95, 0.7
FAMILY, FREE = 200, 15
PART = 5_000  # rows made from one seed
THRESHOLD = 0.8
PROJECT = Path(__file__).parents[2]


def main() -> None:
    """Run one comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "peers"])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--kind", choices=["plain", "families"], default="plain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the made rows (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare = {"rows": compare_sizes, "peers": compare_peers}[options.what]
        print(pd.DataFrame(compare(options, Path(folder))).to_string(index=False))


def compare_sizes(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """`python -m flows.filter --input` on files of each size: seconds, peak memory of all its processes, growth."""
    table: list[dict[str, Any]] = []
    for count in options.rows:
        source = made_file(folder, count, options.kind, options.seed)
        size = source.stat().st_size
        seconds, peak = timed([sys.executable, "-m", "flows.filter", "--input", str(source)])
        result = folder / f"{source.stem}-filtered"
        stats = read_json(result / "stats.json")
        line = {
            "kind": options.kind,
            "rows": count,
            "GB": round(size / 1e9, 2),
            "seconds": round(seconds, 1),
            "peak GB": round(peak / 1e9, 2),
            "kept": stats["kept"],
        } | {step["rule"]: step["dropped"] for step in stats["waterfall"]}
        if table:
            line["growth / linear"] = round(seconds / table[0]["seconds"] / (count / table[0]["rows"]), 2)
        print(json.dumps(line), flush=True)
        table.append(line)
        source.unlink()
        shutil.rmtree(result)
    return table


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds of a command and the largest sum of its processes' resident bytes, looked at five times a second."""
    begun, peak = time.monotonic(), 0
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as run:
        watched = psutil.Process(run.pid)
        while run.poll() is None:
            peak = max(peak, sum(map(resident, [watched, *watched.children(recursive=True)])))
            time.sleep(0.2)
        if run.returncode:
            raise SystemExit(f"exit code {run.returncode}: {' '.join(command)}")
    return time.monotonic() - begun, peak


def resident(process: psutil.Process) -> int:
    """Its resident bytes, 0 if it has ended."""
    try:
        size: int = process.memory_info().rss
    except psutil.Error:
        return 0
    return size


def made_file(folder: Path, count: int, kind: str, seed: int) -> Path:
    """A file of made rows."""
    path = folder / f"{kind}-{count}.jsonl"
    parts = [(first, min(PART, count - first), kind, seed) for first in range(0, count, PART)]
    with path.open("w") as file, ProcessPoolExecutor() as pool:
        for text in pool.map(made_lines, parts):
            file.write(text)
    return path


def made_lines(part: tuple[int, int, str, int]) -> str:
    """A part of the file: JSON lines."""
    first, count, kind, seed = part
    rng = np.random.default_rng([seed, first])
    vocabulary = np.array(english(), dtype=object)
    share = 1 / np.arange(1, VOCABULARY + 1)
    cumulated = np.cumsum(share / share.sum())

    def drawn(*shape: int) -> Any:
        words = np.searchsorted(cumulated, rng.random(shape)).clip(max=VOCABULARY - 1)
        for at in range(0, shape[-1], SENTENCE):
            unlike(words[..., at : at + SENTENCE], lambda count: drawn(count, 1)[:, 0])
        return words

    instructions = families(count, drawn) if kind == "families" else near_duplicates(count, drawn, rng)
    outputs = drawn(count, OUTPUT)
    return "".join(
        json.dumps(
            {
                "id": f"{first + row:08d}",
                "instruction": prose(vocabulary[instructions[row]]),
                "output": prose(vocabulary[outputs[row]]),
            }
        )
        + "\n"
        for row in range(count)
    )


def unlike(sentences: Any, drawn: Callable[[int], Any]) -> None:
    """Draw words anew until none stands twice in a sentence: `the the the` is a repetition that every rule drops."""
    while True:
        order = np.argsort(sentences, axis=-1, kind="stable")
        ordered = np.take_along_axis(sentences, order, -1)
        again = np.zeros(sentences.shape, bool)
        np.put_along_axis(again, order[..., 1:], ordered[..., 1:] == ordered[..., :-1], -1)
        if not again.any():
            return
        sentences[again] = drawn(int(again.sum()))


def near_duplicates(count: int, drawn: Callable[..., Any], rng: np.random.Generator) -> list[Any]:
    """Instructions of which the last 30% are earlier ones with words swapped, to a Jaccard drawn from its range."""
    made = list(drawn(count, INSTRUCTION))
    rng.shuffle(made)
    for row in range(round(count * (1 - DUPLICATES)), count):
        twin = made[rng.integers(round(count * (1 - DUPLICATES)))].copy()
        distinct = len(set(twin.tolist()))
        wanted = rng.uniform(FARTHEST, CLOSEST)
        swapped = round(distinct * (1 - wanted) / (1 + wanted))  # n - s words shared of n + s
        for word in rng.choice(np.unique(twin), swapped, replace=False):
            twin[twin == word] = rng.integers(VOCABULARY // 2, VOCABULARY)
        made[row] = twin
    return [made[row] for row in rng.permutation(count)]


def families(count: int, drawn: Callable[..., Any]) -> list[Any]:
    """Instructions of templates with free words."""
    made = []
    while len(made) < count:
        stem = drawn(INSTRUCTION)
        for free in drawn(min(FAMILY, count - len(made)), FREE):
            made.append(np.concatenate([stem[FREE:], free]))
    return made


def prose(text: Any) -> str:
    """Words as sentences."""
    sentences = [" ".join(text[at : at + SENTENCE]) for at in range(0, len(text), SENTENCE)]
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) + "."


def english() -> list[str]:
    """The commonest words of letters only, commonest first."""
    words = (word for word in wordfreq.iter_wordlist("en") if word.isascii() and word.isalpha())
    return list(itertools.islice(words, VOCABULARY))


def compare_peers(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Near-duplicates and repetition by ours and by others' nearest, one after the other, one process each."""
    source = made_file(folder, options.rows[0], options.kind, options.seed)
    with source.open() as file:
        rows = [json.loads(line) | {"finish_reason": "stop"} for line in file]
    texts = [row["instruction"] for row in rows]
    table = []
    truth = exact_pairs(texts)
    print(f"{len(truth)} pairs at {THRESHOLD} or more", flush=True)
    for what, name, work in [
        ("near-duplicates", "ours (exact)", lambda: ours(texts)),
        ("near-duplicates", "datasketch 9x13", lambda: datasketch(texts)),
        ("near-duplicates", "datatrove 14x8", lambda: datatrove(texts, folder)),
        ("repetition", "ours", lambda: repetition(rows)),
        ("repetition", "datatrove Gopher", lambda: gopher(rows)),
    ]:
        try:
            work_once = work()
        except ImportError as error:
            print(f"{name}: not measured, {error}", flush=True)
            continue
        begun = time.monotonic()
        kept = work_once()
        line = {"what": what, "by": name, "rows": len(rows), "seconds": round(time.monotonic() - begun, 1)}
        line["kept"] = len(kept)
        if what == "near-duplicates":
            line["pairs left"] = sum(a in kept and b in kept for a, b in truth)
        print(json.dumps(line), flush=True)
        table.append(line)
    return table


def exact_pairs(texts: list[str]) -> list[tuple[int, int]]:
    """All pairs at the threshold, which the tests prove equal to comparing every pair; also compiles what is timed."""
    from tasks.filter.similarity import WordSets, exact, keep_apart, links, word_set

    keep_apart(WordSets.of([word_set("a b")]), np.arange(1), exact(THRESHOLD))
    return [(match.key, later) for later, match in links(WordSets.of(map(word_set, texts)), exact(THRESHOLD))]


def ours(texts: list[str]) -> Callable[[], set[int]]:
    """Word sets and the exact walk."""
    from tasks.filter.similarity import WordSets, exact, keep_apart, word_set

    def work() -> set[int]:
        sets = WordSets.of(map(word_set, texts))
        return set(range(len(texts))) - keep_apart(sets, np.arange(len(texts)), exact(THRESHOLD)).keys()

    return work


def datasketch(texts: list[str]) -> Callable[[], set[int]]:
    """MinHash LSH over the same words, kept if no kept one is in a bucket."""
    from datasketch import MinHash, MinHashLSH

    from tasks.filter.text import words

    def work() -> set[int]:
        index, kept = MinHashLSH(threshold=THRESHOLD, num_perm=128), set()
        contents = ([word.encode() for word in set(words(text))] for text in texts)
        for number, minhash in enumerate(MinHash.generator(contents, num_perm=128)):
            if not index.query(minhash):
                index.insert(number, minhash)
                kept.add(number)
        return kept

    return work


def datatrove(texts: list[str], folder: Path) -> Callable[[], set[int]]:
    """Its four MinHash steps with their defaults, over single words."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets

    place = str(folder / "minhash")
    config = MinhashConfig(n_grams=1)
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]

    def work() -> set[int]:
        drain(MinhashDedupSignature(f"{place}/signatures", config).run(iter(documents), 0, 1))
        for bucket in range(config.num_buckets):
            drain(
                MinhashDedupBuckets(f"{place}/signatures", f"{place}/buckets", config=config).run(
                    None, bucket, config.num_buckets
                )
            )
        drain(MinhashDedupCluster(f"{place}/buckets", f"{place}/remove", config=config).run(None, 0, 1))
        kept = MinhashDedupFilter(f"{place}/remove").run(iter(documents), 0, 1)
        return {int(document.id) for document in kept}

    return work


def drain(step: Iterator[Any] | None) -> None:
    """Run a step that yields nothing of interest."""
    for _ in step or ():
        pass


def repetition(rows: list[dict[str, Any]]) -> Callable[[], list[int]]:
    """Our rule, on instruction and output."""
    from configs.settings import FilterSettings
    from tasks.filter.rules import Repetition

    rule = Repetition(FilterSettings())
    return lambda: [number for number, row in enumerate(rows) if rule.judge(row) is None]


def gopher(rows: list[dict[str, Any]]) -> Callable[[], list[int]]:
    """Gopher's repetition filter, which counts duplicated lines and n-grams, on instruction and output."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherRepetitionFilter

    filters = GopherRepetitionFilter()
    pairs = [[Document(text=row[field], id="") for field in ("instruction", "output")] for row in rows]
    return lambda: [
        number for number, pair in enumerate(pairs) if all(filters.filter(document) is True for document in pair)
    ]


if __name__ == "__main__":
    main()
