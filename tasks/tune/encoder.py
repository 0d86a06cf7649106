"""The encoder behind a soft prompt, kept in checkpoints: PEFT saves what it writes, from which it cannot be had back.

Imported by the training child only: it needs transformers at import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

ENCODER = "encoder.safetensors"


class EncoderKeeper(TrainerCallback):
    """Puts the whole encoder into each checkpoint, and a resumed run's back; it comes before what seals checkpoints."""

    def __init__(self, resume_from: Path | None) -> None:
        """Nothing is read yet.

        Args:
            resume_from: the checkpoint that the run goes on from, if any.
        """
        self.resume_from = resume_from

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """After the trainer's own loading, which has put the encoder's output into its place."""
        if self.resume_from:
            model.prompt_encoder.load_state_dict(load_file(self.resume_from / ENCODER))

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Write the encoder beside the trainer's own files."""
        if not state.is_world_process_zero:
            return
        weights = {name: tensor.contiguous() for name, tensor in model.prompt_encoder.state_dict().items()}
        save_file(weights, Path(args.output_dir) / f"checkpoint-{state.global_step}" / ENCODER)
