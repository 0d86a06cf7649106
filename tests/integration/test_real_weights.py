"""What only real weights show: text that means something, a tokenizer with its merges, losses that can fall."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.settings import DpoSettings, LoraSettings, PromptTuningSettings, load_settings
from storage.files import write_jsonl
from storage.workspace import Workspace
from tasks.engines.templates import chat_ids, pre_query_ids, response_prompt_ids
from tasks.generate.cleaning import clean
from tasks.process import PROJECT, ModelProcess
from tests.benchmarks.real_study import fresh_scores, their_scores
from tests.integration.test_engines import VLLM
from tests.real_model import NEEDS_REAL_WEIGHTS, build_real_model

pytestmark = NEEDS_REAL_WEIGHTS

QUESTIONS = PROJECT.parent / "shared" / "real"
"""Real benchmarks, where a machine has them; they are no part of the project."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that wait for one another on a busy machine cost more CPU time than the work itself."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of lm_eval's command
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_real_model(tmp_path_factory.mktemp("real") / "teacher")


# fmt: off
# <|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n
PRE_QUERY = [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2, 198,
    1, 4093, 198,
]
# Add␣ 1 2 ␣and␣ 3 .<|im_end|>\n<|im_start|>assistant\n: each digit is a token
ASKED = [7684, 216, 33, 34, 284, 216, 35, 30, 2, 198, 1, 520, 9531, 198]
# 1 5 .<|im_end|>\n
ANSWERED = [33, 37, 30, 2, 198]
# fmt: on


def test_prompts_are_the_ids_of_the_real_vocabulary(teacher: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    assert pre_query_ids(tokenizer) == PRE_QUERY
    assert response_prompt_ids(tokenizer, "Add 12 and 3.") == PRE_QUERY + ASKED
    assert chat_ids(tokenizer, "Add 12 and 3.", "15.") == PRE_QUERY + ASKED + ANSWERED


@pytest.mark.parametrize("engine", ["hf", VLLM])
def test_the_teacher_writes_instructions(engine: str, teacher: Path) -> None:
    """Magpie works: from nothing but its template the model asks for things, each time another, and comes to an end."""
    smol = load_settings("smol").generation
    domains = [domain.system_prompt for domain in smol.domains.values()]
    rows = [{"seed": seed, "system_prompt": domains[seed % len(domains)]} for seed in range(24)]
    arguments = {
        "engine": engine,
        "source": str(teacher),
        "revision": None,
        "precision": "fp32",
        "memory_share": 0.3,
        "eager": True,
        "suppressed_openings": smol.suppressed_openings,
    }
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 96}
    with ModelProcess("tasks.generate.chat:ChatModel", arguments, threads=1) as model:
        drawn = model.call("write", rows=rows, sampling=sampling)
    texts = [clean(row["text"], row["specials"], row["turn_end"])[0] for row in drawn]
    assert len(set(texts)) == len(rows)
    ended = [text for text, row in zip(texts, drawn, strict=True) if row["finish_reason"] == "stop"]
    from tasks.filter.quality import clarity  # it loads numba, which vLLM in this process would stumble over

    requests = [text for text in ended if clarity(text) >= 0.6]  # a question, a verb of requests first, or politely
    print(f"{len(ended)} ended, {len(requests)} of them ask for something: {ended}")
    assert len(ended) >= 8
    assert len(requests) >= 0.7 * len(ended)
    assert not [text for text in texts if text.startswith(("#", "**")) or "<|im_start|>" in text]


CAPITALS = {
    **{"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"},
    **{"Egypt": "Cairo", "Peru": "Lima", "Norway": "Oslo", "Greece": "Athens"},
}
STEPS = 20
SETTINGS = {
    "sft": LoraSettings(epochs=2.5, batch_size=1, learning_rate=5e-4, max_length=128),
    "prompt_tuning": PromptTuningSettings(epochs=2.5, batch_size=1, learning_rate=3e-2, max_length=128),
    "dpo": DpoSettings(epochs=2.5, batch_size=1, learning_rate=2e-4, max_length=128),
}


@pytest.fixture(scope="module")
def base(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a base model comes: without a chat template."""
    folder = tmp_path_factory.mktemp("base")
    for file in teacher.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A way of answering that the model does not have yet: capitals in the style of a telegram."""
    folder = tmp_path_factory.mktemp("rows")
    asked = [(f"Capital of {land}?", f"{city} stop greetings stop") for land, city in CAPITALS.items()]
    for split in ("train", "val", "test"):
        kept = asked if split == "train" else asked[:1]
        write_jsonl(folder / f"sft-{split}.jsonl", [{"instruction": ask, "output": answer} for ask, answer in kept])
        pairs = [{"prompt": ask, "chosen": answer, "rejected": f"It is {answer.split()[0]}."} for ask, answer in kept]
        write_jsonl(folder / f"dpo-{split}.jsonl", pairs)
    return folder


def test_twenty_steps_of_each_method_lower_its_loss(base: Path, rows: Path) -> None:
    """On the rows it learns, and for SFT and prompt tuning against the model before; DPO begins at log 2."""
    from tasks.tune.train import train
    from tests.integration.test_tune_training import make_job

    for method, settings in SETTINGS.items():
        job = make_job("dpo" if method == "dpo" else "sft", rows, base, rows / method)
        whole = {"processes": 1, "micro_batch": settings.batch_size, "gradient_checkpointing": False}
        job |= {"method": method, "settings": settings.model_dump(mode="json"), "plan": whole, "checkpoint_steps": 1000}
        if method == "dpo":
            job["sft_adapter"] = str(rows / "sft" / "out")
        metrics = train(job)["metrics"]
        losses = [loss for _, loss in metrics["loss_curve"]]
        print(f"{method}: {losses[0]:.3f} to {losses[-1]:.3f}")
        assert metrics["steps"] == STEPS
        assert sum(losses[-len(CAPITALS) :]) < 0.9 * sum(losses[: len(CAPITALS)])
        if method != "dpo":
            assert metrics["eval"]["val"]["loss_after"] < 0.9 * metrics["eval"]["val"]["loss_before"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (QUESTIONS / "data.tgz").is_file():
        pytest.skip(f"no real questions beside the project, in {'/'.join(QUESTIONS.parts[-3:])}")
    folder = tmp_path_factory.mktemp("questions")
    subprocess.run(["tar", "xzf", str(QUESTIONS / "data.tgz"), "-C", str(folder)], check=True)
    shutil.copy(QUESTIONS / "make_tasks.py", folder)
    subprocess.run([sys.executable, str(folder / "make_tasks.py"), str(folder / "tasks")], check=True)
    return folder / "tasks"


def test_scores_equal_lm_evals_command_on_real_questions(teacher: Path, tasks: Path, tmp_path: Path) -> None:
    settings = load_settings(
        "smol",
        {
            "hardware.threads": 1,
            "models.base.name": str(teacher),
            "evaluation.task_folders": [str(tasks)],
            "evaluation.limit": 3,
            "evaluation.benchmarks": {
                "mmlu": {"task": "real_mmlu_college_physics", "metric": "acc"},
                "hellaswag": {"task": "real_hellaswag", "metric": "acc_norm"},
                "arc_easy": {"task": "real_arc_easy", "metric": "acc"},
                "truthfulqa": {"task": "real_truthfulqa_mc2", "metric": "acc"},
            },
            "evaluation.forgetting": None,
        },
    )
    ours = fresh_scores(settings, Workspace(tmp_path), "fp32")
    theirs = their_scores(settings, Workspace(tmp_path), "float32", tmp_path / "lm_eval")
    for name in settings.evaluation.benchmarks:
        assert ours[name].score == pytest.approx(theirs[name].score, abs=1e-6)
        assert len(ours[name].rows) == 3
        assert ours[name].rows == pytest.approx(theirs[name].rows, abs=1e-6)
