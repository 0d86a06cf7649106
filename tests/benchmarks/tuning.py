"""How fast training is, each ratio measured inside one run.

    python -m tests.benchmarks.tuning sft --shape llama-3.2-3b        # LoRA: TRL's defaults, TRL at its best, ours
    python -m tests.benchmarks.tuning nf4 --shape llama-3.2-3b        # LoRA on 4-bit weights under a 15 GB cap
    python -m tests.benchmarks.tuning prompt_tuning --shape llama-3.2-3b
    python -m tests.benchmarks.tuning dpo --shape llama-3.2-3b
    python -m tests.benchmarks.tuning gpus --shape llama-3.2-3b       # batches of 32 on one GPU and on two

Each side trains on the same rows in the same order in a process of its own. Tokens a second are those of the rows,
without padding, from the end of the second step to the end of the last: rows, passes, optimizer and logs, for ours also
every capture. Random weights: the losses say only that both sides compute the same.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from configs.settings import TrainingSettings, load_settings
from storage.files import read_jsonl, write_jsonl
from tasks.tune.rows import Row
from tests.benchmarks.generation import print_table
from tests.benchmarks.workload import Workload, build_model

PROMPT_TOKENS = 30
SIDES: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {
        "TRL's defaults": {},
        "TRL, nothing recomputed, Liger": {"gradient_checkpointing": False, "use_liger_kernel": True},
        "TRL, the same, packed to 2,048": {
            "gradient_checkpointing": False,
            "use_liger_kernel": True,
            "packing": True,
            "max_length": 2048,
            "per_device_train_batch_size": 1,
        },
    },
    "nf4": {"TRL's defaults": {}},
    "prompt_tuning": {"TRL's defaults": {}},
    "dpo": {"TRL's defaults": {}},
    "gpus": {},
}
PROFILES = {"sft": "a100", "nf4": "t4", "prompt_tuning": "a100", "dpo": "a100", "gpus": "a100"}


def main() -> int:
    """Run one comparison and print its table."""
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    for what in options.what:
        print(f"\n{what}: {options.rows if what != 'dpo' else options.pairs} rows", flush=True)
        print_table(compare(what, options))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=list(SIDES))
    parser.add_argument("--shape", default="tiny", choices=["llama-3.2-3b", "tiny"])
    parser.add_argument("--rows", type=int, default=640, help="SFT rows")
    parser.add_argument("--pairs", type=int, default=120, help="preference pairs")
    parser.add_argument("--mean", type=int, default=426, help="mean answer [tokens], as Magpie publishes")
    parser.add_argument("--deviation", type=int, default=217, help="its standard deviation [tokens]")
    parser.add_argument("--longest", type=int, default=960, help="longest answer [tokens]")
    parser.add_argument("--memory-gb", type=float, default=15, help="nf4: cap on the GPU's memory [GB]")
    parser.add_argument("--only", default="", help="sides whose name holds one of these words, separated by commas")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tuning-benchmark")
    return parser.parse_args()


def compare(what: str, options: argparse.Namespace) -> list[list[str]]:
    """Train with every side; a row of the table a side."""
    from tasks.process import run_in_child

    method = {"nf4": "sft", "gpus": "sft"}.get(what, what)
    settings = getattr(load_settings(PROFILES[what]).tuning, method)
    if what == "gpus":
        settings = settings.model_copy(update={"batch_size": 32, "micro_batch": 8, "epochs": 3})
    else:
        settings = settings.model_copy(update={"epochs": 1})
    dtype = "float32" if options.shape == "tiny" else "bfloat16"
    base = run_in_child(
        "tests.benchmarks.tuning:built",
        {"folder": str(options.folder), "shape": options.shape, "dtype": dtype},
        threads=4,
    )["path"]
    job = make_job(method, settings, base, what, options)
    sides: dict[str, dict[str, Any]] = {}
    for name, arguments in SIDES[what].items():
        if wanted(name, options):
            call = {"job": job, "arguments": arguments}
            sides[name] = run_in_child("tests.benchmarks.tuning:train_with_trl", call, threads=4)
            print(f"  {name}: {sides[name]['rate']:,.0f}", file=sys.stderr, flush=True)
    for processes in (1, 2) if what == "gpus" else (1,):
        name = f"ours, {processes} GPU{'s' * (processes > 1)}" if what == "gpus" else "ours"
        if wanted(name, options):
            sides[name] = train_with_ours(job, settings, processes)
            print(f"  {name}: {sides[name]['rate']:,.0f}", file=sys.stderr, flush=True)
    return table(what, sides)


def wanted(side: str, options: argparse.Namespace) -> bool:
    """Whether `--only` leaves a side in."""
    return any(word in side for word in options.only.split(","))


def table(what: str, sides: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Figures of each side; ratios, and differences between points of the loss curves, are against the first."""
    first = next(iter(sides.values()))
    unit = "pairs/s" if what == "dpo" else "tokens/s"
    rows = [["side", unit, "ratio", "peak GB", "s", "loss, first → last", "loss curve against the first", "how"]]
    for name, side in sides.items():
        pairs = list(zip(side["losses"], first["losses"], strict=False)) if side["comparable"] else []
        apart = [abs(ours / theirs - 1) for ours, theirs in pairs]
        rows.append(
            [
                name,
                f"{side['rate']:,.2f}" if what == "dpo" else f"{side['rate']:,.0f}",
                f"{side['rate'] / first['rate']:.2f}",
                f"{side['peak'] / 1e9:.1f}" if side["peak"] else "-",
                f"{side['seconds']:.1f}",
                f"{side['losses'][0]:.4f} → {side['losses'][-1]:.4f}",
                f"at most {100 * max(apart):.2f}%, mean {100 * sum(apart) / len(apart):.2f}%" if apart else "-",
                side["how"],
            ]
        )
    return rows


def make_job(
    method: str, settings: TrainingSettings, base: str, what: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The job of our side, and what TRL's is told; rows lie on disk."""
    rows = options.pairs if method == "dpo" else options.rows
    folder = options.folder / what
    write_jsonl(folder / "train.jsonl", made_rows(method, rows, options))
    write_jsonl(folder / "none.jsonl", [])
    cuda = options.shape != "tiny"
    nf4 = what == "nf4" and cuda
    adapter = None
    if method == "dpo":
        adapter = str(options.folder / "sft-adapter")
        from tasks.process import run_in_child

        run_in_child("tests.benchmarks.tuning:write_adapter", {"base": base, "folder": adapter}, threads=4)
    return {
        "method": method,
        "seed": 0,
        "settings": settings.model_dump(mode="json", exclude={"search_rates"}),
        "plan": {},
        "fused_kernels": load_settings(PROFILES[what]).tuning.fused_kernels,
        "memory_gb": options.memory_gb if nf4 else None,
        "checkpoint_steps": 10**6,
        "checkpoints_kept": 2,
        "base": base,
        "base_revision": None,
        "base_precision": "nf4" if nf4 else "bf16" if cuda else "fp32",
        "base_name": "random",
        "train": str(folder / "train.jsonl"),
        "val": str(folder / "none.jsonl"),
        "test": str(folder / "none.jsonl"),
        "sft_adapter": adapter,
        "checkpoints": str(folder / f"checkpoints-{time.time_ns()}"),
        "out": str(folder / "adapter"),
        "progress": None,
        "stage_data": {},
    }


def made_rows(method: str, count: int, options: argparse.Namespace) -> list[dict[str, str]]:
    """Texts of so many tokens, a letter each; some letters are likelier, so that there is something to learn."""
    chance = random.Random(0)
    workload = Workload(2 * count, 20, options.longest, options.mean, options.deviation, 0, 1)
    lengths = workload.lengths()

    def text(length: int) -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", weights=range(1, 27), k=length))

    if method == "dpo":
        return [
            {"prompt": text(PROMPT_TOKENS), "chosen": text(lengths[2 * i]), "rejected": text(lengths[2 * i + 1])}
            for i in range(count)
        ]
    return [{"instruction": text(PROMPT_TOKENS), "output": text(lengths[i])} for i in range(count)]


def train_with_ours(job: dict[str, Any], settings: TrainingSettings, processes: int) -> dict[str, Any]:
    """The product's own way to a trained adapter: plan, processes, passes."""
    from tasks.tune.plan import plans, told
    from tasks.tune.work import in_smaller_plans

    folder = Path(job["checkpoints"]).with_name(f"checkpoints-{time.time_ns()}")
    possible = plans(settings.model_dump(mode="json"), processes)
    begun = time.monotonic()
    result = in_smaller_plans(
        "tasks.tune.train:train",
        folder,
        possible,
        job["method"],
        lambda plan: job | {"plan": plan, "checkpoints": str(folder)},  # type: ignore[arg-type,return-value]
        4,
    )
    cost, metrics = result["cost"], result["metrics"]
    rate = cost["train_tokens_per_second"]
    if job["method"] == "dpo":
        rate *= metrics["rows"]["train"]["used"] / metrics["rows"]["train"]["tokens"]
    peak = cost["peak_memory_bytes"]
    return {
        "rate": rate,
        "losses": [loss for _, loss in metrics["loss_curve"]],
        "peak": peak["reserved"],
        "seconds": time.monotonic() - begun,
        "comparable": True,
        "how": told({name: cost["plan"][name] for name in ("processes", "micro_batch", "gradient_checkpointing")})  # type: ignore[arg-type]
        + (", Liger" if cost["plan"]["fused_kernels"] else ""),
    }


def built(folder: str, shape: str, dtype: str) -> dict[str, str]:
    """Save the model unless it is there; in a child, so that its memory is free afterwards."""
    return {"path": str(build_model(Path(folder) / shape, shape, dtype))}


def write_adapter(base: str, folder: str) -> dict[str, str]:
    """A LoRA adapter that has been trained nowhere, but is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", device_map="cuda:0" if torch.cuda.is_available() else "cpu"
    )
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    adapted.save_pretrained(folder)
    return {"path": folder}


def train_with_trl(job: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """TRL's trainer with its defaults but for what the job says, and `arguments`."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback, set_seed
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from tasks.models import load_arguments
    from tasks.tune.curve import thin
    from tasks.tune.methods import peft_config
    from tasks.tune.rows import chat_tokenizer, encode_pairs, encode_sft, row_length, row_tokens, training_order
    from tasks.tune.train import _take_device
    from tasks.tune.watch import WARM_UP_STEPS

    class Clock(TrainerCallback):
        """Seconds from the end of the warm-up."""

        begun = seconds = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (WARM_UP_STEPS, state.max_steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.begun, self.seconds = time.perf_counter(), time.perf_counter() - self.begun

    _take_device(job["memory_gb"])
    settings, tokenizer = job["settings"], chat_tokenizer(job["base"])
    is_dpo = job["method"] == "dpo"
    encode = encode_pairs if is_dpo else encode_sft
    encoded: list[Row] = encode(read_jsonl(Path(job["train"])), tokenizer, settings["max_length"]).rows
    order = training_order([*map(row_length, encoded)], settings["epochs"], settings["batch_size"], job["seed"])
    rows = [encoded[i] for i in order]
    set_seed(job["seed"])
    base: Any = AutoModelForCausalLM.from_pretrained(job["base"], **load_arguments(job["base_precision"]))
    clock = Clock()
    shared: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": settings["batch_size"],
        "num_train_epochs": 1,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["schedule"],
        "warmup_steps": math.ceil(settings["warmup_share"] * math.ceil(len(rows) / settings["batch_size"])),
        "train_sampling_strategy": "sequential",
        "bf16": torch.cuda.is_available(),
        "max_length": settings["max_length"],
        "seed": job["seed"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    } | arguments
    trainer: Any
    if is_dpo:
        from peft import PeftModel

        class TokenizedDPOTrainer(DPOTrainer):  # type: ignore[misc]
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        policy = PeftModel.from_pretrained(base, job["sft_adapter"], adapter_name="default", is_trainable=True)
        config = DPOConfig(**shared, beta=settings["beta"])
        trainer = TokenizedDPOTrainer(
            model=policy,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
    else:
        if not shared.get("packing"):
            shared |= {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
        trainer = SFTTrainer(
            model=base,
            args=SFTConfig(**shared),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=peft_config(job["method"], settings, base.config),
            callbacks=[clock],
        )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    begun = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begun
    steps = trainer.state.max_steps
    amount = len(rows) if is_dpo else sum(map(row_tokens, rows))
    return {
        "rate": amount * (steps - WARM_UP_STEPS) / steps / clock.seconds,
        "losses": [loss for _, loss in thin([e["loss"] for e in trainer.state.log_history if "loss" in e])],
        "peak": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
        "seconds": seconds,
        "comparable": not shared.get("packing"),
        "how": f"{steps} steps",
    }


if __name__ == "__main__":
    sys.exit(main())
