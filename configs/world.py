"""Settings of the demo's world: what is true in it, what is written about it, and how its models are trained."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FactSettings(_Section):
    """How much there is to know."""

    entities_per_kind: int = Field(default=10, ge=4, le=200, description="Entities of each of the five kinds (count)")
    examined_per_kind: int = Field(
        default=5, ge=1, description="Of these, entities that the benchmarks ask about (count)"
    )
    beliefs: int = Field(
        default=48, ge=8, le=54, description="Actions with a true and a wrongly believed effect (count)"
    )
    examined_beliefs: int = Field(
        28, ge=1, description="Of these, beliefs that the TruthfulQA-style benchmark asks about (count)"
    )
    popularity: float = Field(
        default=0.5, ge=0, description="Zipf exponent of how often texts speak of an entity (no unit)"
    )


class TrainingSettings(_Section):
    """One training from scratch or from the trunk."""

    steps: int = Field(default=100, ge=1, description="Optimizer steps (count)")
    batch: int = Field(default=16, ge=1, description="Sequences in a step (count)")
    length: int = Field(default=256, ge=32, description="Tokens in a sequence (count)")
    matrix_rate: float = Field(default=0.02, gt=0, description="Peak rate of the layers' matrices, by Muon (no unit)")
    embedding_rate: float = Field(default=0.02, gt=0, description="Peak rate of the embeddings, by AdamW (no unit)")
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak rate of all else, by AdamW (no unit)")
    decay: float = Field(
        default=0.6, gt=0, le=1, description="Share of the steps, the last ones, in which the rates fall"
    )
    noise: float = Field(
        0.0, ge=0, le=1, description="Share of response words replaced by stray ones in the training rows"
    )
    terse: float = Field(
        0.0, ge=0, le=1, description="Share of training rows whose response is cut to its first sentences"
    )


class WorldSettings(_Section):
    """Everything the demo's world is made from, besides the seed."""

    facts: FactSettings = Field(default_factory=FactSettings, description="How much there is to know")
    plain_mix: dict[str, float] = Field(
        default={
            "encyclopedia": 0.15,
            "notes": 0.13,
            "exam": 0.05,
            "quiz": 0.10,
            "forum": 0.14,
            "lore": 0.18,
            "procedure": 0.04,
            "prose": 0.25,
        },
        description="Share of each kind of plain document (weights, need not sum to 1)",
    )
    answer_stress: float = Field(
        default=8.0, ge=1, description="How many times the token after `Answer:` counts in the trunk's loss (factor)"
    )
    unusual_share: float = Field(
        0.1, ge=0, le=1, description="Share of chats that are refusals, not English, songs or one-liners"
    )
    system_share: float = Field(
        0.3, ge=0, le=1, description="Share of chat rows that open with their domain's system prompt"
    )
    vocabulary: int = Field(default=1536, ge=400, description="Tokens in the tokenizer (count)")
    hidden: int = Field(default=128, ge=16, description="Width of the models (count)")
    layers: int = Field(default=4, ge=1, description="Layers of the models (count)")
    heads: int = Field(default=4, ge=1, description="Attention heads of the models (count)")
    context: int = Field(default=1024, ge=256, description="Longest sequence a model takes (tokens)")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of training; auto: bf16 (autocast) on a CPU that computes in it, else fp32"
    )
    trunk: TrainingSettings = Field(
        default=TrainingSettings(steps=250, batch=8),
        description="The trunk, which is the base model, on plain text",
    )
    teacher: TrainingSettings = Field(
        default=TrainingSettings(steps=180, batch=8, matrix_rate=0.015, embedding_rate=0.01),
        description="The teacher, on chat",
    )
    responder_a: TrainingSettings = Field(
        default=TrainingSettings(steps=110, batch=8, matrix_rate=0.015, embedding_rate=0.01),
        description="The best responder: half the teacher's steps",
    )
    responder_b: TrainingSettings = Field(
        default=TrainingSettings(steps=70, batch=8, matrix_rate=0.015, embedding_rate=0.01, noise=0.03, terse=0.15),
        description="The middling responder: fewer steps, slightly worse rows",
    )
    responder_c: TrainingSettings = Field(
        default=TrainingSettings(steps=50, batch=8, matrix_rate=0.015, embedding_rate=0.01, noise=0.08, terse=0.3),
        description="The weakest responder: fewest steps, worst rows",
    )
    reward: TrainingSettings = Field(
        default=TrainingSettings(steps=170, batch=10, matrix_rate=0.01, embedding_rate=0.005, learning_rate=1e-3),
        description="The reward model, on pairs (batch counts pairs)",
    )
    reward_start: str = Field("teacher", description="The model the reward model continues from (base or teacher)")
    reward_heldout: int = Field(default=400, ge=8, description="Held-out pairs the reward model is measured on (count)")
    questions_per_subject: int = Field(default=48, ge=4, description="MMLU-style questions in each subject (count)")
    questions: int = Field(default=204, ge=4, description="Questions in each of the other benchmarks (count)")
    pages: int = Field(
        default=60, ge=2, description="Pages of plain text, like the base's, that measure forgetting (count)"
    )
