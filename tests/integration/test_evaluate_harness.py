"""lm-eval on models with random weights: stock task definitions over local data, against a hand computation."""

from __future__ import annotations

import json
import math
from functools import cache
from os.path import commonprefix
from pathlib import Path
from typing import Any

import pytest

from storage.files import jsonl, write_jsonl, write_text
from tasks.evaluate.results import load_samples, write_benchmark
from tasks.process import ModelProcess

TASKS = ("mmlu", "hellaswag", "arc_easy", "truthfulqa_mc2")
WORDS = ("cat", "mat", "bird", "song", "dawn", "sing", "small", "day", "begin", "every", "asked", "many")
TOLERANCE = 1e-4


def _phrase(index: int, length: int = 3) -> str:
    return " ".join(WORDS[(index * 5 + step * (index + 3)) % len(WORDS)] for step in range(length))


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stock definitions of the four benchmarks over a dozen questions each."""
    import lm_eval.tasks

    stock = Path(lm_eval.tasks.__file__).parent
    folder = tmp_path_factory.mktemp("benchmarks")

    def add(task: str, include: str, rows: list[dict[str, Any]], split: str, extra: str = "") -> None:
        write_jsonl(folder / f"{task}.jsonl", rows)
        splits = ("test", "dev", "train", "validation") if split == "test" else ("validation", "train")
        files = "dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n"
        files += "".join(f"    {name}: {folder / task}.jsonl\n" for name in splits)
        write_text(folder / f"{task}.yaml", f"include: {stock / include}\ntask: {task}\n{files}{extra}")

    for number, subject in enumerate(("astronomy", "anatomy")):
        rows = [
            {"question": _phrase(i + number), "choices": [_phrase(i + j, 2) for j in range(4)], "answer": i % 4}
            for i in range(6 + number)
        ]
        add(
            f"mmlu_{subject}",
            "mmlu/default/_default_template_yaml",
            rows,
            "test",
            f'description: "Questions about {subject}.\\n\\n"\n',
        )
    write_text(
        folder / "mmlu.yaml",
        "group: mmlu\ntask:\n  - mmlu_astronomy\n  - mmlu_anatomy\n"
        "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n",
    )
    add(
        "hellaswag",
        "hellaswag/hellaswag.yaml",
        [
            {
                "ind": i,
                "activity_label": _phrase(i, 1),
                "ctx_a": _phrase(i),
                "ctx_b": _phrase(i + 1, 2),
                "endings": [_phrase(i + j, 2 + j) for j in range(4)],
                "label": str(i % 4),
            }
            for i in range(12)
        ],
        "validation",
    )
    add(
        "arc_easy",
        "arc/arc_easy.yaml",
        [
            {
                "id": str(i),
                "question": _phrase(i),
                "answerKey": "ABCD"[i % 4],
                "choices": {"text": [_phrase(i + j, 1 + j % 2) for j in range(4)], "label": list("ABCD")},
            }
            for i in range(12)
        ],
        "test",
    )
    add(
        "truthfulqa_mc2",
        "truthfulqa/truthfulqa_mc2.yaml",
        [
            {
                "question": _phrase(i),
                "mc1_targets": {"choices": [_phrase(i), _phrase(i + 1)], "labels": [1, 0]},
                "mc2_targets": {"choices": [_phrase(i + j, 2) for j in range(3)], "labels": [1, 0, 0]},
            }
            for i in range(6)
        ],
        "validation",
    )
    return folder


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """Adapters that move the answers: LoRA with a non-zero B, a soft prompt and a prefix of 7 random tokens."""
    import torch
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(1)
    lora = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type=TaskType.CAUSAL_LM),
    )
    lora.save_pretrained(str(folder / "sft"))
    for name, config in (("prompt_tuning", PromptTuningConfig), ("prefix_tuning", PrefixTuningConfig)):
        virtual: Any = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_model),
            config(num_virtual_tokens=7, task_type=TaskType.CAUSAL_LM),
        )
        with torch.no_grad():
            virtual.prompt_encoder["default"].embedding.weight.normal_(0, 0.5)
        virtual.save_pretrained(str(folder / name))
    return {"base": None, **{name: folder / name for name in ("sft", "prompt_tuning", "prefix_tuning")}}


def _arguments(model: Path, adapter: Path | None) -> dict[str, Any]:
    shared = {"base": str(model), "precision": "fp32", "batch_size": 8, "reserved_tokens": 7}
    return shared | {"adapter": str(adapter) if adapter else None}


@pytest.fixture(scope="session")
def answers(tiny_model: Path, adapters: dict[str, Path | None], tasks_folder: Path) -> dict[str, dict[str, Any]]:
    """Everything asked of each method, by one thread as in the child that must give the same bytes."""
    import torch

    from tasks.evaluate.harness import Evaluator

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder, prompts = str(tasks_folder), ["the cat", "how many birds sing at dawn"]
    told = {}
    for method, adapter in adapters.items():
        model = Evaluator(**_arguments(tiny_model, adapter))
        told[method] = {task: model.evaluate(task, folder) for task in TASKS} | {
            "limited": model.evaluate("mmlu", folder, limit=3, seed=5),
            "speed": model.measure_speed(prompts, new_tokens=8, repeats=3),
            "batched": model.generate(prompts, new_tokens=12),
            "alone": [model.generate([prompt], new_tokens=12)[0] for prompt in prompts],
        }
    torch.set_num_threads(threads)
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(told))
    return plain


@cache
def _network(model: Path, adapter: Path | None) -> tuple[Any, Any, Any]:
    """Tokenizer, model and soft prompt or prefix, put together without PEFT."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(model)
    soft = None
    if adapter is not None:
        weights = load_file(adapter / "adapter_model.safetensors")
        config = json.loads((adapter / "adapter_config.json").read_text())
        if config["peft_type"] in ("PROMPT_TUNING", "PREFIX_TUNING"):
            soft = weights["prompt_embeddings"]
        else:
            scale = config["lora_alpha"] / config["r"]
            parameters = dict(network.named_parameters())
            for name, a in weights.items():
                if "lora_A" in name:
                    target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
                    with torch.no_grad():
                        parameters[target] += scale * weights[name.replace("lora_A", "lora_B")] @ a
    return AutoTokenizer.from_pretrained(model), network, soft


def _by_hand(model: Path, adapter: Path | None, context: str, continuation: str) -> float:
    """Log-likelihood of a continuation, unbatched, with the soft prompt or prefix put in by hand."""
    import torch
    from transformers import DynamicCache

    tokenizer, network, soft = _network(model, adapter)
    whole = tokenizer(context + continuation)["input_ids"]
    start = len(tokenizer(context)["input_ids"])
    with torch.no_grad():
        embeds = network.get_input_embeddings()(torch.tensor(whole))
        cache = DynamicCache()
        if soft is not None and soft.shape[1] == embeds.shape[1]:
            embeds = torch.cat([soft, embeds])
        elif soft is not None:
            heads, size = network.config.num_key_value_heads, network.config.head_dim
            pairs = soft.view(1, len(soft), -1, 2, heads, size).permute(2, 3, 0, 4, 1, 5)
            for layer, (keys, values) in enumerate(pairs):
                cache.update(keys, values, layer)
        logits = network(inputs_embeds=embeds[None], past_key_values=cache).logits[0, -len(whole) :].log_softmax(-1)
    return sum(float(logits[position - 1, whole[position]]) for position in range(start, len(whole)))


@pytest.mark.parametrize("method", ["base", "sft", "prompt_tuning", "prefix_tuning"])
def test_log_likelihoods_equal_a_hand_computation(
    method: str,
    answers: dict[str, dict[str, Any]],
    adapters: dict[str, Path | None],
    tiny_model: Path,
    tasks_folder: Path,
) -> None:
    """ARC-Easy, whose prompt is short enough to write out here: every choice, and the accuracy that follows."""
    docs = [json.loads(line) for line in (tasks_folder / "arc_easy.jsonl").read_text().splitlines()]
    answer = answers[method]["arc_easy"]
    right = 0
    for row in answer["samples"]:
        doc = docs[row["doc_id"]]
        expected = [
            _by_hand(tiny_model, adapters[method], f"Question: {doc['question']}\nAnswer:", f" {choice}")
            for choice in doc["choices"]["text"]
        ]
        measured = [likelihood for likelihood, _ in row["responses"]["none"]]
        assert measured == pytest.approx(expected, abs=TOLERANCE)
        hit = max(range(4), key=expected.__getitem__) == "ABCD".index(doc["answerKey"])
        assert row["metrics"]["acc"] == hit
        right += hit
    assert answer["results"]["results"]["arc_easy"]["acc,none"] == pytest.approx(right / len(docs), abs=1e-12)


def test_truthfulqa_is_the_mass_on_true_answers(answers: dict[str, dict[str, Any]]) -> None:
    """mc2 from the log-likelihoods it reports itself."""
    for row in answers["base"]["truthfulqa_mc2"]["samples"]:
        mass = [math.exp(likelihood) for likelihood, _ in row["responses"]["none"]]
        assert row["metrics"]["acc"] == pytest.approx(mass[0] / sum(mass), abs=TOLERANCE)


@pytest.mark.parametrize("method", ["base", "sft", "prompt_tuning", "prefix_tuning"])
def test_a_shared_preamble_changes_no_log_likelihood(
    method: str,
    answers: dict[str, dict[str, Any]],
    adapters: dict[str, Path | None],
    tiny_model: Path,
    tasks_folder: Path,
) -> None:
    """TruthfulQA's prompt begins alike for every question, and is computed once."""
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    from tasks.evaluate.prefix import SHORTEST

    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    task = manager.load(["truthfulqa_mc2"])["tasks"]["truthfulqa_mc2"]
    docs = list(task.eval_docs)
    prompts = [AutoTokenizer.from_pretrained(tiny_model)(task.doc_to_text(doc))["input_ids"] for doc in docs]
    assert SHORTEST < len(commonprefix(prompts)) < max(map(len, prompts)) < 1000, "the prefix is shared and nothing cut"
    for row in answers[method]["truthfulqa_mc2"]["samples"][:2]:
        doc = docs[row["doc_id"]]
        expected = [
            _by_hand(tiny_model, adapters[method], task.doc_to_text(doc), f" {choice}")
            for choice in doc["mc2_targets"]["choices"]
        ]
        assert [value for value, _ in row["responses"]["none"]] == pytest.approx(expected, abs=TOLERANCE)


def test_adapters_change_answers(answers: dict[str, dict[str, Any]]) -> None:
    """No method is handed another's answers."""
    seen = {method: jsonl(answer["hellaswag"]["samples"]) for method, answer in answers.items()}
    assert len(set(seen.values())) == len(answers)


def test_mmlu_is_clustered_by_subject_and_others_are_not(answers: dict[str, dict[str, Any]]) -> None:
    """Clusters come from a group's subtasks."""
    mmlu = answers["base"]["mmlu"]
    assert {row["cluster"] for row in mmlu["samples"]} == {"mmlu_anatomy", "mmlu_astronomy"}
    assert mmlu["results"]["results"]["mmlu"]["acc,none"] == pytest.approx(
        sum(row["metrics"]["acc"] for row in mmlu["samples"]) / len(mmlu["samples"])
    )
    assert {row["cluster"] for row in answers["base"]["arc_easy"]["samples"]} == {None}


def test_limit_draws_the_same_questions_for_every_model(answers: dict[str, dict[str, Any]]) -> None:
    """Three questions a subject, the same three, scored as in the full run."""
    drawn = {
        method: [(row["task"], row["doc_id"], row["doc_hash"]) for row in answer["limited"]["samples"]]
        for method, answer in answers.items()
    }
    assert drawn["base"] == drawn["sft"] == drawn["prompt_tuning"]
    assert len(drawn["base"]) == 6
    full = {(row["task"], row["doc_id"]): row for row in answers["base"]["mmlu"]["samples"]}
    for row in answers["base"]["limited"]["samples"]:
        whole = full[row["task"], row["doc_id"]]
        assert row["doc_hash"] == whole["doc_hash"]
        assert row["responses"]["none"] == [pytest.approx(pair, abs=TOLERANCE) for pair in whole["responses"]["none"]]


def test_two_runs_are_byte_identical(
    answers: dict[str, dict[str, Any]],
    adapters: dict[str, Path | None],
    tiny_model: Path,
    tasks_folder: Path,
    tmp_path: Path,
) -> None:
    """Results and samples of a second process, on disk."""
    with ModelProcess(
        "tasks.evaluate.harness:Evaluator", _arguments(tiny_model, adapters["prompt_tuning"]), threads=1
    ) as child:
        again = {task: child.call("evaluate", task=task, tasks_folder=str(tasks_folder)) for task in TASKS}
    for task in TASKS:
        write_benchmark(tmp_path / "a", task, answers["prompt_tuning"][task])
        write_benchmark(tmp_path / "b", task, again[task])
        for name in (f"{task}.json", f"{task}.samples.jsonl"):
            text = (tmp_path / "a" / name).read_bytes()
            assert text == (tmp_path / "b" / name).read_bytes()
            assert str(tasks_folder).encode() not in text and str(tiny_model).encode() not in text
        assert load_samples(tmp_path / "a", task) == answers["prompt_tuning"][task]["samples"]


@pytest.mark.parametrize("method", ["base", "sft", "prompt_tuning", "prefix_tuning"])
def test_batched_generation_equals_one_by_one(method: str, answers: dict[str, dict[str, Any]]) -> None:
    """Left padding must not come between the soft prompt and the text."""
    assert answers[method]["batched"] == answers[method]["alone"]
    assert [len(tokens) for tokens in answers[method]["batched"]] == [12, 12]


def test_soft_prompt_generation_equals_recomputation(
    answers: dict[str, dict[str, Any]], adapters: dict[str, Path | None], tiny_model: Path
) -> None:
    """Each greedy token of the prompt-tuned model, recomputed with PEFT's own unbatched forward."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    adapter = adapters["prompt_tuning"]
    assert adapter is not None
    network: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(adapter))
    network.eval()
    tokens = tokenizer("the cat")["input_ids"]
    for token in answers["prompt_tuning"]["batched"][0]:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([tokens])).logits[0, -1]
        logits[tokenizer.eos_token_id] = -math.inf
        assert int(logits.argmax()) == token
        tokens.append(token)


def test_speed_is_a_measurement(answers: dict[str, dict[str, Any]]) -> None:
    """Tokens over the median of the repeats; no memory figure is made up on a CPU."""
    speed = answers["prompt_tuning"]["speed"]
    assert speed["tokens_per_second"] == pytest.approx(2 * 8 / sorted(speed["seconds"])[1])
    assert (speed["rows"], speed["new_tokens"], len(speed["seconds"])) == (2, 8, 3)
    assert answers["sft"]["speed"]["parameters"] > answers["base"]["speed"]["parameters"]
