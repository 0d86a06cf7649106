"""Real training runs on a tiny model: what is published, what is trained, what survives a kill."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.settings import (
    DoraSettings,
    DpoSettings,
    Ia3Settings,
    LohaSettings,
    LoraSettings,
    PrefixTuningSettings,
    PromptTuningSettings,
    PTuningSettings,
    SettingsError,
)
from storage.checkpoints import checkpoint_step, newest_checkpoint
from storage.files import read_json, read_jsonl, write_jsonl
from tasks.engines.templates import response_prompt_ids
from tasks.process import PROJECT, ChildError, ModelProcess, free_port, run_in_child
from tasks.tune import Job, accelerate_launch
from tasks.tune.plan import Plan
from tasks.tune.rows import chat_tokenizer, encode_pairs, encode_sft
from tasks.tune.train import train
from tests.benchmarks.tuning import train_with_trl
from tests.tiny import WORDS, build_tiny_model

METHODS = ("sft", "prompt_tuning", "dpo")
SHARED = {"batch_size": 4, "max_length": 128}
WHOLE: Plan = {"processes": 1, "micro_batch": 4, "gradient_checkpointing": False}
SETTINGS = {
    "sft": LoraSettings(epochs=3, learning_rate=5e-3, **SHARED),
    "prompt_tuning": PromptTuningSettings(epochs=3, learning_rate=5e-2, num_virtual_tokens=4, **SHARED),
    "dpo": DpoSettings(epochs=3, learning_rate=2e-3, **SHARED),
    "prefix_tuning": PrefixTuningSettings(epochs=1, learning_rate=5e-2, num_virtual_tokens=4, **SHARED),
    "p_tuning": PTuningSettings(epochs=1, learning_rate=1e-2, num_virtual_tokens=4, **SHARED),
    "ia3": Ia3Settings(epochs=1, learning_rate=5e-2, **SHARED),
    "dora": DoraSettings(epochs=1, learning_rate=5e-3, **SHARED),
    "loha": LohaSettings(epochs=1, learning_rate=2e-2, **SHARED),
}
FURTHER = [name for name in SETTINGS if name not in METHODS]
TOKENIZER = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
PUBLISHED = ("README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.json", *TOKENIZER)
STEPS = 36
KILLS = 5


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Byte-identity is promised for equal thread counts; the children here have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw, words = random.Random(0), WORDS.split()

    def text(fewest: int, most: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(fewest, most)))

    for split, rows in (("train", 48), ("val", 9), ("test", 7)):
        sft = [{"instruction": text(3, 9), "output": text(4, 20)} for _ in range(rows)]
        pairs = [{"prompt": text(3, 9), "chosen": "one small song", "rejected": text(4, 20)} for _ in range(rows)]
        write_jsonl(folder / f"sft-{split}.jsonl", sft)
        write_jsonl(folder / f"dpo-{split}.jsonl", pairs)
    return folder


def make_job(method: str, data: Path, base: Path, root: Path, **settings: Any) -> Job:
    kind = "dpo" if method == "dpo" else "sft"
    return {
        "method": method,
        "seed": 3,
        "settings": SETTINGS[method].model_dump(mode="json") | settings,
        "plan": WHOLE,
        "fused_kernels": None,
        "memory_gb": None,
        "checkpoint_steps": 6,
        "checkpoints_kept": 2,
        "base": str(base),
        "base_revision": None,
        "base_precision": "fp32",
        "base_name": "world/base",
        "train": str(data / f"{kind}-train.jsonl"),
        "val": str(data / f"{kind}-val.jsonl"),
        "test": str(data / f"{kind}-test.jsonl"),
        "sft_adapter": str(data / "published" / "sft" / "out") if method == "dpo" else None,
        "checkpoints": str(root / "checkpoints"),
        "out": str(root / "out"),
        "progress": str(root / "progress.json"),
        "stage_data": {"data_fingerprint": "0123456789abcdef"},
    }


@pytest.fixture(scope="module")
def published(data: Path, tiny_model: Path) -> dict[str, Job]:
    """One unkilled run of every method, DPO on the SFT adapter."""
    jobs = {method: make_job(method, data, tiny_model, data / "published" / method) for method in METHODS}
    for job in jobs.values():
        train(job)
    return jobs


def files(folder: str) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in PUBLISHED}


def plain_log_probs(model: Any, ids: list[int]) -> Any:
    """Log-probability of each token but the first, by nothing but the model's logits."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
    return logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def load(base: Path, adapter: str | None) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    return PeftModel.from_pretrained(model, adapter) if adapter else model


def plain_sft_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    answers = []
    for row in rows:
        kept = torch.tensor([label != -100 for label in row["labels"][1:]])
        answers.append(plain_log_probs(model, row["input_ids"])[kept])
    return -float(torch.cat(answers).double().mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_holds_a_plain_adapter_and_its_figures(published: dict[str, Job], method: str) -> None:
    job = published[method]
    folder = Path(job["out"])
    assert {path.name for path in folder.iterdir()} == {*PUBLISHED, "cost.json"}
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "world/base"
    everything = b"".join(files(job["out"]).values())
    assert str(Path(job["base"]).parent).encode() not in everything
    metrics, cost = read_json(folder / "metrics.json"), read_json(folder / "cost.json")
    assert metrics["steps"] == STEPS == metrics["loss_curve"][-1][0]
    assert metrics["rows"]["train"]["used"] == 48
    assert cost["train_seconds"] > 0 and cost["segments"] == 1
    assert cost["train_tokens"] == 3 * metrics["rows"]["train"]["tokens"]
    assert cost["peak_memory_bytes"]["allocated"] > (folder / "adapter_model.safetensors").stat().st_size
    assert cost["adapter_bytes"] == (folder / "adapter_model.safetensors").stat().st_size
    assert read_json(Path(job["progress"] or "")) | {"loss": None} == {"step": STEPS, "total": STEPS, "loss": None}
    assert "0123456789abcdef" in (folder / "README.md").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_the_adapter_loads_in_plain_peft_and_matters(published: dict[str, Job], tiny_model: Path, method: str) -> None:
    ids = [0, 20, 30, 40, 50]
    before = plain_log_probs(load(tiny_model, None), ids)
    adapted = load(tiny_model, published[method]["out"])
    assert not torch.allclose(before, plain_log_probs(adapted, ids), atol=1e-3)
    stored = [parameter.dtype for name, parameter in adapted.named_parameters() if "lora_" in name or "prompt" in name]
    assert stored and set(stored) == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_the_cards_example_runs_as_it_stands(
    published: dict[str, Job], tiny_model: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A stranger with transformers and PEFT copies it, and gets the prompt that training knows."""
    card = (Path(published[method]["out"]) / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    for portable, here in (("world/base", tiny_model), ("this folder", published[method]["out"])):
        assert portable in program
        program = program.replace(portable, str(here))
    names: dict[str, Any] = {}
    said: list[str] = []
    exec(program, names | {"print": said.append}, names)
    (instruction,) = (turn["content"] for turn in names["chat"])
    assert names["prompt"]["input_ids"].tolist() == [response_prompt_ids(chat_tokenizer(str(tiny_model)), instruction)]
    assert f"```text\n{names['tokenizer'].decode(names['prompt']['input_ids'][0])}\n```" in card
    assert said and said[0]


@pytest.mark.parametrize("method", FURTHER)
def test_a_further_method_is_a_plain_adapter_that_resumes(
    data: Path, tmp_path: Path, tiny_model: Path, method: str
) -> None:
    job = make_job(method, data, tiny_model, tmp_path / "whole")
    metrics = train(job)["metrics"]
    assert {path.name for path in Path(job["out"]).iterdir()} == {*PUBLISHED, "cost.json"}
    assert metrics["total_parameters"] == sum(parameter.numel() for parameter in load(tiny_model, None).parameters())
    ids = [0, 20, 30, 40, 50]
    adapted = load(tiny_model, job["out"])
    assert not torch.allclose(plain_log_probs(load(tiny_model, None), ids), plain_log_probs(adapted, ids), atol=1e-3)
    rows = encode_sft(read_jsonl(Path(job["val"])), chat_tokenizer(job["base"]), 128).rows
    assert metrics["eval"]["val"]["loss_after"] == pytest.approx(plain_sft_loss(adapted, rows), rel=1e-5)
    assert metrics["eval"]["val"]["loss_after"] < metrics["eval"]["val"]["loss_before"]

    resumed = make_job(method, data, tiny_model, tmp_path / "resumed")
    shutil.copytree(Path(job["checkpoints"]) / "checkpoint-6", Path(resumed["checkpoints"]) / "checkpoint-6")
    assert train(resumed)["cost"]["segments"] == 2
    assert files(resumed["out"]) == files(job["out"])


@pytest.mark.parametrize("method", ["sft", "prompt_tuning"])
def test_held_out_losses_equal_a_plain_computation(published: dict[str, Job], tiny_model: Path, method: str) -> None:
    job = published[method]
    metrics = read_json(Path(job["out"]) / "metrics.json")
    rows = encode_sft(read_jsonl(Path(job["val"])), chat_tokenizer(job["base"]), 128).rows
    figures = metrics["eval"]["val"]
    assert figures["loss_before"] == pytest.approx(plain_sft_loss(load(tiny_model, None), rows), rel=1e-5)
    assert figures["loss_after"] == pytest.approx(plain_sft_loss(load(tiny_model, job["out"]), rows), rel=1e-5)
    assert figures["loss_after"] < figures["loss_before"]


def test_preference_figures_equal_a_plain_computation(published: dict[str, Job], tiny_model: Path) -> None:
    job = published["dpo"]
    metrics = read_json(Path(job["out"]) / "metrics.json")
    assert metrics["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    policy, reference = load(tiny_model, job["out"]), load(tiny_model, published["sft"]["out"])
    margins = []
    for pair in encode_pairs(read_jsonl(Path(job["test"])), chat_tokenizer(job["base"]), 128).rows:
        rewards = []
        for side in ("chosen_ids", "rejected_ids"):
            ids, answer = pair["prompt_ids"] + pair[side], len(pair[side])
            gain = plain_log_probs(policy, ids)[-answer:].sum() - plain_log_probs(reference, ids)[-answer:].sum()
            rewards.append(0.1 * float(gain))
        margins.append(rewards[0] - rewards[1])
    figures = metrics["eval"]["test"]
    assert figures["pairs"] == len(margins) == 7
    assert figures["margin"] == pytest.approx(sum(margins) / 7, abs=1e-4)
    assert figures["accuracy"] == sum(margin > 0 for margin in margins) / 7


def test_rows_are_what_trl_would_tokenize(published: dict[str, Job], tiny_model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    job = published["sft"]
    rows = read_jsonl(Path(job["train"]))
    tokenizer = chat_tokenizer(job["base"])
    chats = [
        {
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in rows
    ]
    arguments = SFTConfig(output_dir=str(tmp_path), report_to="none", bf16=False, max_length=30)
    trainer: Any = SFTTrainer(
        model=load(tiny_model, None),
        args=arguments,
        train_dataset=Dataset.from_list(chats),
        processing_class=tokenizer,
    )
    ours = encode_sft(rows, tokenizer, 30)
    theirs = [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    assert ours.rows == theirs
    assert ours.counts["cut"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_share_a_step(published: dict[str, Job], data: Path, tmp_path: Path, method: str) -> None:
    job = make_job(method, data, Path(published[method]["base"]), tmp_path, epochs=1)
    alone = train(job)["metrics"]
    job |= {"out": str(tmp_path / "shared"), "checkpoints": str(tmp_path / "shared-checkpoints")}  # type: ignore[typeddict-item]
    job["plan"] = {"processes": 2, "micro_batch": 1, "gradient_checkpointing": False}
    # `accelerate launch` starts several processes on a CPU through MPI only; this is what it starts them with on GPUs
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    with environment(ACCELERATE_USE_CPU="true"):
        shared = run_in_child(
            "tasks.tune.train:train", {"job": job}, threads=1, launcher=[*launch, "-m", "tasks.child"], processes=2
        )
    assert shared["metrics"]["steps"] == 12
    for (step, loss), (same_step, same_loss) in zip(shared["metrics"]["loss_curve"], alone["loss_curve"], strict=True):
        assert step == same_step and loss == pytest.approx(same_loss, rel=1e-3, abs=1e-4)
    ours, theirs = weights(job["out"]), weights(str(tmp_path / "out"))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in theirs)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def weights(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    loaded: dict[str, Any] = load_file(Path(folder) / "adapter_model.safetensors")
    return loaded


@pytest.mark.parametrize("method", METHODS)
def test_accumulation_changes_nothing(published: dict[str, Job], data: Path, tmp_path: Path, method: str) -> None:
    job = make_job(method, data, Path(published[method]["base"]), tmp_path)
    job["plan"] = WHOLE | {"micro_batch": 1}
    small = train(job)["metrics"]
    whole = read_json(Path(published[method]["out"]) / "metrics.json")
    for (step, loss), (same_step, same_loss) in zip(small["loss_curve"], whole["loss_curve"], strict=True):
        assert step == same_step and loss == pytest.approx(same_loss, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_are_those_of_trls_own_trainer(published: dict[str, Job], method: str) -> None:
    ours = read_json(Path(published[method]["out"]) / "metrics.json")["loss_curve"]
    theirs = train_with_trl(dict(published[method]), {})["losses"]
    assert len(ours) == len(theirs) == STEPS
    assert [loss for _, loss in ours] == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_recomputed_activations_change_nothing(
    published: dict[str, Job], data: Path, tmp_path: Path, method: str
) -> None:
    job = make_job(method, data, Path(published[method]["base"]), tmp_path)
    job["plan"] = WHOLE | {"gradient_checkpointing": True}
    recomputed = train(job)["metrics"]["loss_curve"]
    stored = read_json(Path(published[method]["out"]) / "metrics.json")["loss_curve"]
    assert [loss for _, loss in recomputed] == pytest.approx([loss for _, loss in stored], rel=1e-4)


@pytest.mark.parametrize("recomputing", [False, True])
@pytest.mark.parametrize("method", SETTINGS)
def test_every_module_is_in_training_mode(
    published: dict[str, Job], data: Path, tmp_path: Path, method: str, recomputing: bool
) -> None:
    if recomputing and method == "prefix_tuning":
        pytest.skip("a prefix cannot be recomputed, and the profile is refused")
    job = make_job(method, data, Path(published["sft"]["base"]), tmp_path, epochs=1)
    job["plan"] = WHOLE | {"gradient_checkpointing": recomputing}
    trainer = started_trainer(job, tmp_path)
    assert all(module.training for module in trainer.model.modules())
    # what holds in a step, after all that `Trainer` does before the first; a layer runs again where it is recomputed
    modes: list[bool] = []
    mlp = next(module for name, module in trainer.model.named_modules() if name.endswith("layers.0.mlp"))
    mlp.register_forward_pre_hook(lambda *_: modes.append(all(part.training for part in trainer.model.modules())))
    trainer.train()
    assert all(modes)
    assert len(modes) == (STEPS // 3) * (1 + recomputing + (method == "dpo"))


def started_trainer(job: Job, scratch: Path) -> Any:
    """What `train` builds before it starts."""
    from tasks.tune.train import _rows_in_order, _trainer
    from tasks.tune.watch import Watch

    tokenizer = chat_tokenizer(job["base"])
    encode = encode_pairs if job["method"] == "dpo" else encode_sft
    rows = _rows_in_order(job, encode(read_jsonl(Path(job["train"])), tokenizer, 128).rows)
    watch = Watch(Path(job["checkpoints"]), 2, "key", None, first_loss=None, step_tokens=[1] * STEPS)
    return _trainer(job, tokenizer, rows, scratch, watch)


@pytest.mark.parametrize(
    ("dtype", "capability", "expected"),
    [
        (torch.float16, (7, 5), {"fp16": True, "bf16": False}),
        (torch.float16, (8, 0), {"fp16": True, "bf16": False}),
        (torch.bfloat16, (8, 0), {"fp16": False, "bf16": True}),
        (torch.float32, (7, 5), {"fp16": False, "bf16": False}),
    ],
)
def test_a_t4_trains_in_fp16(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    tmp_path: Path,
    dtype: Any,
    capability: tuple[int, int],
    expected: dict[str, bool],
) -> None:
    from tasks.tune.train import _arguments

    pretend_gpu(monkeypatch, capability)
    arguments = _arguments(make_job("sft", data, tmp_path, tmp_path), STEPS, tmp_path, dtype)
    assert {name: arguments[name] for name in ("fp16", "bf16")} == expected


def test_bf16_is_refused_where_the_gpu_only_emulates_it(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    from tasks.tune.train import _arguments

    pretend_gpu(monkeypatch, (7, 5))
    with pytest.raises(ValueError, match="got 'bf16', which this GPU only emulates; takes fp16 or nf4"):
        _arguments(make_job("sft", data, tmp_path, tmp_path), STEPS, tmp_path, torch.bfloat16)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_a_checkpoint_ends_byte_identical(
    published: dict[str, Job], data: Path, tmp_path: Path, method: str
) -> None:
    job = make_job(method, data, Path(published[method]["base"]), tmp_path)
    shutil.copytree(published[method]["checkpoints"], job["checkpoints"])
    kept = sorted(path.name for path in Path(job["checkpoints"]).iterdir())
    assert kept == ["checkpoint-30", "checkpoint-36"]
    torn = Path(job["checkpoints"]) / "checkpoint-36" / "optimizer.pt"
    torn.write_bytes(torn.read_bytes()[:-100])
    cost = train(job)["cost"]
    assert files(job["out"]) == files(published[method]["out"])
    assert cost["segments"] == 2
    assert cost["train_tokens"] == read_json(Path(published[method]["out"]) / "cost.json")["train_tokens"]


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_after_the_last_step_only_publishes(
    published: dict[str, Job], data: Path, tmp_path: Path, method: str
) -> None:
    job = make_job(method, data, Path(published[method]["base"]), tmp_path)
    shutil.copytree(published[method]["checkpoints"], job["checkpoints"])
    assert newest_checkpoint(Path(job["checkpoints"])) == Path(job["checkpoints"]) / f"checkpoint-{STEPS}"
    cost = train(job)["cost"]
    assert files(job["out"]) == files(published[method]["out"])
    assert cost["train_seconds"] == read_json(Path(published[method]["out"]) / "cost.json")["train_seconds"]


def test_another_jobs_checkpoints_are_not_gone_on_from(
    published: dict[str, Job], data: Path, tmp_path: Path, tiny_model: Path
) -> None:
    job = make_job("sft", data, tiny_model, tmp_path)
    other = make_job("sft", data, tiny_model, tmp_path, learning_rate=1e-4)
    train(other)
    train(job)
    assert files(job["out"]) == files(published["sft"]["out"])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_five_times_ends_byte_identical(
    published: dict[str, Job], data: Path, tmp_path: Path, method: str
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"chance seed {seed}")
    chance = random.Random(seed)
    job = make_job(method, data, Path(published[method]["base"]), tmp_path)
    job["checkpoint_steps"] = every = 2
    unkilled = read_json(Path(published[method]["out"]) / "cost.json")
    kept, kills = 0, list[str]()
    for left in range(KILLS - 1, -1, -1):
        latest = STEPS - 8 - 2 * every * left  # each later process must reach a checkpoint, and not its end
        target = chance.choice(range(kept + every, max(latest, kept + every) + 1, every))
        delay = chance.uniform(0, 2) * unkilled["train_seconds"] / STEPS  # or every kill would follow a checkpoint
        with ModelProcess("tasks.tune.train:train", {"job": job}, threads=1) as child:
            wait_for(lambda: kept_step(job) >= target or child.ready.done(), seconds=120)  # noqa: B023
            time.sleep(delay)
            os.kill(child.pid, signal.SIGKILL)
            with pytest.raises(ChildError, match="ended with code -9"):
                child.ready.result()
        assert not Path(job["out"]).exists(), "the run was over before it was killed"
        assert kept_step(job) > kept
        kept = kept_step(job)
        kills.append(f"{1000 * delay:.0f} ms after checkpoint {target}, {kept} kept")
    cost = run_in_child("tasks.tune.train:train", {"job": job}, threads=1)["cost"]
    assert files(job["out"]) == files(published[method]["out"]), f"killed {kills}"
    assert cost["segments"] == KILLS + 1
    assert cost["train_tokens"] == unkilled["train_tokens"]


def kept_step(job: Job) -> int:
    newest = newest_checkpoint(Path(job["checkpoints"]))
    return checkpoint_step(newest) if newest else 0


def test_a_loss_that_is_not_finite_publishes_nothing(data: Path, tmp_path: Path, tiny_model: Path) -> None:
    from tasks.tune.watch import TrainingError

    job = make_job("sft", data, tiny_model, tmp_path, learning_rate=1e30)
    with pytest.raises(TrainingError, match="nothing is published"):
        train(job)
    assert not Path(job["out"]).exists()


def test_dpo_that_does_not_start_at_ln_2_is_stopped(tmp_path: Path) -> None:
    from transformers import TrainerState

    from tasks.tune.watch import TrainingError, Watch

    watch = Watch(tmp_path, 2, "key", None, first_loss=math.log(2), step_tokens=[10])
    watch.on_log(None, TrainerState(global_step=1), None, logs={"loss": math.log(2) + 9e-4, "num_tokens": 10.0})
    with pytest.raises(TrainingError, match="policy and reference differ"):
        watch.on_log(None, TrainerState(global_step=1), None, logs={"loss": 0.70, "num_tokens": 10.0})


def test_adapters_of_a_4_bit_model_are_trained_in_fp32(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = build_tiny_model(tmp_path / "base", hidden=64)
    whole = sum(parameter.numel() for parameter in load(base, None).parameters())
    adapter = None
    for method in ("sft", "dpo"):
        job = make_job(method, data, base, tmp_path / method, epochs=1)
        job["base_precision"], job["sft_adapter"] = "nf4", adapter
        assert train(job)["metrics"]["total_parameters"] == whole
        weights = load_file(Path(job["out"]) / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        assert not any(torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())
        adapter = job["out"]


@pytest.mark.parametrize("method", FURTHER)
def test_further_methods_on_a_4_bit_model(data: Path, tmp_path: Path, method: str) -> None:
    base = build_tiny_model(tmp_path / "base", hidden=64)
    job = make_job(method, data, base, tmp_path / method)
    job["base_precision"] = "nf4"
    if method in ("ia3", "loha"):
        with pytest.raises(SettingsError, match=r"models.base.precision: got 'nf4'"):
            train(job)
        return
    metrics = train(job)["metrics"]
    assert metrics["total_parameters"] == sum(parameter.numel() for parameter in load(base, None).parameters())
    assert metrics["eval"]["val"]["loss_after"] < metrics["eval"]["val"]["loss_before"]


def test_accelerate_launches_the_child_and_it_dies_with_its_parent(
    published: dict[str, Job], data: Path, tmp_path: Path, tiny_model: Path
) -> None:
    job = make_job("sft", data, tiny_model, tmp_path, epochs=500)
    code = (
        "import json, sys; from tasks.process import run_in_child; from tasks.tune import accelerate_launch as launch;"
        "run_in_child('tasks.tune.train:train', {'job': json.loads(sys.argv[1])}, threads=1, launcher=launch(1))"
    )
    assert accelerate_launch(1)[-2:] == ["-m", "tasks.child"]
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(job)], cwd=PROJECT)
    try:
        wait_for(lambda: Path(job["progress"] or "").exists() or parent.poll() is not None, seconds=120)
        family = descendants(parent.pid)
        assert len(family) >= 2  # accelerate, and the child it launched
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in family), seconds=20)
    assert not any(alive(pid) for pid in family)
    assert not Path(job["out"]).exists()


def wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
