"""One model under lm-evaluation-harness: base, LoRA and prompt adapters by the same code, precision and batch size.

`ModelProcess("tasks.evaluate.harness:Evaluator", {"base": …, "adapter": …}, threads=2).call("evaluate", task="mmlu")`
loads the model once and answers one benchmark a call. Nothing of lm-eval's caches is used: their keys leave the model
out, so that one method would be handed another's answers.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from storage.files import fingerprint

if TYPE_CHECKING:
    import torch

DEFAULT_CONTEXT = 2048
RESULT_KEYS = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
CONFIG_KEYS = ("task", "dataset_name", "output_type", "doc_to_text", "doc_to_target", "doc_to_choice", "num_fewshot")


class Evaluator:
    """A causal language model, with or without a PEFT adapter, ready to be asked."""

    def __init__(
        self,
        base: str,
        *,
        precision: str,
        batch_size: int,
        revision: str | None = None,
        adapter: str | None = None,
        reserved_tokens: int = 0,
    ) -> None:
        """Load the model.

        Args:
            base: hub id or folder of the base model.
            precision: fp32, fp16, bf16 or nf4, the same for every method of a study.
            batch_size: rows a forward pass; it moves half-precision scores, so it is the same for every method.
            revision: hub commit, tag or branch.
            adapter: folder of a PEFT adapter (LoRA or prompt tuning).
            reserved_tokens: context kept free whatever the method, as many as the study's longest soft prompt,
                so that all methods see the same prompts.
        """
        from transformers import AutoTokenizer

        from tasks.evaluate.prefix import SharedPrefixLM

        self._model = load_model(base, revision, precision, adapter)
        self._device = self._model.device
        context = getattr(self._model.config, "max_position_embeddings", DEFAULT_CONTEXT)
        self._lm = SharedPrefixLM(
            pretrained=self._model,
            tokenizer=AutoTokenizer.from_pretrained(base, revision=revision),
            backend="causal",
            batch_size=batch_size,
            max_length=context - reserved_tokens,
        )
        self._config = {"precision": precision, "batch_size": batch_size, "reserved_tokens": reserved_tokens}

    def evaluate(
        self, task: str, tasks_folder: str | None = None, limit: int | None = None, seed: int = 0
    ) -> dict[str, Any]:
        """Run one benchmark.

        Args:
            task: lm-eval task or group.
            tasks_folder: folder of task YAMLs; none takes lm-eval's own.
            limit: questions a task, drawn by `seed` and so the same for every model; none takes all.
            seed: of the draw, of few-shot examples and of lm-eval's bootstrap.

        Returns:
            `results` in lm-eval's format without clock times, paths and host, `samples` with a row a question
            (task, doc_id, doc_hash, cluster, metrics, responses), and `seconds`, which is in neither.
        """
        import numpy as np
        import torch
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        started = time.perf_counter()
        manager = TaskManager(include_path=tasks_folder, include_defaults=tasks_folder is None)
        loaded = manager.load([task])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for one in loaded["tasks"].values():
            if one.get_config("num_fewshot") is None:
                one.set_config(key="num_fewshot", value=0)
            one.set_fewshot_seed(seed=seed)
        answers = evaluate(lm=self._lm, task_dict=loaded, samples=_draw(loaded["tasks"], limit, seed), log_samples=True)
        samples = _sample_rows(answers["samples"])
        results: dict[str, Any] = {key: answers[key] for key in RESULT_KEYS if key in answers}
        results["configs"] = {
            name: {key: config[key] for key in CONFIG_KEYS if isinstance(config.get(key), (str, int, list))}
            for name, config in answers["configs"].items()
        }
        results["config"] = self._config | {
            "task": task,
            "limit": limit,
            "seed": seed,
            "questions": len(samples),
            "questions_sha256": fingerprint([[row["task"], row["doc_hash"]] for row in samples], 64),
        }
        return {"results": _plain(results), "samples": samples, "seconds": time.perf_counter() - started}

    def measure_speed(self, prompts: list[str], new_tokens: int, repeats: int) -> dict[str, Any]:
        """Greedy generation of exactly `new_tokens` for all prompts in one batch, timed after a warm-up.

        Returns:
            tokens_per_second (median of the repeats), seconds of each repeat, rows, new_tokens,
            peak_memory_bytes (null on a CPU) and the model's parameters.
        """
        import torch

        self.generate(prompts, new_tokens)
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(repeats):
            self._synchronize()
            started = time.perf_counter()
            self.generate(prompts, new_tokens)
            self._synchronize()
            seconds.append(time.perf_counter() - started)
        return {
            "tokens_per_second": len(prompts) * new_tokens / statistics.median(seconds),
            "seconds": seconds,
            "rows": len(prompts),
            "new_tokens": new_tokens,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "parameters": sum(_elements(parameter) for parameter in self._model.parameters()),
        }

    def generate(self, prompts: list[str], new_tokens: int) -> list[list[int]]:
        """The `new_tokens` greedy next tokens of each prompt.

        PEFT puts virtual tokens before the padding of a left-padded row, and most answers then differ; here the row
        is pads, virtual tokens, text, and the base model continues it.
        """
        import torch

        tokenizer = self._lm.tokenizer
        rows = [self._lm.tok_encode(prompt) for prompt in prompts]
        width = max(len(row) for row in rows)
        padded = [[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows]
        ids = torch.tensor(padded, device=self._device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self._device)
        fixed = {"do_sample": False, "min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        with torch.no_grad():
            virtual = self._virtual_tokens(len(rows))
            if virtual is None:
                output = self._model.generate(
                    input_ids=ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, **fixed
                )[:, width:]
            else:
                text = self._model.get_input_embeddings()(ids)
                pads = [width - len(row) for row in rows]
                between = virtual.to(text.dtype)
                embeds = torch.stack(
                    [
                        torch.cat([row[:pad], soft, row[pad:]])
                        for row, pad, soft in zip(text, pads, between, strict=True)
                    ]
                )
                ones = torch.ones(between.shape[1], dtype=mask.dtype, device=self._device)
                mask = torch.stack(
                    [torch.cat([row[:pad], ones, row[pad:]]) for row, pad in zip(mask, pads, strict=True)]
                )
                output = self._model.get_base_model().generate(
                    inputs_embeds=embeds, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, **fixed
                )
        tokens: list[list[int]] = output.tolist()
        return tokens

    def _virtual_tokens(self, rows: int) -> torch.Tensor | None:
        config = getattr(self._model, "active_peft_config", None)
        # a prefix lies in the cache before pads and text alike, where PEFT's own `generate` is right
        if config is None or not config.is_prompt_learning or config.peft_type == "PREFIX_TUNING":
            return None
        if config.peft_type not in ("PROMPT_TUNING", "P_TUNING"):
            raise ValueError(f"{config.peft_type} adapters have no virtual tokens to place after the padding")
        virtual: torch.Tensor = self._model.get_prompt(batch_size=rows)
        return virtual

    def _synchronize(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize()


def load_model(base: str, revision: str | None, precision: str, adapter: str | None) -> Any:
    """A causal language model in evaluation mode, with its adapter unmerged."""
    from transformers import AutoModelForCausalLM

    from tasks.models import load_arguments

    model: Any = AutoModelForCausalLM.from_pretrained(base, revision=revision, **load_arguments(precision))
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def _draw(tasks: dict[str, Any], limit: int | None, seed: int) -> dict[str, list[int]] | None:
    if limit is None:
        return None
    drawn = {}
    for name, task in tasks.items():
        count = len(task.eval_docs)
        # lm-eval's own limit takes the first rows, and data sets are often sorted
        drawn[name] = sorted(random.Random(f"{seed}:{name}").sample(range(count), min(limit, count)))
    return drawn


def _sample_rows(samples: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row a question; a group's subtasks, such as MMLU's subjects, are its clusters."""
    clustered = len(samples) > 1
    rows = []
    for task in sorted(samples):
        answers: dict[int, dict[str, Any]] = defaultdict(lambda: {"metrics": {}, "responses": {}})
        for sample in samples[task]:
            row = answers[sample["doc_id"]]
            row["doc_hash"] = sample["doc_hash"]
            default = sample["filter"] == "none"
            for metric in sample["metrics"]:
                name = metric if default else f"{metric},{sample['filter']}"
                row["metrics"][name] = _plain(sample[metric])
            row["responses"][sample["filter"]] = _plain(sample["filtered_resps"])
        rows += [
            {
                "task": task,
                "doc_id": doc_id,
                "doc_hash": answers[doc_id]["doc_hash"],
                "cluster": task if clustered else None,
                "metrics": answers[doc_id]["metrics"],
                "responses": answers[doc_id]["responses"],
            }
            for doc_id in sorted(answers)
        ]
    return rows


def _plain(value: Any) -> Any:
    """JSON-shaped: numpy scalars as numbers, NaN as null, mappings with string keys."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _elements(parameter: Any) -> int:
    # bitsandbytes packs two 4-bit weights in a byte
    return int(parameter.numel()) * (2 if type(parameter).__name__ == "Params4bit" else 1)
