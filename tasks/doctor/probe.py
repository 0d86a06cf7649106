"""The doctor's look at packages, device, models and benchmarks, in a child process: it imports what the study will."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tasks.doctor import Check

PROJECT = "synthetic-instruction-tuner"
BYTES_A_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "nf4": 0.6}  # nf4: with the factors of its blocks
OVERFLOWING = ("qwen",)  # in fp16: QwenLM/Qwen3 issue 826
THINKING = "<think>", "</think>"


def probe(hardware: dict[str, Any], models: list[dict[str, Any]], benchmarks: dict[str, Any]) -> dict[str, Any]:
    """Look at everything.

    Args:
        hardware: `HardwareSettings`, dumped.
        models: arguments of `examine_model`, one for each role.
        benchmarks: arguments of `examine_benchmarks`.

    Returns:
        `checks`, `data_sets` of each task (its hub data sets), and `cuda`, whether torch can use a GPU.
    """
    checks = [*examine_packages(hardware["engine"])]
    if any(check.state == "fail" for check in checks):  # importing further would only say the same in other words
        return {"checks": [asdict(check) for check in checks], "data_sets": {}, "cuda": False}
    device = _device()
    weights = {}
    for model in models:
        found, weights[model["role"]] = examine_model(**model)
        checks += found
    checks += examine_device(device, hardware, models, weights)
    found, data_sets = examine_benchmarks(**benchmarks)
    checks += found
    return {
        "checks": [asdict(check) for check in checks],
        "data_sets": data_sets,
        "cuda": device["memory_gb"] is not None,
    }


def examine_packages(engine: str) -> list[Check]:
    """Whether what is installed is what the project asks for, and can be imported together."""
    wrong = [told for line in _requirements() if (told := _unmet(line))]
    if wrong:
        told = f"{'; '.join(wrong)}. Install into an environment of its own: pip install -c constraints.txt -e ."
        return [Check("packages", "fail", told)]
    for name, use in IMPORTS.items():
        try:
            use()
        except Exception as error:  # noqa: BLE001 - whatever an import raises is the answer
            reason = " ".join(str(error).split())[:300]
            told = (
                f"{name} cannot be used ({type(error).__name__}: {reason}): packages of another installation are in "
                "the way, such as a torchvision built for another torch; install into an environment of its own"
            )
            return [Check("packages", "fail", told)]
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        told = "hardware.engine is vllm, which is not installed: pip install -c constraints.txt -e '.[vllm]'"
        return [Check("packages", "fail", f"{told}, or set --hardware.engine hf")]
    shown = ("torch", "transformers", "trl", "peft", "lm-eval", "prefect", *(["vllm"] if engine == "vllm" else []))
    return [Check("packages", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown))]


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:  # run from its folder
        return []


def _unmet(line: str) -> str | None:
    from packaging.requirements import Requirement

    wanted = Requirement(line)
    if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
        return None
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    right = wanted.specifier.contains(version, prereleases=True)
    return None if right else f"{wanted.name} {version} is installed, {wanted.specifier} is needed"


def _import_models() -> None:
    from transformers import Trainer  # noqa: F401 - it imports torchvision where that is installed
    from transformers.models.llama import LlamaForCausalLM  # noqa: F401


def _import_peft() -> None:
    import trl.trainer.dpo_trainer
    import trl.trainer.sft_trainer  # noqa: F401
    from peft.import_utils import is_torchao_available

    is_torchao_available()  # raises for a torchao that LoRA would stumble over


IMPORTS: Mapping[str, Callable[[], None]] = {"transformers": _import_models, "peft": _import_peft}


def _device() -> dict[str, Any]:
    import torch

    from tasks.device import computing_device

    told = computing_device()
    capability = torch.cuda.get_device_capability() if told["device_memory_gb"] else None
    return {"name": told["device"], "memory_gb": told["device_memory_gb"], "capability": capability}


def examine_device(
    device: Mapping[str, Any],
    hardware: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float | None],
) -> list[Check]:
    """Whether what computes is what the profile needs.

    Args:
        device: `name`, and of a GPU `memory_gb` and `capability`.
        hardware: `HardwareSettings`, dumped.
        models: `role` and `precision` of each.
        weights: the weights of each role's model [GB]; None where not known.
    """
    wanted, there = hardware["memory_gb"], device["memory_gb"]
    on = f"{device['name']}, {there:.1f} GB" if there else f"the CPU, {_machine_gb():.1f} GB"
    if wanted and not there:
        told = f"this profile needs a GPU of {wanted:g} GB, and torch finds none that it can use: {_why_no_gpu()}"
        return [Check("device", "fail", told)]
    if wanted and there < 0.9 * wanted:
        told = f"{on}: this profile needs {wanted:g} GB; take a smaller one, or --hardware.memory_gb {there:.0f} to try"
        return [Check("device", "fail", told)]
    if there and device["capability"] < (8, 0) and any(model["precision"] == "bf16" for model in models):
        roles = ", ".join(model["role"] for model in models if model["precision"] == "bf16")
        return [
            Check("device", "fail", f"{on}: it only emulates bf16, which {roles} would be loaded in; take nf4 or fp32")
        ]
    checks = []
    room = there or _machine_gb()
    largest = max((role for role in weights if weights[role]), key=lambda role: weights[role] or 0, default=None)
    if largest and (weights[largest] or 0) > 0.95 * room:
        told = (
            f"{on}: the {largest}'s weights alone take {weights[largest]:.1f} GB; take a smaller model, or nf4 on a GPU"
        )
        checks.append(Check("memory", "fail", told))
    if not there and _nvidia_smi("name"):
        checks.append(Check("device", "warning", f"{on}, although there is a GPU: {_why_no_gpu()}"))
    elif not there and hardware["cpu_hours"]:
        told = f"{on}: without a GPU this study takes about {hardware['cpu_hours']:g} hours on four cores"
        checks.append(Check("device", "warning", told))
    else:
        checks.append(Check("device", "ok", on))
    return checks


def _machine_gb() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def _why_no_gpu() -> str:
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them all"
    driver = _nvidia_smi("driver_version")
    if not driver:
        return "no NVIDIA driver answers; choose a runtime with a GPU, or a profile for a CPU (smol, demo)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built for CPUs only; install one built for CUDA (the driver is {driver})"
    found = re.search(r"CUDA (?:UMD )?Version: *([\d.]+)", _run(["nvidia-smi"]))
    made = f", made for CUDA {found[1]}" if found else ""
    return (
        f"the driver is {driver}{made}, and torch {torch.__version__} needs one for CUDA {torch.version.cuda}; "
        "update the driver, or install a torch built for the driver's CUDA"
    )


def _nvidia_smi(field: str) -> str:
    lines = _run(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]).splitlines()
    return lines[0].strip() if lines else ""


def _run(command: list[str]) -> str:
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def examine_model(
    role: str,
    source: str,
    revision: str | None,
    precision: str,
    domains: Sequence[str | None] = (),
    methods: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Check], float | None]:
    """Whether a model can do what its role asks; nothing of its weights is read.

    Args:
        role: teacher, responder, reward model or base model, with a number where there are several.
        source: folder or hub id.
        revision: hub commit.
        precision: fp32, fp16, bf16 or nf4.
        domains: system prompts that it must be able to write instructions after.
        methods: settings of the methods that adapt it, by method.

    Returns:
        The checks, and the size of its weights [GB].
    """
    problems: list[str] = []
    weights = None
    told = source
    try:
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        weights = _parameters(config, role) * BYTES_A_WEIGHT[precision] / 1e9
        told = f"{source}, {weights:.1f} GB in {precision}"
        vocabulary = config.get_text_config().vocab_size
        if len(tokenizer) > vocabulary:
            problems.append(
                f"its tokenizer knows {len(tokenizer)} tokens and its model {vocabulary}: they are not a pair"
            )
        if role.startswith("reward"):
            problems += _reward_problems(config, tokenizer)
        elif role.startswith("base"):
            found, trained = _base_problems(source, revision, config, methods or {})
            problems += found
            told += trained
        else:
            found, ends = _chat_problems(source, revision, tokenizer, domains)
            problems += found
            told += ends
    except Exception as error:  # noqa: BLE001 - each library has errors of its own
        problems.append(" ".join(str(error).split())[:400] or type(error).__name__)
    if problems:
        return [Check(role, "fail", f"{source}: {'; '.join(problems)}")], weights
    if precision == "fp16" and config.model_type.startswith(OVERFLOWING):
        return [
            Check(role, "warning", f"{told}: {config.model_type} may overflow in fp16; take bf16, nf4 or fp32")
        ], weights
    return [Check(role, "ok", told)], weights


def _parameters(config: Any, role: str) -> int:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    factory: Any = AutoModelForSequenceClassification if role.startswith("reward") else AutoModelForCausalLM
    with torch.device("meta"):
        return int(factory.from_config(config).num_parameters())


def _chat_problems(
    source: str, revision: str | None, tokenizer: Any, domains: Sequence[str | None]
) -> tuple[list[str], str]:
    from transformers import GenerationConfig

    from tasks.engines.templates import pre_query_ids, response_prompt_ids, stop_ids

    try:
        declared = GenerationConfig.from_pretrained(source, revision=revision or "main").eos_token_id
    except OSError:
        declared = None
    prompt = tokenizer.decode(response_prompt_ids(tokenizer, "Hi"))
    for system_prompt in domains:
        pre_query_ids(tokenizer, system_prompt)
    ends = stop_ids(tokenizer, declared)
    problems = (
        [] if ends else ["no token ends a turn: neither its tokenizer, its generation config nor its template has one"]
    )
    opened, closed = THINKING
    template = str(tokenizer.chat_template)
    opens = opened in prompt.rpartition(closed)[2]
    always = closed in template and closed not in prompt and "enable_thinking" not in template
    if opens or always:
        problems.append(
            "it reasons aloud before it answers, and its template cannot turn that off; take an instruct model without"
        )
    return problems, f", a turn ends with {' '.join(tokenizer.convert_ids_to_tokens(list(ends)))}"


def _reward_problems(config: Any, tokenizer: Any) -> list[str]:
    from tasks.engines.templates import chat_ids

    chat_ids(tokenizer, "Hi", "Hello.")
    problems = []
    if config.num_labels != 1:
        problems.append(f"it has {config.num_labels} outputs; a reward model has one")
    if not any("SequenceClassification" in name for name in config.architectures or []):
        problems.append(
            f"it is saved as {config.architectures}, not as a sequence classifier: its scores would be random"
        )
    if config.pad_token_id is None and tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        problems.append("it has no token to fill shorter rows of a batch with")
    return problems


def _base_problems(
    source: str, revision: str | None, config: Any, methods: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], str]:
    from tasks.tune.methods import METHODS, section_key, trainable_parameters
    from tasks.tune.rows import chat_tokenizer

    chat_tokenizer(source, revision)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    problems, trained = [], []
    for method, settings in methods.items():
        key = section_key(method)
        if context and settings["max_length"] > context:
            problems.append(f"--{key}.max_length {settings['max_length']} is more than its {context} positions")
        if METHODS[method].peft is None:
            continue
        try:
            count, total = trainable_parameters(method, settings, config)
        except ValueError as error:
            problems.append(f"--{key}: {' '.join(str(error).split())}")
        else:
            trained.append(f"{METHODS[method].title} trains {100 * count / total:.4f}%")
    return problems, "".join(f", {told}" for told in trained)


def examine_benchmarks(
    wanted: Sequence[tuple[str, str, str]], folders: Sequence[str], stock: bool
) -> tuple[list[Check], dict[str, list[str]]]:
    """Whether lm-eval has the tasks, and each task its metric; no data is loaded.

    Args:
        wanted: name here, task and metric of each.
        folders: folders of tasks beside lm-eval's own.
        stock: whether lm-eval's own are among them.

    Returns:
        The checks, and the hub data sets of each task.
    """
    from tasks.evaluate.tasks import describe_tasks

    facts = describe_tasks([task for _, task, _ in wanted], folders, stock=stock)
    checks = []
    for name, task, metric in wanted:
        known, error = facts[task]["metrics"], facts[task]["error"]
        if error:
            checks.append(Check(name, "fail", f"{task}: {error}"))
        elif known is None:
            checks.append(Check(name, "warning", f"{task}: only running tells whether it measures {metric!r}"))
        elif metric not in known:
            checks.append(Check(name, "fail", f"{task} has no metric {metric!r}; it has {', '.join(known)}"))
        else:
            checks.append(Check(name, "ok", f"{task}, {metric}"))
    return checks, {task: sorted(fact["data_sets"]) for task, fact in facts.items()}
