"""TRL's trainers with the passes of a step replaced; what surrounds a step is theirs.

Imported by the training child only: it needs TRL at import.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from tasks.tune.passes import Passes


class SteppedByPasses:
    """The step of a trainer as passes that add to one flat gradient, which several processes sum in one call."""

    passes: Passes
    step_weights: list[int]
    """What each optimizer step's loss is averaged over: answer tokens, or pairs, of all processes."""

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch."""
        scaler, processes = self.accelerator.scaler, self.accelerator.num_processes
        loss: torch.Tensor = self.passes.add(
            self._prepare_inputs(inputs),
            share=1 / self.step_weights[self.state.global_step],
            scale=None if scaler is None else scaler.scale(torch.ones((), device=self.args.device)),
        )
        if processes > 1 and self.accelerator.sync_gradients:
            torch.distributed.all_reduce(self.passes.gradient)
        told: torch.Tensor = loss * processes  # `Trainer` logs the mean over the processes
        return told

    def floating_point_ops(self, inputs: Any) -> float:
        """Not counted: it walks through all parameters in every pass."""
        return 0.0


class SftTrainer(SteppedByPasses, SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """Supervised fine-tuning."""


class DpoTrainer(SteppedByPasses, DPOTrainer):  # type: ignore[misc]
    """DPO on rows that `tasks.tune.rows` has tokenized; TRL offers this for SFT only."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
