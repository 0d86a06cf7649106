"""Numbers that long texts, half precision and overflow must not spoil, on models with random weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file

from tasks.engines.reward import ENOUGH, RewardModel
from tasks.evaluate.answers import Speaker
from tasks.evaluate.harness import Evaluator
from tasks.models import ModelError
from tasks.process import ModelPool
from tests.tiny import WORDS, build_tiny_model

VIRTUAL_TOKENS = 7
LIMIT = 4096
LONG = " ".join(word[place % 3 :] for place in range(160) for word in WORDS.split())


def evaluator(model: Path, precision: str = "fp32", adapter: Path | None = None) -> Any:
    given = str(adapter) if adapter else None
    return Evaluator(str(model), precision=precision, batch_size=8, adapter=given, reserved_tokens=VIRTUAL_TOKENS)


def asked(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def spoil(model: Path, folder: Path, change: Any) -> Path:
    """A copy whose weights are changed."""
    weights = load_file(model / "model.safetensors")
    change(weights)
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def overflow(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.mlp.up_proj.weight"] *= 1e4
    weights["model.layers.0.mlp.down_proj.weight"] *= 1e5


@pytest.fixture(scope="module")
def long_context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16,384 positions."""
    model = build_tiny_model(tmp_path_factory.mktemp("long") / "model", spread=0.3)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16384}))
    return model


@pytest.fixture(params=["base", "prompt_tuning", "prefix_tuning"])
def long_lm(request: pytest.FixtureRequest, long_context: Path, tmp_path: Path) -> Any:
    """Our model under lm-eval, without and with a soft prompt of either kind."""
    if request.param == "base":
        return evaluator(long_context)._lm
    import peft
    from transformers import AutoModelForCausalLM

    kind = {"prompt_tuning": peft.PromptTuningConfig, "prefix_tuning": peft.PrefixTuningConfig}[request.param]
    given = kind(num_virtual_tokens=VIRTUAL_TOKENS, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(long_context), given).save_pretrained(str(tmp_path))
    return evaluator(long_context, adapter=tmp_path)._lm


def scored_positions(lm: Any) -> list[int]:
    """Rows times positions of each pass of the head from now on."""
    passes: list[int] = []
    lm.model.get_output_embeddings().register_forward_hook(
        lambda _, inputs, __: passes.append(inputs[0].shape[0] * inputs[0].shape[1])
    )
    return passes


def lm_evals_own(lm: Any, **options: Any) -> HFLM:
    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, backend="causal", batch_size=2, **options)


def test_logits_are_computed_where_an_answer_is_scored(long_lm: Any) -> None:
    """Prompts of 2 to 1,400 tokens in one batch, of which every logit, of 128k words, would be 40 GB."""
    requests = [
        asked("loglikelihood", LONG[:length], choice)
        for length in (3, 40, 41, 900, 6000, 6001)
        for choice in (" cat", " mat", " small song at dawn", " mat")
    ]
    positions = scored_positions(long_lm)
    told = long_lm.loglikelihood(requests, disable_tqdm=True)
    longest = max(len(long_lm.tok_encode(request.args[1])) for request in requests)
    assert max(positions) <= 8 * 8 * longest, "rows times the positions of all of them"
    expected = lm_evals_own(long_lm, max_length=long_lm.max_length).loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in told] == [greedy for _, greedy in expected]
    assert [value for value, _ in told] == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_a_prompt_longer_than_the_context_is_cut_where_lm_eval_cuts_it(tiny_model: Path) -> None:
    ours = evaluator(tiny_model)._lm
    requests = [asked("loglikelihood", LONG[:length], " small song") for length in (9000, 40, 9001)]
    told = ours.loglikelihood(requests, disable_tqdm=True)
    expected = lm_evals_own(ours, max_length=1024 - VIRTUAL_TOKENS).loglikelihood(requests, disable_tqdm=True)
    assert [value for value, _ in told] == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_a_long_text_is_read_in_windows_as_lm_evals_own(long_lm: Any) -> None:
    """A context of 128k times a batch of 8 would be hundreds of GB; the window is the same with a soft prompt."""
    ours, passes = long_lm, scored_positions(long_lm)
    requests = [asked("loglikelihood_rolling", text) for text in (LONG, "the cat", LONG[:9000])]
    told = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    assert max(passes) <= LIMIT
    assert ours.max_length == 16384 - VIRTUAL_TOKENS and ours.batch_size == 8, "other requests keep theirs"
    assert len(ours.tok_encode(LONG)) > 3 * 2048
    expected = lm_evals_own(ours, max_length=2048).loglikelihood_rolling(requests, disable_tqdm=True)
    assert told == pytest.approx(expected, rel=1e-5)


def test_log_probabilities_are_summed_in_fp32(tiny_model: Path) -> None:
    """bf16 has 256 numbers between 8 and 16: close choices would often be equal."""
    requests = [asked("loglikelihood", "the cat sat", f" {word} on a mat") for word in WORDS.split()]
    told = [value for value, _ in evaluator(tiny_model, "bf16")._lm.loglikelihood(requests, disable_tqdm=True)]
    assert any(float(torch.tensor(value).bfloat16()) != value for value in told)


def test_scores_of_a_half_precision_model_are_finer_than_it(tiny_reward: Path) -> None:
    rows = [{"instruction": "how many", "output": word} for word in WORDS.split()]
    told = RewardModel(str(tiny_reward), None, "bf16").score(rows)
    assert any(score is not None and float(torch.tensor(score).bfloat16()) != score for score in told)
    assert RewardModel(str(tiny_reward), None, "fp32").score(rows) == pytest.approx(told, abs=0.01)


def test_a_score_that_is_no_number_leaves_one_response_unscored(tiny_reward: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(tiny_reward)("mat", add_special_tokens=False)["input_ids"][-1]

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.embed_tokens.weight"][token] = math.nan

    model = RewardModel(str(spoil(tiny_reward, tmp_path, change)), None, "fp32")
    rows = [{"instruction": "the cat", "output": output} for output in ("a small song", "mat", "dawn")]
    told = model.score(rows)
    assert told[1] is None and None not in (told[0], told[2])
    assert model.score(rows[1:2] * ENOUGH) == [None] * ENOUGH, "others were scored: it is the text"
    again = RewardModel(str(tmp_path), None, "fp32")
    assert again.score(rows[1:2]) == [None]
    with pytest.raises(ModelError, match="gives NaN in fp32"):
        again.score(rows[1:2] * ENOUGH)


def test_an_overflowing_model_is_not_evaluated(tiny_model: Path, tmp_path: Path) -> None:
    """Log-likelihoods of NaN are no wrong answers, and a greedy choice of NaN is no token."""
    model = spoil(tiny_model, tmp_path, overflow)
    for precision in ("fp32", "fp16"):
        told = evaluator(model, precision)
        calls = {
            "answer": lambda precision=precision: Speaker(str(model), None, precision, None).answer(["the cat"], 4),
            "scores": lambda told=told: told._lm.loglikelihood([asked("loglikelihood", "the", " cat")], True),
            "generation": lambda told=told: told._lm.generate_until(
                [asked("generate_until", "the cat", {"until": ["."], "max_gen_toks": 4, "do_sample": False})], True
            ),
            "speed": lambda told=told: told.generate(["the cat"], 4),
        }
        for call in calls.values():
            if precision == "fp32":
                call()
            else:
                with pytest.raises(ModelError, match="overflows in fp16: load it in fp32"):
                    call()


def test_what_a_benchmark_was_answered_on_is_on_record(tiny_model: Path) -> None:
    """The pool tells it to `<benchmark>.seconds.json`; without it 3.1's hours of evaluation are never decided."""
    arguments = {"base": str(tiny_model), "precision": "fp32", "batch_size": 2}
    with ModelPool("tasks.evaluate.harness:Evaluator", arguments, threads=1) as pool:
        pool.call("generate", prompts=["the cat"], new_tokens=1)
        assert pool.device.keys() == {"device", "device_memory_gb"}
