"""lm-eval on models with random weights: stock task definitions over local data, against a hand computation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from os.path import commonprefix
from pathlib import Path
from typing import Any

import pytest

from storage.files import jsonl, write_jsonl, write_text
from tasks.evaluate.results import load_samples, write_benchmark
from tasks.process import ModelProcess
from tests.tiny import build_tiny_model

TASKS = ("mmlu", "hellaswag", "arc_easy", "truthfulqa_mc2")
WORDS = ("cat", "mat", "bird", "song", "dawn", "sing", "small", "day", "begin", "every", "asked", "many")
STUDIED = ("base", "sft", "prompt_tuning")
LAYERS = ("sft", "dora", "loha", "ia3")
SOFT_PROMPTS = ("prompt_tuning", "p_tuning", "prefix_tuning", "prefix_projection")
KINDS = ("base", *LAYERS, *SOFT_PROMPTS)
VIRTUAL_TOKENS = 7
PROMPTS = ["the cat", "how many birds sing at dawn because every day begins", "mat", "one small song asked the cat"]
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
    add(
        "gsm8k",
        "gsm8k/gsm8k.yaml",
        [{"question": _phrase(i, 2 + i), "answer": f"{_phrase(i)}\n#### {i}"} for i in range(5)],
        "test",
        "tag: [arithmetic]\nnum_fewshot: 0\n"
        "generation_kwargs:\n  until: ['Question:']\n  do_sample: false\n  max_gen_toks: 9\n"
        "filter_list:\n  - name: none\n    filter:\n      - function: take_first\n",
    )
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that listens to what came before, so that a misplaced prompt or pad changes its answers."""
    return build_tiny_model(tmp_path_factory.mktemp("evaluated") / "model", spread=0.3)


def _peft_configs() -> dict[str, Any]:
    import peft

    attention: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    scaled = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    return {
        "sft": peft.LoraConfig(**attention),
        "prompt_tuning": peft.PromptTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS),
        "dora": peft.LoraConfig(use_dora=True, **attention),
        "loha": peft.LoHaConfig(**attention),
        "ia3": peft.IA3Config(**scaled),
        "p_tuning": peft.PromptEncoderConfig(num_virtual_tokens=VIRTUAL_TOKENS, encoder_hidden_size=16),
        "prefix_tuning": peft.PrefixTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS),
        "prefix_projection": peft.PrefixTuningConfig(
            num_virtual_tokens=VIRTUAL_TOKENS, prefix_projection=True, encoder_hidden_size=16
        ),
    }


@pytest.fixture(scope="session")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """An adapter of every kind, each with weights that move the answers; the base model has none."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    folders: dict[str, Path | None] = {"base": None}
    root = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(1)
    for name, config in _peft_configs().items():
        config.task_type = "CAUSAL_LM"
        adapted: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.4 * torch.randn_like(parameter)
        folders[name] = root / name
        adapted.save_pretrained(str(root / name))
    return folders


def _arguments(model: Path, adapter: Path | None) -> dict[str, Any]:
    shared = {"base": str(model), "precision": "fp32", "batch_size": 8, "reserved_tokens": VIRTUAL_TOKENS}
    return shared | {"adapter": str(adapter) if adapter else None}


@pytest.fixture(scope="session")
def evaluators(model: Path, adapters: dict[str, Path | None]) -> Iterator[dict[str, Any]]:
    """One evaluator a kind, all by one thread as in the child that must give the same bytes."""
    import torch

    from tasks.evaluate.harness import Evaluator

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {kind: Evaluator(**_arguments(model, adapters[kind])) for kind in KINDS}
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def answers(evaluators: dict[str, Any], tasks_folder: Path) -> dict[str, dict[str, Any]]:
    """What each kind answers: every benchmark for those that the whole of this file looks at, two for the others."""
    known: dict[str, Any] = {"task_folders": [str(tasks_folder)], "stock": False}
    told: dict[str, dict[str, Any]] = {}
    for kind, evaluator in evaluators.items():
        asked = TASKS if kind in STUDIED else ("arc_easy", "truthfulqa_mc2")
        told[kind] = {task: evaluator.evaluate(task, **known) for task in asked}
        if kind in STUDIED:
            told[kind]["limited"] = evaluator.evaluate("mmlu", **known, limit=3, seed=5)
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(told))
    return plain


def _adapted_weight(config: dict[str, Any], weight: Any, parts: dict[str, Any]) -> Any:
    """A matrix with its adapter in it, by the method's own equation."""
    if config["peft_type"] == "IA3":
        return weight * parts["ia3_l"]
    if config["peft_type"] == "LOHA":
        product = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        return weight + config["alpha"] / config["r"] * product
    updated = weight + config["lora_alpha"] / config["r"] * parts["lora_B.weight"] @ parts["lora_A.weight"]
    if not config["use_dora"]:
        return updated
    return parts["lora_magnitude_vector"][:, None] * updated / updated.norm(dim=1, keepdim=True)


@cache
def _network(model: Path, adapter: Path | None) -> tuple[Any, Any, Any]:
    """Tokenizer, model and soft prompt, put together without PEFT."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if adapter is None:
        return tokenizer, network, None
    stored = load_file(adapter / "adapter_model.safetensors")
    if "prompt_embeddings" in stored:
        return tokenizer, network, stored["prompt_embeddings"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name, module in network.named_modules():
        start = f"base_model.model.{name}."
        parts = {key.removeprefix(start): tensor for key, tensor in stored.items() if key.startswith(start)}
        if isinstance(module, torch.nn.Linear) and parts:
            with torch.no_grad():
                module.weight.copy_(_adapted_weight(config, module.weight, parts))
    return tokenizer, network, None


def _logits(model: Path, adapter: Path | None, tokens: list[int]) -> Any:
    """Logits at each token of one row, computed at once: nothing padded, batched or kept."""
    import torch
    from transformers import DynamicCache

    _, network, soft = _network(model, adapter)
    config = network.config
    with torch.no_grad():
        embeds = network.get_input_embeddings()(torch.tensor([tokens]))
        kept = None
        if soft is not None and soft.shape[1] == config.hidden_size:
            embeds = torch.cat([soft[None], embeds], dim=1)
        elif soft is not None:  # keys and values of every layer, one virtual token a row
            heads = config.num_key_value_heads
            shape = (len(soft), config.num_hidden_layers, 2, heads, config.hidden_size // config.num_attention_heads)
            kept = DynamicCache()
            for layer, (key, value) in enumerate(soft.view(shape).permute(1, 2, 3, 0, 4)):
                kept.update(key[None], value[None], layer)
        return network(inputs_embeds=embeds, past_key_values=kept).logits[0, -len(tokens) :]


def _by_hand(model: Path, adapter: Path | None, context: str, continuation: str) -> float:
    """Log-likelihood of a continuation from the model's own logits."""
    tokenizer = _network(model, adapter)[0]
    whole = tokenizer(context + continuation)["input_ids"]
    start = len(tokenizer(context)["input_ids"])
    logits = _logits(model, adapter, whole).log_softmax(-1)
    return sum(float(logits[position - 1, whole[position]]) for position in range(start, len(whole)))


@pytest.mark.parametrize("method", KINDS)
def test_log_likelihoods_equal_a_hand_computation(
    method: str,
    answers: dict[str, dict[str, Any]],
    adapters: dict[str, Path | None],
    model: Path,
    tasks_folder: Path,
) -> None:
    """ARC-Easy, whose prompt is short enough to write out here: every choice, and the accuracy that follows."""
    docs = [json.loads(line) for line in (tasks_folder / "arc_easy.jsonl").read_text().splitlines()]
    answer = answers[method]["arc_easy"]
    right = 0
    for row in answer["samples"]:
        doc = docs[row["doc_id"]]
        expected = [
            _by_hand(model, adapters[method], f"Question: {doc['question']}\nAnswer:", f" {choice}")
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


@pytest.mark.parametrize("method", KINDS)
def test_a_shared_preamble_changes_no_log_likelihood(
    method: str,
    answers: dict[str, dict[str, Any]],
    adapters: dict[str, Path | None],
    model: Path,
    tasks_folder: Path,
) -> None:
    """TruthfulQA's prompt begins alike for every question, and is computed once."""
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    from tasks.evaluate.prefix import SHORTEST

    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    task = manager.load(["truthfulqa_mc2"])["tasks"]["truthfulqa_mc2"]
    docs = list(task.eval_docs)
    prompts = [AutoTokenizer.from_pretrained(model)(task.doc_to_text(doc))["input_ids"] for doc in docs]
    assert SHORTEST < len(commonprefix(prompts)) < max(map(len, prompts)) < 1000, "the prefix is shared and nothing cut"
    for row in answers[method]["truthfulqa_mc2"]["samples"][:2]:
        doc = docs[row["doc_id"]]
        expected = [
            _by_hand(model, adapters[method], task.doc_to_text(doc), f" {choice}")
            for choice in doc["mc2_targets"]["choices"]
        ]
        assert [value for value, _ in row["responses"]["none"]] == pytest.approx(expected, abs=TOLERANCE)


def test_a_preamble_longer_than_the_context_is_cut_as_any_prompt_is(evaluators: dict[str, Any]) -> None:
    from lm_eval.models.huggingface import HFLM

    lm = evaluators["base"]._lm
    preamble = [3 + number % 20 for number in range(lm.max_length + 50)]
    requests = [(("", ""), [*preamble, 5 + last], [7, 8]) for last in range(3)]
    expected = HFLM._loglikelihood_tokens(lm, requests, disable_tqdm=True)
    assert lm._loglikelihood_tokens(requests, disable_tqdm=True) == expected


def test_adapters_change_answers(answers: dict[str, dict[str, Any]]) -> None:
    """No method is handed another's answers."""
    seen = {method: jsonl(answer["arc_easy"]["samples"]) for method, answer in answers.items()}
    assert len(set(seen.values())) == len(KINDS)


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
        for method, answer in ((method, answers[method]) for method in STUDIED)
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
    model: Path,
    tasks_folder: Path,
    tmp_path: Path,
) -> None:
    """Results and samples of a second process, on disk."""
    with ModelProcess(
        "tasks.evaluate.harness:Evaluator", _arguments(model, adapters["prompt_tuning"]), threads=1
    ) as child:
        again = {
            task: child.call("evaluate", task=task, task_folders=[str(tasks_folder)], stock=False) for task in TASKS
        }
    for task in TASKS:
        write_benchmark(tmp_path / "a", task, answers["prompt_tuning"][task])
        write_benchmark(tmp_path / "b", task, again[task])
        for name in (f"{task}.json", f"{task}.samples.jsonl"):
            text = (tmp_path / "a" / name).read_bytes()
            assert text == (tmp_path / "b" / name).read_bytes()
            assert str(tasks_folder).encode() not in text and str(model).encode() not in text
        assert load_samples(tmp_path / "a", task) == answers["prompt_tuning"][task]["samples"]


@pytest.mark.parametrize("method", KINDS)
def test_batched_generation_equals_recomputing_each_row_alone(
    method: str, evaluators: dict[str, Any], adapters: dict[str, Path | None], model: Path
) -> None:
    """Left padding must not come between a soft prompt and the text, nor take positions."""
    tokenizer = _network(model, None)[0]
    expected = []
    for prompt in PROMPTS:
        tokens, start = tokenizer(prompt)["input_ids"], len(tokenizer(prompt)["input_ids"])
        for _ in range(12):
            logits = _logits(model, adapters[method], tokens)[-1]
            logits[tokenizer.eos_token_id] = -math.inf
            tokens.append(int(logits.argmax()))
        expected.append(tokens[start:])
    assert evaluators[method].generate(PROMPTS, new_tokens=12) == expected
    assert [evaluators[method].generate([prompt], new_tokens=12)[0] for prompt in PROMPTS] == expected


@pytest.mark.parametrize("method", KINDS)
def test_a_task_that_generates_asks_every_kind_of_adapter_right(
    method: str, evaluators: dict[str, Any], adapters: dict[str, Path | None], model: Path, tasks_folder: Path
) -> None:
    """lm-eval pads a batch on the left; by its tag, too, as an agent's task set is named."""
    tokenizer = _network(model, None)[0]
    expected = []
    for i in range(5):
        tokens = tokenizer(f"Question: {_phrase(i, 2 + i)}\nAnswer:")["input_ids"]
        start = len(tokens)
        while len(tokens) < start + 9 and tokenizer.eos_token_id not in tokens[start:]:
            tokens.append(int(_logits(model, adapters[method], tokens)[-1].argmax()))
        expected.append(tokenizer.decode(tokens[start:], skip_special_tokens=True).split("Question:")[0])
    assert any(expected) and len(set(expected)) > 1
    told = evaluators[method].evaluate("arithmetic", [str(tasks_folder)], stock=False)
    assert [row["responses"]["none"] for row in told["samples"]] == [[text] for text in expected]


@pytest.mark.parametrize("method", ["base", *LAYERS, *SOFT_PROMPTS])
def test_generation_keeps_keys_and_values_whatever_state_training_left(
    method: str, model: Path, adapters: dict[str, Path | None]
) -> None:
    """A model just trained is in training mode, with checkpointing on and its cache off: then each token costs all."""
    from tasks.evaluate.harness import Evaluator

    evaluator = Evaluator(**_arguments(model, adapters[method]))
    expected = evaluator.generate(PROMPTS, new_tokens=6)
    network = vars(evaluator)["_model"]
    base = network if method == "base" else network.get_base_model()
    base.gradient_checkpointing_enable()
    base.config.use_cache = False
    network.train()
    widths: list[int] = []
    base.model.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(
            next(inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None).shape[1]
        ),
        with_kwargs=True,
    )
    assert evaluator.generate(PROMPTS, new_tokens=6) == expected
    assert not any(module.training for module in network.modules())
    assert widths[0] > 1 and widths[1:] == [1] * 5


def test_speed_is_a_measurement(evaluators: dict[str, Any]) -> None:
    """Tokens over the median of the repeats; no memory figure is made up on a CPU."""
    speed = {
        kind: evaluators[kind].measure_speed(PROMPTS[:2], new_tokens=8, repeats=3)
        for kind in ("base", "sft", "prompt_tuning")
    }
    for told in speed.values():
        assert told["tokens_per_second"] == pytest.approx(2 * 8 / sorted(told["seconds"])[1])
        assert (told["rows"], told["new_tokens"], len(told["seconds"])) == (2, 8, 3)
        assert (told["device"], told["peak_memory_bytes"]) == ("cpu", None)
    merged = speed["sft"]
    assert merged["tokens_per_second_merged"] == pytest.approx(2 * 8 / sorted(merged["seconds_merged"])[1])
    assert len(merged["seconds_merged"]) == 3
    for kind in ("base", "prompt_tuning"):
        assert speed[kind]["tokens_per_second_merged"] is None and speed[kind]["seconds_merged"] is None
    assert speed["sft"]["parameters"] > speed["base"]["parameters"]


def test_merged_and_unmerged_are_timed_in_turns(evaluators: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down must not slow only one of them; the warm-ups are not timed."""
    from tasks.evaluate.harness import Evaluator

    evaluator, seen = evaluators["sft"], []
    generate = vars(Evaluator)["_generate"]

    def watched(self: Any, network: Any, prompts: list[str], new_tokens: int) -> Any:
        seen.append("unmerged" if network is vars(evaluator)["_model"] else "merged")
        return generate(self, network, prompts, new_tokens)

    monkeypatch.setattr(Evaluator, "_generate", watched)
    evaluator.measure_speed(PROMPTS, new_tokens=2, repeats=2)
    assert seen == ["unmerged", "merged"] * 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", LAYERS)
def test_a_merged_copy_answers_alike_and_leaves_the_model_as_it_was(
    method: str, precision: str, model: Path, adapters: dict[str, Path | None]
) -> None:
    """The benchmarks run in the same process, perhaps after the measurement."""
    import torch

    from tasks.evaluate.harness import load_model, merged_copy

    network = load_model(str(model), None, precision, str(adapters[method]))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tokens = torch.tensor([[0, 308, 296, 310]])
    with torch.no_grad():
        logits = network(input_ids=tokens).logits
        copied = merged_copy(network)
        if precision == "fp32":
            torch.testing.assert_close(copied(input_ids=tokens).logits, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(network(input_ids=tokens).logits, logits)
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    embeddings = copied.get_input_embeddings().weight
    assert embeddings.data_ptr() == network.get_input_embeddings().weight.data_ptr(), "what is not adapted is shared"
    assert not any("lora" in name or "base_layer" in name for name, _ in copied.named_modules())


def test_nothing_is_merged_into_4_bit_weights(tmp_path: Path) -> None:
    """PEFT rounds the sum to 4 bits again, which is another model; the speed of the adapter as it is stays."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tasks.evaluate.harness import Evaluator

    base = build_tiny_model(tmp_path / "base", hidden=64)
    adapted: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM"))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    evaluator = Evaluator(**_arguments(base, tmp_path / "adapter") | {"precision": "nf4"})
    speed = evaluator.measure_speed(PROMPTS, new_tokens=2, repeats=1)
    assert speed["tokens_per_second"] > 0
    assert speed["tokens_per_second_merged"] is None


@pytest.mark.parametrize("method", ["base", *SOFT_PROMPTS])
def test_a_soft_prompt_has_nothing_to_merge(method: str, evaluators: dict[str, Any]) -> None:
    """Nor has the base model."""
    from tasks.evaluate.harness import merged_copy

    assert merged_copy(vars(evaluators[method])["_model"]) is None
