"""What a study is: one typed schema, one YAML file a profile, any value settable from the command line.

`load_settings("demo", {"filter.max_words": 400})` reads `configs/demo.yaml`, applies the overrides and validates.
This module imports neither Prefect nor torch, so that a wrong setting is told in well under a second.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from configs.world import WorldSettings

PROFILE_FOLDER = Path(__file__).parent

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Similarity = Annotated[float, Field(gt=0, le=1)]


class SettingsError(ValueError):
    """A setting is wrong; the message names the key, what it got and what it takes."""


class Section(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Section):
    """One model: where it comes from and how it is loaded."""

    name: str = Field(description="hub id, local folder, or world/NAME for a model of the demo's world")
    revision: str | None = Field(None, description="hub commit, tag or branch; none takes the newest and records it")
    precision: Literal["fp32", "fp16", "bf16", "nf4"] = Field("fp32", description="weight format; nf4 is 4-bit")


class ModelsSettings(Section):
    """The models of the study (requirements 2.1, 2.3, 1.3)."""

    teacher: ModelSettings = Field(description="instruct model that writes instructions and responses (Magpie)")
    responders: list[ModelSettings] = Field(min_length=3, max_length=3, description="three different models (2.3)")
    reward: ModelSettings = Field(description="sequence classifier with one output that scores responses")
    base: ModelSettings = Field(description="base model that the three methods adapt")

    @property
    def by_role(self) -> dict[str, ModelSettings]:
        """Every model by what it does."""
        responders = {f"responder {number}": model for number, model in enumerate(self.responders, 1)}
        return {"teacher": self.teacher, **responders, "reward model": self.reward, "base model": self.base}

    @model_validator(mode="after")
    def _responders_differ(self) -> ModelsSettings:
        names = [(model.name, model.revision) for model in self.responders]
        if len(set(names)) != len(names):
            raise ValueError("the three responders must be different models")
        return self


class HardwareSettings(Section):
    """The machine a profile is made for."""

    engine: Literal["hf", "vllm"] = Field(description="generation engine: hf (CPU, T4) or vllm (A100 and up)")
    workers: Positive = Field(1, description="child processes that compute at once, each with a model [processes]")
    threads: Positive = Field(2, description="CPU threads of each child process [threads]")
    gpus: Positive | None = Field(None, description="GPUs that share one training; none takes all there are [GPUs]")
    rows_at_once: Positive | None = Field(
        None, description="rows one model decodes at once; none: vLLM's own number, the batch (CPU), 32 (hf on a GPU)"
    )
    vllm_memory_share: Fraction = Field(0.9, description="share of the accelerator's memory that vLLM takes")
    vllm_eager: bool = Field(False, description="vLLM without compilation: slower steps, a start in seconds")
    session_hours: Rate = Field(12, description="longest session of the runtime (3.2) [h]")
    memory_gb: Rate | None = Field(
        None, description="GPU memory the study needs (3.2) [GB]; it is then refused on a CPU; none runs anywhere"
    )
    gpu: str | None = Field(None, description="card that 3.1's hours are asked of, such as T4: they count on no other")
    cpu_hours: Rate | None = Field(
        None, description="what the study takes where there is no GPU, told at its start [h]"
    )


class SamplingSettings(Section):
    """How tokens are drawn."""

    temperature: Annotated[float, Field(ge=0)] = Field(description="softmax temperature; 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="nucleus probability mass")
    max_new_tokens: Positive = Field(description="limit of one completion [tokens]")


class DomainSettings(Section):
    """A share of the instruction mix."""

    weight: Rate = Field(description="share of the rows, relative to the other domains' weights")
    system_prompt: str | None = Field(None, description="task-control system prompt; none is the bare pre-query prompt")


class GenerationSettings(Section):
    """Magpie data generation (2.1, 4.2)."""

    rows: Positive = Field(1500, description="raw instruction/response pairs (2.1) [rows]")
    rows_per_shard: Positive = Field(64, description="unit of persistence [rows]")
    batches_in_flight: Positive = Field(2, description="batches submitted to one engine at once [batches]")
    max_attempts: Positive = Field(3, description="draws of one row before it counts as failed [attempts]")
    suppressed_openings: list[str] = Field(
        ["#", "**"], description="no instruction's first token begins with these (Magpie suppresses markdown headings)"
    )
    instruction: SamplingSettings = Field(description="sampling of the instruction")
    response: SamplingSettings = Field(description="sampling of the response")
    domains: dict[str, DomainSettings] = Field(min_length=1, description="the multi-domain mix (1.1)")


class QualityWeights(Section):
    """Weights of the quality score's parts; they must sum to 1."""

    completeness: Fraction = Field(0.25, description="the response ends as a finished text")
    clarity: Fraction = Field(0.2, description="the instruction asks for something, at a sensible length")
    variety: Fraction = Field(0.2, description="lexical variety of the response")
    relevance: Fraction = Field(0.2, description="share of the instruction's content words the response takes up")
    cleanliness: Fraction = Field(0.15, description="absence of artifacts: markup debris, repeats, template tokens")

    @model_validator(mode="after")
    def _sum_to_one(self) -> QualityWeights:
        total = sum(self.model_dump().values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the weights must sum to 1, they sum to {total:g}")
        return self


class FilterSettings(Section):
    """The five filter rules and the quality score (2.2), and the splits (4.2)."""

    min_words: Positive = Field(20, description="shortest output (2.2) [words]")
    max_words: Positive = Field(500, description="longest output (2.2) [words]")
    min_instruction_words: Positive = Field(3, description="shortest instruction [words]")
    max_instruction_words: Positive = Field(500, description="longest instruction [words]")
    max_repeats: Annotated[int, Field(ge=2)] = Field(3, description="a unit this often in a row drops the row (2.2)")
    max_character_run: Annotated[int, Field(ge=2)] = Field(10, description="a character this often in a row, likewise")
    refusal_opening: Positive = Field(200, description="where a refusal is looked for in an output [characters]")
    max_similarity: Similarity = Field(0.8, description="instructions at this Jaccard similarity are duplicates (2.2)")
    language: Literal["en"] = Field("en", description="language kept (2.2, 7.1)")
    min_language_confidence: Fraction = Field(0.5, description="English against its likeliest rival [share]")
    min_language_words: Positive = Field(8, description="prose the detector needs; below, the script decides [words]")
    contamination_words: Positive = Field(8, description="n-grams compared with the benchmarks' questions [words]")
    contamination_share: Fraction = Field(0.5, description="of a question in shared n-grams: dropped [share]")
    quality: QualityWeights = Field(default_factory=QualityWeights, description="weights of the quality score's parts")
    train_rows: Positive = Field(640, description="SFT training rows (4.2) [rows]")
    val_rows: Positive = Field(160, description="SFT validation rows (4.2) [rows]")
    group_similarity: Similarity = Field(0.5, description="instructions at this similarity share a split")
    max_group_share: Fraction = Field(0.1, description="larger groups are cut at a higher similarity [share of rows]")

    @model_validator(mode="after")
    def _ordered(self) -> FilterSettings:
        if self.min_words > self.max_words or self.min_instruction_words > self.max_instruction_words:
            raise ValueError("a minimum of words is above its maximum")
        return self


class PreferenceSettings(Section):
    """Preference pairs (2.3, 4.2)."""

    pairs: Positive = Field(600, description="pairs (2.3) [rows]")
    train_pairs: Positive = Field(400, description="DPO training pairs (4.2) [rows]")
    val_pairs: Positive = Field(100, description="DPO validation pairs (4.2) [rows]")
    oversample: Annotated[float, Field(ge=1)] = Field(1.1, description="instructions answered for each pair wanted")
    min_margin: Annotated[float, Field(ge=0)] = Field(0.0, description="pairs need a larger margin [reward units]")
    sampling: SamplingSettings = Field(description="sampling of the responses")
    score_batch: Positive = Field(64, description="responses scored in one task [rows]")

    @model_validator(mode="after")
    def _splits_fit(self) -> PreferenceSettings:
        if self.train_pairs + self.val_pairs > self.pairs:
            raise ValueError("train_pairs + val_pairs must not exceed pairs")
        return self


class TrainingSettings(Section):
    """What every method's trainer takes."""

    epochs: Rate = Field(description="passes over the training rows [epochs]")
    batch_size: Positive = Field(description="rows an optimizer step sees [rows]")
    micro_batch: Positive | None = Field(
        None, description="rows in memory at once; batch_size must be a multiple; none takes as many as fit [rows]"
    )
    learning_rate: Rate = Field(description="peak learning rate of AdamW")
    search_rates: list[Rate] = Field(
        [], description="learning rates to choose from by validation loss; none trains at learning_rate"
    )
    warmup_share: Fraction = Field(0.03, description="share of the steps with a rising learning rate")
    schedule: Literal["linear", "cosine"] = Field("cosine", description="fall of the learning rate to 0 after warm-up")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="decoupled weight decay of AdamW")
    max_grad_norm: Rate = Field(1.0, description="gradients are clipped to this norm")
    max_length: Positive = Field(description="longest row, prompt and answer [tokens]")
    gradient_checkpointing: bool | None = Field(
        None, description="recompute activations instead of storing them; none where they do not fit"
    )

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainingSettings:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        return self

    @model_validator(mode="after")
    def _candidates_differ(self) -> TrainingSettings:
        if len(set(self.search_rates)) != len(self.search_rates):
            raise ValueError(f"search_rates {self.search_rates} names a learning rate twice; each is tried once")
        return self


class LoraSettings(TrainingSettings):
    """LoRA SFT (2.4.1)."""

    r: Positive = Field(8, description="rank (2.4.1)")
    lora_alpha: Positive = Field(16, description="scale (2.4.1)")
    lora_dropout: Fraction = Field(0.0, description="dropout on the adapter's input")
    target_modules: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj"], description="adapted matrices")


class PromptTuningSettings(TrainingSettings):
    """Prompt tuning (2.4.2)."""

    num_virtual_tokens: Positive = Field(20, description="soft prompt length (2.4.2) [tokens]")
    init_method: Literal["random"] = Field("random", description="initialisation of the soft prompt (2.4.2)")


class DpoSettings(TrainingSettings):
    """DPO on the SFT adapter (2.4.3)."""

    beta: Rate = Field(0.1, description="strength of the pull to the reference model (2.4.3)")


class PrefixTuningSettings(TrainingSettings):
    """Prefix tuning: trained keys and values before every layer's own (arXiv 2101.00190)."""

    num_virtual_tokens: Positive = Field(20, description="length of the prefix [tokens]")
    gradient_checkpointing: bool = Field(False, description="PEFT cannot recompute behind a prefix: false")


class PTuningSettings(TrainingSettings):
    """P-tuning: a soft prompt that a small network writes while it is trained (arXiv 2103.10385)."""

    num_virtual_tokens: Positive = Field(20, description="soft prompt length [tokens]")
    encoder_hidden_size: Positive | None = Field(
        None, description="width of that network [units]; none takes the base model's"
    )


class Ia3Settings(TrainingSettings):
    """IA3: a trained factor for each key, value and feed-forward activation (arXiv 2205.05638)."""

    target_modules: list[str] = Field(["k_proj", "v_proj", "down_proj"], description="rescaled matrices")
    feedforward_modules: list[str] = Field(["down_proj"], description="those of them rescaled at their input")


class DoraSettings(LoraSettings):
    """DoRA: LoRA on the direction of the weights, and a trained magnitude (arXiv 2402.09353)."""


class LohaSettings(TrainingSettings):
    """LoHa: updates that are the product, entry by entry, of two low-rank ones (arXiv 2108.06098)."""

    r: Positive = Field(8, description="rank of each of the two")
    alpha: Positive = Field(8, description="scale")
    target_modules: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj"], description="adapted matrices")


class FurtherMethods(Section):
    """Methods beside the study's three, by name; one line of the profile turns one on.

    What a method is not given comes from `tuning.sft`, except the learning rates.
    """

    prefix_tuning: PrefixTuningSettings | None = None
    p_tuning: PTuningSettings | None = None
    ia3: Ia3Settings | None = None
    dora: DoraSettings | None = None
    loha: LohaSettings | None = None


class TuningSettings(Section):
    """The three adaptation methods (2.4), and any further ones."""

    sft: LoraSettings
    prompt_tuning: PromptTuningSettings
    dpo: DpoSettings
    also: FurtherMethods = Field(default_factory=FurtherMethods)
    seeds: Positive = Field(1, description="trainings of each method, with the study's seed, the next, … [runs]")
    search_epochs: Rate = Field(1.0, description="training of each candidate learning rate [epochs]")
    fused_kernels: bool | None = Field(
        None, description="Liger's kernels; none takes them where they are installed and the GPU has bf16"
    )
    checkpoint_steps: Positive = Field(description="steps between checkpoints [steps]")
    checkpoints_kept: Annotated[int, Field(ge=2)] = Field(2, description="checkpoints kept; 2 survive a torn one")

    @property
    def methods(self) -> dict[str, TrainingSettings]:
        """Every method of the study by name, the three required ones first."""
        further = {name: getattr(self.also, name) for name in FurtherMethods.model_fields}
        own: dict[str, TrainingSettings] = {"sft": self.sft, "prompt_tuning": self.prompt_tuning, "dpo": self.dpo}
        return own | {name: section for name, section in further.items() if section}

    @property
    def longest_soft_prompt(self) -> int:
        """Virtual tokens of the method that has most [tokens]."""
        return max(getattr(section, "num_virtual_tokens", 0) for section in self.methods.values())

    @model_validator(mode="before")
    @classmethod
    def _further_methods_train_as_sft_does(cls, values: Any) -> Any:
        sft, also = (values.get(name) for name in ("sft", "also")) if isinstance(values, dict) else (None, None)
        if not isinstance(sft, dict) or not isinstance(also, dict):
            return values
        return values | {"also": {name: _as_sft(name, section, sft) for name, section in also.items()}}

    @model_validator(mode="after")
    def _searches_cost_the_same(self) -> TuningSettings:
        candidates = {name: len(section.search_rates) for name, section in self.methods.items()}
        if len(set(candidates.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in candidates.items())
            raise ValueError(
                "search_rates: every method gets the same number of learning rates to choose from, or none does, "
                f"so that none is better searched than another; got {told}"
            )
        return self


def _as_sft(method: str, section: Any, sft: Mapping[str, Any]) -> Any:
    """A further method's settings over those of `sft` that its own class says nothing about."""
    field = FurtherMethods.model_fields.get(method)
    if field is None or not isinstance(section, dict):
        return section
    own = {"learning_rate", "search_rates", *inspect.get_annotations(_section(field.annotation) or Section)}
    return {
        name: value for name, value in sft.items() if name in TrainingSettings.model_fields and name not in own
    } | section


class BenchmarkSettings(Section):
    """One benchmark of lm-evaluation-harness (2.5.1)."""

    task: str = Field(description="lm-eval task or group name")
    metric: str = Field(description="primary metric, as lm-eval names it")


class EvaluationSettings(Section):
    """Benchmarks and efficiency measurements (2.5, 1.3)."""

    benchmarks: dict[str, BenchmarkSettings] = Field(min_length=1, description="benchmarks by their name here (2.5.1)")
    task_folders: list[str] = Field(
        [],
        description="folders of lm-eval tasks of one's own, which benchmarks may name; from the current folder",
    )
    batch_size: Positive = Field(description="fixed for every model, since it moves half-precision scores [rows]")
    limit: Positive | None = Field(None, description="questions a task; none takes all [questions]")
    speed_new_tokens: Positive = Field(128, description="length of the inference speed measurement [tokens]")
    speed_rows: Positive = Field(8, description="prompts in the inference speed measurement [rows]")
    speed_repeats: Positive = Field(5, description="timed repeats of it, after a warm-up; the median counts [runs]")
    forgetting: BenchmarkSettings | None = Field(
        None, description="general text whose loss shows what a method forgot; none is not measured"
    )
    answer_rows: Positive = Field(200, description="held-out instructions each model answers, for win rates [rows]")
    answer_max_new_tokens: Positive = Field(512, description="longest of these answers [tokens]")
    permutations: Positive = Field(
        20_000, description="sign patterns drawn where they cannot be counted, and resamples of seeds and questions"
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="family-wise error rate; intervals cover 1-alpha"
    )
    power: Annotated[float, Field(gt=0, lt=1)] = Field(0.8, description="power of the minimal detectable difference")
    human_pairs: Positive = Field(
        50, description="held-out instructions on the page that people rate, the same for every method [instructions]"
    )

    @property
    def asked(self) -> dict[str, BenchmarkSettings]:
        """Every benchmark, and the general text of forgetting as one."""
        return self.benchmarks | ({"forgetting": self.forgetting} if self.forgetting else {})

    @field_validator("task_folders")
    @classmethod
    def _task_folders_are_there(cls, folders: list[str]) -> list[str]:
        for folder in folders:
            if not os.path.isdir(folder):  # not `Path.is_dir`, which raises on a dead mount
                raise ValueError(f"there is no folder {folder!r} in {Path.cwd()}")
        return folders

    @model_validator(mode="after")
    def _benchmarks_have_names_of_their_own(self) -> EvaluationSettings:
        for name in self.benchmarks:
            if name in ("speed", "forgetting") or not re.fullmatch(r"[\w-]+", name):
                raise ValueError(
                    f"benchmarks: got the name {name!r}; results are files of that name, so it takes letters, digits, "
                    "_ and -, and neither speed nor forgetting, which are measured beside the benchmarks"
                )
        return self


class TargetSettings(Section):
    """The requirements' verification criteria; the checklist compares, nothing adjusts."""

    success_rate: Fraction = Field(0.95, description="2.1: completed generations")
    instruction_words: tuple[float, float] = Field((20, 150), description="2.1: mean instruction length [words]")
    response_words: tuple[float, float] = Field((50, 500), description="2.1: mean response length [words]")
    filtered_rows: Positive = Field(1000, description="2.2: rows after filtering [rows]")
    mean_quality: Fraction = Field(0.7, description="2.2: mean quality score")
    mean_margin: Rate = Field(0.15, description="2.3: mean score difference [reward units]")
    eval_loss: Rate = Field(1.8, description="2.4.1: LoRA's loss on validation rows [nats a token]")
    lora_share: tuple[float, float] = Field((0.1, 0.5), description="2.4.1: trainable parameters [%]")
    preference_accuracy: Fraction = Field(0.7, description="2.4.3: held-out pairs ranked right")
    generation_hours: Rate = Field(17, description="3.1: raw generation [h]")
    sft_hours: Rate = Field(8, description="3.1: SFT training [h]")
    dpo_hours: Rate = Field(6, description="3.1: DPO training [h]")
    evaluation_hours: Rate = Field(4, description="3.1: evaluation of one model [h]")


class Settings(Section):
    """A whole study."""

    profile: str = Field(description="the profile's name")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of everything random (3.3)")
    world: WorldSettings | None = Field(None, description="the demo's world; none where models come from the hub")
    hardware: HardwareSettings
    models: ModelsSettings
    generation: GenerationSettings
    filter: FilterSettings = FilterSettings()
    preference: PreferenceSettings
    tuning: TuningSettings
    evaluation: EvaluationSettings
    targets: TargetSettings = TargetSettings()

    @model_validator(mode="after")
    def _splits_fit(self) -> Settings:
        needed = self.filter.train_rows + self.filter.val_rows
        if needed >= self.generation.rows:
            raise ValueError(
                f"filter.train_rows + filter.val_rows = {needed} leave nothing of generation.rows = "
                f"{self.generation.rows} for the test split"
            )
        return self


def profiles() -> list[str]:
    """Names of the profiles that ship with the project."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def load_settings(profile: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a profile, apply dotted overrides such as `filter.max_words`, validate.

    Args:
        profile: the name of one that ships with the project, or the path of a YAML file of one's own, of which the
            study keeps the file's name.
        overrides: values by dotted key.

    Raises:
        SettingsError: an unknown profile or key, or a value out of range, each with what would be right.
    """
    path = profile_file(profile)
    values = _read_profile(path) | {"profile": path.name if is_path(profile) else profile}
    if is_path(profile):
        _OWN_PROFILES[path.name] = path.absolute()
    for key, value in (overrides or {}).items():
        _set(values, key, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_describe(problem) for problem in error.errors())) from None


def profile_file(profile: str) -> Path:
    """Where a profile's YAML lies.

    Raises:
        SettingsError: there is none of that name.
    """
    path = Path(profile).expanduser() if is_path(profile) else PROFILE_FOLDER / f"{profile}.yaml"
    if not os.path.isfile(path):  # not `Path.is_file`, which raises on a dead mount
        raise SettingsError(
            f"--profile: got {profile!r}, takes one of {', '.join(profiles())}, or the path of a .yaml file"
        )
    return path


def is_path(profile: str) -> bool:
    """Whether a profile is a file of the user's own."""
    return profile.endswith((".yaml", ".yml"))


# Where this process read profiles of the user's own: a study keeps their names, since paths are a machine's
_OWN_PROFILES: dict[str, Path] = {}


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--profile: {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--profile: {path} holds no settings; configs/smol.yaml shows how one looks")
    return values


def study_arguments(settings: Settings) -> list[str]:
    """The command line that gives these settings: the profile, the seed, and what differs from the profile."""
    profile = str(_OWN_PROFILES.get(settings.profile, settings.profile))
    own, usual = settings.model_dump(mode="json"), load_settings(profile).model_dump(mode="json")
    words = ["--profile", settings.profile, "--seed", str(settings.seed)]
    for key, value in _differences(own, usual):
        if key != "seed":
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def _differences(own: Mapping[str, Any], usual: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in own.items():
        there = usual.get(name)
        if isinstance(value, dict) and isinstance(there, dict) and set(value) == set(there):
            yield from _differences(value, there, f"{prefix}{name}.")
        elif value != there:
            yield f"{prefix}{name}", value


def setting_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every settable key, dotted, with its description."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section:
            yield from setting_keys(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description or ""


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel) and not _is_list(annotation):
            return candidate
    return None


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in (list, dict)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    inner = values
    for part in path:
        if inner.get(part) is None:
            inner[part] = {}
        inner = inner[part]
        if not isinstance(inner, dict):
            raise SettingsError(f"--{key}: {part!r} is a single value, not a group of settings")
    inner[last] = value


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        known = [name for name, _ in setting_keys()]
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        group = key.rpartition(".")[0]
        inside = list(
            dict.fromkeys(name[len(group) + 1 :].split(".")[0] for name in known if name.startswith(f"{group}."))
        )
        hint = f"; did you mean --{close[0]}?" if close else "; see --help for every setting"
        return f"--{key}: no such setting{hint}" + (f" {group} takes {', '.join(inside)}" if inside else "")
    takes = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict):
        return f"--{key}: {takes}"
    meaning = dict(setting_keys()).get(key)
    return f"--{key}: got {problem['input']!r}; {takes}" + (f" ({meaning})" if meaning else "")
