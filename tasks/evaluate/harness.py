"""One model under lm-evaluation-harness: base, LoRA and prompt adapters by the same code, precision and batch size.

`ModelProcess("tasks.evaluate.harness:Evaluator", {"base": …, "adapter": …}, threads=2).call("evaluate", task="mmlu")`
loads the model once and answers one benchmark a call. Nothing of lm-eval's caches is used: their keys leave the model
out, so that one method would be handed another's answers.
"""

from __future__ import annotations

import copy
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from storage.files import fingerprint
from tasks.engines.hf import left_padded
from tasks.evaluate.soft_prompt import generate

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
            adapter: folder of a PEFT adapter of any method.
            reserved_tokens: context kept free whatever the method, as many as the study's longest soft prompt,
                so that all methods see the same prompts.
        """
        from transformers import AutoTokenizer

        from tasks.device import computing_device
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
            softmax_dtype="float32",  # bf16 log-probabilities of close choices are often the same number
        )
        self._config = {"precision": precision, "batch_size": batch_size, "reserved_tokens": reserved_tokens}
        self.device = computing_device()

    def evaluate(
        self,
        task: str,
        task_folders: Sequence[str] = (),
        stock: bool = True,
        revisions: Mapping[str, str] | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Run one benchmark.

        Args:
            task: lm-eval task or group.
            task_folders: folders of task YAMLs.
            stock: whether lm-eval's own tasks are known too.
            revisions: commit by hub data set.
            limit: questions a task, drawn by `seed` and so the same for every model; none takes all.
            seed: of the draw, of few-shot examples and of lm-eval's bootstrap.

        Returns:
            `results` in lm-eval's format without clock times, paths and host, `samples` with a row a question
            (task, doc_id, doc_hash, cluster, metrics, responses), and `seconds` that lm-eval took to ask and to score,
            without loading the task and its data, which are in neither.
        """
        import numpy as np
        import torch
        from lm_eval.evaluator import evaluate

        from tasks.evaluate.tasks import load_tasks

        loaded = load_tasks([task], task_folders, revisions, stock=stock)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for one in loaded["tasks"].values():
            if one.get_config("num_fewshot") is None:
                one.set_config(key="num_fewshot", value=0)
            one.set_fewshot_seed(seed=seed)
        started = time.perf_counter()
        answers = evaluate(lm=self._lm, task_dict=loaded, samples=_draw(loaded["tasks"], limit, seed), log_samples=True)
        seconds = time.perf_counter() - started
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
        return {"results": _plain(results), "samples": samples, "seconds": seconds}

    def measure_speed(self, prompts: list[str], new_tokens: int, repeats: int) -> dict[str, Any]:
        """Greedy generation of exactly `new_tokens` for all prompts in one batch, timed after a warm-up.

        An adapter that can be merged is timed as it is and merged, in turns, so that a machine that slows down slows
        both. A base model and a soft prompt have nothing to merge. Nothing is merged into 4-bit weights either: PEFT
        rounds the sum to 4 bits again, which is another model than the one that was scored.

        Returns:
            tokens_per_second (rows × new_tokens / median of the repeats' seconds), seconds of each repeat, the same of
            the merged model as tokens_per_second_merged and seconds_merged (null where there is none), rows,
            new_tokens, peak_memory_bytes (of the unmerged model; null on a CPU), device and the model's parameters.
        """
        import torch

        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        self.generate(prompts, new_tokens)
        peak = torch.cuda.max_memory_allocated() if cuda else None
        merged = merged_copy(self._model) if self._config["precision"] != "nf4" else None
        if merged is not None:
            self._generate(merged, prompts, new_tokens)
        seconds: list[float] = []
        seconds_merged: list[float] = []
        for _ in range(repeats):
            seconds.append(self._time(self._model, prompts, new_tokens))
            if merged is not None:
                seconds_merged.append(self._time(merged, prompts, new_tokens))
        tokens = len(prompts) * new_tokens
        return {
            "tokens_per_second": tokens / statistics.median(seconds),
            "seconds": seconds,
            "tokens_per_second_merged": tokens / statistics.median(seconds_merged) if seconds_merged else None,
            "seconds_merged": seconds_merged or None,
            "rows": len(prompts),
            "new_tokens": new_tokens,
            "peak_memory_bytes": peak,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "parameters": sum(_elements(parameter) for parameter in self._model.parameters()),
        }

    def generate(self, prompts: list[str], new_tokens: int) -> list[list[int]]:
        """The `new_tokens` greedy next tokens of each prompt, all prompts in one left-padded batch."""
        return self._generate(self._model, prompts, new_tokens)

    def _generate(self, model: Any, prompts: list[str], new_tokens: int) -> list[list[int]]:
        padded = left_padded([self._lm.tok_encode(prompt) for prompt in prompts])
        ids, mask = (tensor.to(self._device) for tensor in padded)
        tokens: list[list[int]] = generate(
            model.eval(),
            ids,
            mask,
            pad_token_id=self._lm.tokenizer.pad_token_id,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        ).tolist()
        return tokens

    def _time(self, model: Any, prompts: list[str], new_tokens: int) -> float:
        self._synchronize()
        started = time.perf_counter()
        self._generate(model, prompts, new_tokens)
        self._synchronize()
        return time.perf_counter() - started

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


def merged_copy(model: Any) -> Any:
    """A PEFT model with its adapter in the weights, as it would be deployed alone; None where nothing can be merged.

    The model itself stays as it is, to the bit, which unmerging would not give: in bf16 w + d - d is not w. What the
    adapter does not touch is shared with the copy, which so takes the memory of the adapted matrices only.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel) or model.active_peft_config.is_prompt_learning:
        return None
    adapted = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer)
        for parameter in cast("torch.nn.Module", layer).parameters()
    }
    shared = {id(parameter): parameter for parameter in model.parameters() if id(parameter) not in adapted}
    return copy.deepcopy(model, shared).merge_and_unload().eval()


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
