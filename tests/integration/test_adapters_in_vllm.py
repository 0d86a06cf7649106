"""A published LoRA adapter loads in vLLM, which serves many adapters beside one base model."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from configs.settings import LoraSettings
from storage.files import read_json, write_jsonl
from tasks.tune.train import train
from tests.integration.test_tune_training import make_job
from tests.tiny import build_tiny_model

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; only the CPU build reads it
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and not os.environ.get("REQUIRE_VLLM"),
    reason="vLLM is not installed; `.ci/run` tests it in an environment of its own",
)

PROMPTS = [[0, 308, 296], [0, 300], [0, 310, 311, 312, 313, 314, 315]]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32, which vLLM's attention on a CPU needs, and answers that depend on all that came before."""
    return build_tiny_model(tmp_path_factory.mktemp("served") / "base", hidden=128, spread=0.3)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` publishes, with the default rank and matrices."""
    root = tmp_path_factory.mktemp("adapter")
    rows = [{"instruction": f"how many birds sing {n}", "output": "one small song at dawn"} for n in range(16)]
    for split in ("train", "val", "test"):
        write_jsonl(root / f"sft-{split}.jsonl", rows)
    defaults = {name: LoraSettings.model_fields[name].default for name in ("r", "lora_alpha", "target_modules")}
    job = make_job("sft", root, base, root, learning_rate=2e-2, **defaults)
    train(job)
    return Path(job["out"])


def _by_transformers(base: Path, adapter: Path | None) -> list[list[int]]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
        )
        texts.append(out[0, len(prompt) :].tolist())
    return texts


def test_greedy_tokens_equal_those_of_transformers_and_peft(base: Path, adapter: Path) -> None:
    """With the adapter and without it, in one engine."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    config = read_json(adapter / "adapter_config.json")
    assert (config["r"], config["target_modules"]) == (8, ["k_proj", "o_proj", "q_proj", "v_proj"])
    engine = LLM(
        model=str(base),
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=config["r"],
        gpu_memory_utilization=0.3,
    )
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS)

    def by_vllm(lora: Any) -> list[list[int]]:
        prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
        answers = engine.generate(prompts, greedy, lora_request=lora, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    adapted, plain = _by_transformers(base, adapter), _by_transformers(base, None)
    assert all(ours != theirs for ours, theirs in zip(adapted, plain, strict=True)), "the adapter changes every answer"
    assert by_vllm(LoRARequest("sft", 1, str(adapter))) == adapted
    assert by_vllm(None) == plain
