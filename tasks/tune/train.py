"""One training run, from a base model to a published adapter; called in a fresh child process."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from storage.files import fingerprint, folder_aside, read_jsonl, sha256_file
from tasks.tune import Job
from tasks.tune.curve import convergence, thin
from tasks.tune.memory import CPU_METHOD, CUDA_METHOD, cpu_peaks
from tasks.tune.methods import METHODS, check_combination, count_parameters, peft_config, section_key
from tasks.tune.publish import WEIGHTS, save_adapter, write_figures
from tasks.tune.rows import Encoded, chat_tokenizer, encode_pairs, encode_sft, row_length, training_order
from tasks.tune.score import answer_log_probs, answer_loss, as_sequences, preference_scores, speaking_as


def train(job: Job) -> dict[str, Any]:
    """Train one method with one seed, going on from the newest valid checkpoint, and publish the adapter.

    Returns:
        `metrics` and `cost`, as written into `job["out"]`.

    Raises:
        TrainingError: a loss is not finite (`DivergedError`), or DPO does not start at ln 2.
        SettingsError: the method cannot be combined with another setting.
        ValueError: the base model cannot be trained this way, or no row is left to train on.
    """
    from tasks.tune.watch import DivergedError, Watch

    check_combination(job["method"], job["settings"], job["base_precision"])
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
    watch = Watch(
        Path(job["checkpoints"]),
        job["checkpoints_kept"],
        job_key(job),
        Path(job["progress"]) if job["progress"] else None,
        first_loss=math.log(2) if method.trainer == "dpo" else None,
    )
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
        trainer = _trainer(job, tokenizer, splits["train"].rows, Path(scratch), watch)
        trainable, total = count_parameters(trainer.model)
        _run(trainer, watch, Path(scratch))
    cost = _cost(trainer, watch)
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
        write_figures(aside, job, metrics, cost)
    return {"metrics": metrics, "cost": cost}


def job_key(job: Job) -> str:
    """Fingerprint of what a run reads, wherever it lies: a checkpoint of another key is not gone on from."""
    reads = ("method", "seed", "settings", "base_name", "base_revision", "base_precision", "stage_data")
    content = {"train": sha256_file(Path(job["train"]))}
    if job["sft_adapter"]:
        content["sft_adapter"] = sha256_file(Path(job["sft_adapter"]) / WEIGHTS)
    return fingerprint({name: job[name] for name in reads} | content)  # type: ignore[literal-required]


def _trainer(job: Job, tokenizer: Any, rows: list[dict[str, list[int]]], scratch: Path, watch: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PrinterCallback, set_seed

    from tasks.models import load_arguments

    method, settings = METHODS[job["method"]], job["settings"]
    order = training_order([*map(row_length, rows)], settings["epochs"], settings["batch_size"], job["seed"])
    loading = load_arguments(job["base_precision"])
    arguments = _arguments(job, math.ceil(len(order) / settings["batch_size"]), scratch, loading["dtype"])
    set_seed(job["seed"])
    base = AutoModelForCausalLM.from_pretrained(job["base"], revision=job["base_revision"], **loading)
    base.config.use_cache = False
    common: dict[str, Any] = {
        "train_dataset": Dataset.from_list([rows[i] for i in order]),
        "processing_class": tokenizer,
        "callbacks": [watch],
    }
    trainer: Any
    if method.trainer == "sft":
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        # rows are tokenized, labelled and cut by `tasks.tune.rows`, which counts what is lost
        arguments |= {"max_length": None, "packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
        config = peft_config(job["method"], settings, base.config)
        if method.reparametrized:
            from tasks.tune.encoder import EncoderKeeper

            common["callbacks"] = [EncoderKeeper(watch.resume_from), watch]
        trainer = SFTTrainer(model=base, args=SFTConfig(**arguments), peft_config=config, **common)
    else:
        from peft import PeftModel
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        class TokenizedDPOTrainer(DPOTrainer):
            """DPO on rows that `tasks.tune.rows` has tokenized; TRL offers this for SFT only."""

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        if job["sft_adapter"] is None:
            raise ValueError(f"{job['method']} starts from an SFT adapter; the job names none")
        # TRL copies the adapter named "default" as the reference "ref"; any other name gives a wrong reference
        policy = PeftModel.from_pretrained(base, job["sft_adapter"], adapter_name="default", is_trainable=True)
        # while training, where the base lies: PEFT looks there at each save, and would ask the hub for a portable name
        policy.peft_config["default"].base_model_name_or_path = job["base"]
        arguments |= {"max_length": None, "beta": settings["beta"]}
        trainer = TokenizedDPOTrainer(model=policy, args=DPOConfig(**arguments), **common)
    trainer.remove_callback(PrinterCallback)
    _adapters_in_fp32(trainer.model)
    return trainer


def _arguments(job: Job, steps: int, scratch: Path, dtype: Any) -> dict[str, Any]:
    import torch

    settings, cuda = job["settings"], torch.cuda.is_available()
    if cuda and dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        raise ValueError("models.base.precision: got 'bf16', which this GPU only emulates; takes fp16 or nf4")
    return {
        "output_dir": str(scratch / "run"),
        # the rows come in the order and as often as `training_order` says
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings["micro_batch"],
        "gradient_accumulation_steps": settings["batch_size"] // settings["micro_batch"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["schedule"],
        "warmup_steps": math.ceil(settings["warmup_share"] * steps),
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "fp16": cuda and dtype == torch.float16,
        "bf16": cuda and dtype == torch.bfloat16,
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
        shutil.copytree(watch.resume_from, local)
    trainer.train(resume_from_checkpoint=str(local) if local else None)
    watch.record_peaks()


def _cost(trainer: Any, watch: Any) -> dict[str, Any]:
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
        "segments": ledger["segments"],
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
    }


def _cpu_peaks(trainer: Any) -> dict[str, int | None]:
    """Memory of the step with the longest row: its micro-batch is padded to that row, whatever the others are."""
    rows = sorted(trainer.train_dataset, key=row_length, reverse=True)[: trainer.args.per_device_train_batch_size]
    batch = trainer.data_collator(rows)

    def step() -> None:
        trainer.compute_loss(trainer.model, batch).backward()

    trainer.model.train()
    peaks = cpu_peaks(trainer.model, trainer.optimizer, step)
    trainer.model.zero_grad()
    return peaks


def _score(trainer: Any, job: Job, split: Encoded) -> dict[str, Any]:
    """Held-out figures before and after; always after training, since NF4 must not be trained after an evaluation."""
    model, settings = trainer.model, job["settings"]
    is_dpo = METHODS[job["method"]].trainer == "dpo"
    rows = as_sequences(split.rows) if is_dpo else split.rows
    options = {
        "pad_id": trainer.processing_class.pad_token_id,
        "batch_tokens": settings["micro_batch"] * settings["max_length"],
        "autocast": trainer.accelerator.autocast,
    }
    after = answer_log_probs(model, rows, **options)
    with speaking_as(model, "ref" if is_dpo else None):
        before = answer_log_probs(model, rows, **options)
    if is_dpo:
        return preference_scores(after, before, settings["beta"])
    return {"rows": len(rows), "loss_before": answer_loss(before, rows), "loss_after": answer_loss(after, rows)}
