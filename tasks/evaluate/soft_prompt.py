"""Generation of left-padded batches by a model with or without an adapter, right for every family of adapters.

PEFT drops the positions of such a batch where an adapter puts embeddings before the text (prompt tuning, p-tuning), so
that pads take positions and most answers change. Here the base model continues virtual tokens, pads and text, and
counts positions from the mask. Prefix tuning's virtual tokens are keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.engines.overflow import Watch

if TYPE_CHECKING:
    import torch


def puts_embeddings_first(model: Any) -> bool:
    """Whether the model's adapter is a soft prompt of embeddings."""
    config = getattr(model, "active_peft_config", None)
    return config is not None and config.is_prompt_learning and config.peft_type != "PREFIX_TUNING"


def generate(model: Any, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> torch.Tensor:
    """The tokens that follow each row.

    Args:
        model: in evaluation mode.
        ids: left-padded tokens, rows × width.
        mask: 0 where a pad stands, rows × width.
        options: as `generate` of transformers takes them.

    Returns:
        rows × new tokens, without the prompts.

    Raises:
        ModelError: logits were NaN.
    """
    import torch
    from transformers import LogitsProcessorList

    watch = Watch()
    config = getattr(model, "active_peft_config", None)
    inputs: dict[str, Any] = {"input_ids": ids}
    prompt_width = ids.shape[1]
    with torch.no_grad():
        if config is not None and config.is_prompt_learning:
            virtual = model.get_prompt(batch_size=len(ids))
            if puts_embeddings_first(model):
                text = model.get_input_embeddings()(ids)
                inputs = {"inputs_embeds": torch.cat([virtual.to(text.dtype), text], dim=1)}
                prompt_width = 0
            else:
                inputs["past_key_values"] = virtual
            mask = torch.cat([mask.new_ones(len(ids), config.num_virtual_tokens), mask], dim=1)
            model = model.get_base_model()
        # whatever the model's own configuration says: a trained one has the cache off
        output: torch.Tensor = model.generate(
            **inputs, attention_mask=mask, use_cache=True, logits_processor=LogitsProcessorList([watch]), **options
        )
    watch.check(model)
    return output[:, prompt_width:]
