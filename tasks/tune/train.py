"""One training run, from a base model to a published adapter; called in a fresh child process, one a GPU."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from storage.files import fingerprint, folder_aside, read_jsonl, sha256_file
from tasks.device import computing_device
from tasks.models import odd_attention
from tasks.tune import Job
from tasks.tune.curve import convergence, thin
from tasks.tune.memory import CPU_METHOD, CUDA_METHOD, cpu_peaks
from tasks.tune.methods import METHODS, check_combination, count_parameters, peft_config, section_key
from tasks.tune.plan import MEMORY_SETTINGS
from tasks.tune.publish import WEIGHTS, save_adapter, save_tokenizer, write_figures
from tasks.tune.rows import (
    Encoded,
    Row,
    answer_tokens,
    as_sequences,
    chat_tokenizer,
    encode_pairs,
    encode_sft,
    row_length,
    row_tokens,
    training_order,
)
from tasks.tune.score import answer_log_probs, mean_loss, preference_scores, speaking_as


def train(job: Job) -> dict[str, Any]:
    """Train one method with one seed, going on from the newest valid checkpoint, and publish the adapter.

    Every process of the launch calls it; the first one publishes.

    Returns:
        `metrics` and `cost`, as written into `job["out"]`; nothing from the other processes.

    Raises:
        TrainingError: a loss is not finite (`DivergedError`), or DPO does not start at ln 2.
        SettingsError: the method cannot be combined with another setting.
        ValueError: the base model cannot be trained this way, or no row is left to train on.
        torch.OutOfMemoryError: the plan does not fit; nothing is lost, a smaller one goes on from the checkpoints.
    """
    from tasks.tune.watch import DivergedError, Watch

    _take_device(job["memory_gb"])
    check_combination(job["method"], job["settings"] | job["plan"], job["base_precision"])
    method = METHODS[job["method"]]
    tokenizer = chat_tokenizer(job["base"], job["base_revision"])
    encode = encode_pairs if method.trainer == "dpo" else encode_sft
    max_length = job["settings"]["max_length"]
    splits = {
        "train": encode(read_jsonl(Path(job["train"])), tokenizer, max_length),
        "val": encode(read_jsonl(Path(job["val"])), tokenizer, max_length),
        "test": encode(read_jsonl(Path(job["test"])), tokenizer, max_length),
    }
    if not splits["train"].rows:
        raise ValueError(f"no training row fits into {section_key(job['method'])}.max_length = {max_length} tokens")
    rows = _rows_in_order(job, splits["train"].rows)
    watch = Watch(
        Path(job["checkpoints"]),
        job["checkpoints_kept"],
        job_key(job),
        Path(job["progress"]) if job["progress"] else None,
        first_loss=math.log(2) if method.trainer == "dpo" else None,
        step_tokens=[sum(map(row_tokens, step)) for step in _steps(job, rows)],
    )
    with _shared_folder() as scratch:
        trainer = _trainer(job, tokenizer, rows, scratch, watch)
        trainable, total = count_parameters(trainer.model)
        _run(trainer, watch, scratch)
    if not trainer.is_world_process_zero():
        return {}
    cost = _cost(trainer, watch, job)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {
        "method": job["method"],
        "seed": job["seed"],
        "learning_rate": job["settings"]["learning_rate"],
        "trainable_parameters": trainable,
        "total_parameters": total,
        "steps": trainer.state.global_step,
        "skipped_steps": watch.ledger["skipped_steps"],
        "rows": {name: split.counts for name, split in splits.items()},
        "loss_curve": thin(losses),
        "convergence": convergence(losses),
        "eval": {name: _score(trainer, job, splits[name]) for name in ("val", "test")},
    }
    if method.trainer == "dpo":
        metrics["first_loss"] = losses[0]
    for name, figures in metrics["eval"].items():
        if figures["loss_after"] is not None and not math.isfinite(figures["loss_after"]):
            told = f"the loss on the {name} rows after training is {figures['loss_after']}: nothing is published"
            raise DivergedError(f"{told} (try a lower learning rate)", cost["train_seconds"], cost["train_tokens"])
    with folder_aside(Path(job["out"])) as aside:
        save_adapter(trainer.model, aside, job["base_name"], job["base_revision"])
        cost["adapter_bytes"] = (aside / WEIGHTS).stat().st_size
        save_tokenizer(tokenizer, aside)
        write_figures(aside, job, metrics, cost, tokenizer)
    return {"metrics": metrics, "cost": cost}


def job_key(job: Job) -> str:
    """Fingerprint of what a run reads, wherever it lies: a checkpoint of another key is not gone on from.

    How the run fits the memory is not part of it: after running out of memory it goes on with fewer rows at once.
    """
    reads = ("method", "seed", "base_name", "base_revision", "base_precision", "stage_data")
    settings = {name: value for name, value in job["settings"].items() if name not in MEMORY_SETTINGS}
    content = {"train": sha256_file(Path(job["train"])), "settings": settings}
    if job["sft_adapter"]:
        content["sft_adapter"] = sha256_file(Path(job["sft_adapter"]) / WEIGHTS)
    return fingerprint({name: job[name] for name in reads} | content)  # type: ignore[literal-required]


def _take_device(memory_gb: float | None) -> None:
    import torch

    if not torch.cuda.is_available():
        return
    device = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(device)
    if memory_gb:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gb * 1e9 / whole))


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """A local folder that every process of the launch writes its part of a checkpoint into."""
    from accelerate.utils import broadcast_object_list

    with tempfile.TemporaryDirectory(prefix="tune-") as own:
        folder = [own]
        if _processes() > 1:
            from accelerate import PartialState

            PartialState()
            broadcast_object_list(folder)
        yield Path(folder[0])


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rows_in_order(job: Job, rows: list[Row]) -> list[Row]:
    """Training rows as often and in the order in which the steps read them."""
    settings = job["settings"]
    batch = settings["batch_size"]
    order = training_order([*map(row_length, rows)], settings["epochs"], batch, job["seed"])
    if job["plan"]["processes"] > 1:
        # the processes share a step evenly, so that the last one is whole
        order += islice(cycle(order[:]), -len(order) % batch)
    return [rows[i] for i in order]


def _steps(job: Job, rows: list[Row]) -> list[list[Row]]:
    batch = job["settings"]["batch_size"]
    return [rows[i : i + batch] for i in range(0, len(rows), batch)]


def _trainer(job: Job, tokenizer: Any, rows: list[Row], scratch: Path, watch: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PrinterCallback, set_seed

    from tasks.models import load_arguments
    from tasks.tune.passes import (
        WIDTH_STEP,
        Passes,
        PreferenceLoss,
        TrainingRows,
        add_answer_head,
        answer_loss,
        use_causal_attention,
    )
    from tasks.tune.trainers import DpoTrainer, SftTrainer

    method, settings = METHODS[job["method"]], job["settings"]
    steps = _steps(job, rows)
    loading = load_arguments(job["base_precision"])
    arguments = _arguments(job, len(steps), scratch, loading["dtype"])
    set_seed(job["seed"])
    base = AutoModelForCausalLM.from_pretrained(job["base"], revision=job["base_revision"], **loading)
    base.config.use_cache = False
    causal = method.causal and odd_attention(base.config) is None
    if causal:
        use_causal_attention(base)
    if _fused(job["fused_kernels"]):
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(base, {"fused_linear_cross_entropy": False, "cross_entropy": False})
    draws = _draws(settings) or _draws(base.config.get_text_config().to_dict())
    # looking after random numbers asks the GPU, which a captured pass must not
    arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False, "preserve_rng_state": draws}
    capture = base.device.type == "cuda" and causal and not draws
    common: dict[str, Any] = {
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
        "callbacks": [watch],
        "data_collator": TrainingRows(
            tokenizer.pad_token_id,
            width_step=WIDTH_STEP if capture else 1,
            virtual_tokens=settings["num_virtual_tokens"] if method.virtual_tokens else 0,
            masked=not causal,
        ),
    }
    trainer: Any
    if method.trainer == "sft":
        from trl.trainer.sft_config import SFTConfig

        # rows are tokenized, labelled and cut by `tasks.tune.rows`, which counts what is lost
        arguments |= {"max_length": None, "packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
        config = peft_config(job["method"], settings, base.config)
        if method.reparametrized:
            from tasks.tune.encoder import EncoderKeeper

            common["callbacks"] = [EncoderKeeper(watch.resume_from), watch]
        trainer = SftTrainer(model=base, args=SFTConfig(**arguments), peft_config=config, **common)
    else:
        from peft import PeftModel
        from trl.trainer.dpo_config import DPOConfig

        if job["sft_adapter"] is None:
            raise ValueError(f"{job['method']} starts from an SFT adapter; the job names none")
        # TRL copies the adapter named "default" as the reference "ref"; any other name gives a wrong reference
        policy = PeftModel.from_pretrained(base, job["sft_adapter"], adapter_name="default", is_trainable=True)
        # while training, where the base lies: PEFT looks there at each save, and would ask the hub for a portable name
        policy.peft_config["default"].base_model_name_or_path = job["base"]
        arguments |= {"max_length": None, "beta": settings["beta"]}
        trainer = DpoTrainer(model=policy, args=DPOConfig(**arguments), **common)
    if method.virtual_tokens:  # numbers of the soft prompt's rows, which PEFT would copy to the GPU in every pass
        trainer.model.prompt_tokens["default"] = trainer.model.prompt_tokens["default"].to(base.device)
    trainer.remove_callback(PrinterCallback)
    _adapters_in_fp32(trainer.model)
    add_answer_head(base)
    # all of it: `from_pretrained` leaves the base in evaluation mode, in which NF4 has wrong gradients and nothing is
    # recomputed, while the adapter's wrapper says that it trains
    trainer.model.train()
    trainer.model_accepts_loss_kwargs = False  # or `Trainer` counts the labels on the GPU, and waits for it
    # else several processes' models are wrapped in DDP, whose hooks tie the default stream to that of a capture, which
    # breaks off; `SteppedByPasses` sums their gradients
    trainer.accelerator.prepare_model = partial(trainer.accelerator.prepare_model, evaluation_mode=True)
    trainer.passes = Passes(
        trainer.model,
        PreferenceLoss(settings["beta"]) if method.trainer == "dpo" else answer_loss,
        trainer.accelerator.autocast,
        capture,
    )
    if capture:
        watch.before_steps = lambda: trainer.passes.try_out(_longest(trainer))
    trainer.step_weights = [len(step) if method.trainer == "dpo" else sum(map(answer_tokens, step)) for step in steps]
    return trainer


def _draws(settings: dict[str, Any]) -> bool:
    """Whether a method's or a base model's dropout draws random numbers, which recomputed activations must draw again.

    A base model trains too, as far as its dropout goes: GPT-2 and Phi-2 have some.
    """
    return any(value for name, value in settings.items() if name.endswith(("dropout", "pdrop", "layerdrop")))


def _fused(wanted: bool | None) -> bool:
    """Whether Liger's kernels run: as the profile says, else where they are installed and the GPU is made for them.

    Raises:
        ValueError: the profile wants them and they are not installed.
    """
    import torch

    installed = importlib.util.find_spec("liger_kernel") is not None
    if wanted and not installed:
        raise ValueError("tuning.fused_kernels: got true, takes false or null here, or `pip install liger-kernel`")
    if wanted is not None:
        return wanted
    return installed and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def _arguments(job: Job, steps: int, scratch: Path, dtype: Any) -> dict[str, Any]:
    import torch

    settings, plan, cuda = job["settings"], job["plan"], torch.cuda.is_available()
    if _processes() != plan["processes"]:
        raise ValueError(f"the plan is for {plan['processes']} processes, {_processes()} were launched")
    if cuda and dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        raise ValueError("models.base.precision: got 'bf16', which this GPU only emulates; takes fp16 or nf4")
    return {
        "output_dir": str(scratch / "run"),
        # the rows come in the order and as often as `training_order` says
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": plan["micro_batch"],
        "gradient_accumulation_steps": settings["batch_size"] // (plan["micro_batch"] * plan["processes"]),
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["schedule"],
        "warmup_steps": math.ceil(settings["warmup_share"] * steps),
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "gradient_checkpointing": plan["gradient_checkpointing"],
        "fp16": cuda and dtype == torch.float16,
        "bf16": cuda and dtype == torch.bfloat16,
        "use_cpu": not cuda,  # else `Trainer` takes a Mac's GPU, which has no double precision
        "seed": job["seed"],
        "data_seed": job["seed"],
        # every step is logged, so that the log in a checkpoint is the whole curve whatever kills lie in between
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": job["checkpoint_steps"],
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
    }


def _adapters_in_fp32(model: Any) -> None:
    # TRL casts the adapters of a 4-bit model to bf16, in which most of DPO's small updates are lost, and the policy
    # after it has copied the reference: so cast up, and start the policy where the reference stands.
    parameters: dict[str, Any] = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            reference = name.replace(".default.", ".ref.")
            source = parameters.get(reference, parameter)
            parameter.data = source.data.float().clone()


def _run(trainer: Any, watch: Any, scratch: Path) -> None:
    local = None
    if watch.resume_from:
        local = scratch / watch.resume_from.name
        if trainer.is_world_process_zero():
            shutil.copytree(watch.resume_from, local)
        trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(local) if local else None)
    watch.record_peaks()


def _cost(trainer: Any, watch: Any, job: Job) -> dict[str, Any]:
    import torch

    ledger, cuda = watch.ledger, torch.cuda.is_available()
    warm = ledger["warm_seconds"] > 0
    seconds, tokens = (ledger["warm_seconds"], ledger["warm_tokens"]) if warm else (ledger["seconds"], ledger["tokens"])
    return {
        "train_seconds": ledger["seconds"],
        "train_tokens": ledger["tokens"],
        "train_tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": ledger["peak_memory_bytes"] if cuda else _cpu_peaks(trainer),
        "peak_memory_method": CUDA_METHOD if cuda else CPU_METHOD,
        "plan": dict(job["plan"]) | {"fused_kernels": _fused(job["fused_kernels"])},
        "segments": ledger["segments"],
        **computing_device(),
        "threads": torch.get_num_threads(),
    }


def _cpu_peaks(trainer: Any) -> dict[str, int | None]:
    """Memory of the step with the longest row: its micro-batch is padded to that row, whatever the others are."""
    batch, passes = _longest(trainer), trainer.passes
    return cpu_peaks(trainer.model, trainer.optimizer, passes.gradient, lambda: passes.try_out(batch))


def _longest(trainer: Any) -> Any:
    rows = sorted(trainer.train_dataset, key=row_length, reverse=True)[: trainer.args.per_device_train_batch_size]
    return trainer._prepare_inputs(trainer.data_collator(rows))


def _score(trainer: Any, job: Job, split: Encoded) -> dict[str, Any]:
    """Held-out figures before and after; always after training, since NF4 must not be trained after an evaluation."""
    model, settings = trainer.model, job["settings"]
    is_dpo = METHODS[job["method"]].trainer == "dpo"
    rows = as_sequences(split.rows) if is_dpo else split.rows
    options = {
        "pad_id": trainer.processing_class.pad_token_id,
        "batch_tokens": job["plan"]["micro_batch"] * settings["max_length"],
        "autocast": trainer.accelerator.autocast,
    }
    after = answer_log_probs(model, rows, **options)
    with speaking_as(model, "ref" if is_dpo else None):
        before = answer_log_probs(model, rows, **options)
    if is_dpo:
        return preference_scores(after, before, settings["beta"])
    return {"rows": len(rows), "loss_before": mean_loss(before, rows), "loss_after": mean_loss(after, rows)}
