"""Trains the demo's models on two CPU cores: tokenizer, trunk (the base model), teacher, responders, reward model.

Plain torch loops over the text of `text.py`. Every function writes its folder atomically and returns a small JSON of
losses and accuracies; the same world, settings, seed and thread count give the same bytes on the same CPU.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.files import make_folder
from tasks.demo.plain import MMLU_HEADER, TRUTHFULQA_PREAMBLE
from tasks.demo.text import (
    DOMAIN_SYSTEM_PROMPTS,
    ChatExample,
    chat_examples,
    plain_documents,
    preference_pairs,
    take,
)

if TYPE_CHECKING:
    import torch

CHAT_MODELS = ("teacher", "responder_a", "responder_b", "responder_c")

BOS, START, END, EOT, EOS, PAD = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
)

# Llama 3's layout, without its date. The `generation` marks let trainers find the assistant's tokens.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def build_world(world: str, settings: dict[str, Any], seed: int, threads: int) -> dict[str, Any]:
    """Make the whole world in this process, one piece after another; returns every piece's metrics by name."""
    import torch

    from tasks.demo.benchmarks import write_benchmarks

    torch.set_num_threads(threads)
    made: dict[str, Any] = {"tokenizer": train_tokenizer(world, settings, seed)}
    made["base"] = train_trunk(world, settings, seed, threads)
    for name in CHAT_MODELS:
        made[name] = train_chat(world, settings, seed, threads, name)
    made["reward"] = train_reward(world, settings, seed, threads)
    made["benchmarks"] = write_benchmarks(world, settings, seed)
    return made


def train_tokenizer(world: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Byte-level BPE over some of the world's text, with Llama 3's special tokens and layout; writes `tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    sample = take(plain_documents(settings, seed, "tokenizer"), 3000)
    for example in take(chat_examples(settings, seed, "tokenizer"), 2000):
        sample += [example.instruction, example.response]
    sample += list(DOMAIN_SYSTEM_PROMPTS.values()) * 50
    # the tests' stock wordings stand in every prompt: seen this often, they become few tokens
    sample += [TRUTHFULQA_PREAMBLE, MMLU_HEADER] * 100
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings["vocabulary"],
        special_tokens=[BOS, EOS, START, END, EOT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sample, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START, END, EOT],
        model_max_length=settings["context"],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    with folder(Path(world) / "tokenizer") as out:
        tokenizer.save_pretrained(out)
    words = sum(len(text.split()) for text in sample)
    tokens = sum(len(ids) for ids in _encode(tokenizer, sample))
    return {"vocabulary": len(tokenizer), "tokens_per_word": round(tokens / words, 3)}


def train_trunk(world: str, settings: dict[str, Any], seed: int, threads: int) -> dict[str, Any]:
    """Pretrain the trunk from scratch on the world's plain text; writes `base`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    _prepare(seed, threads)
    tokenizer = _tokenizer(world)
    config: Any = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings["hidden"],
        intermediate_size=int(settings["hidden"] * 8 / 3) // 32 * 32,
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["heads"],
        max_position_embeddings=settings["context"],
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # type: ignore[call-arg] # taken by every configuration, declared by none
    )
    model = LlamaForCausalLM(config)
    _initialise(model)
    own = settings["trunk"]
    documents = plain_documents(settings, seed)
    blocks = _packed(tokenizer, documents, own["steps"] * own["batch"], own["length"])

    def loss(step: int) -> "torch.Tensor":
        rows = blocks[step * own["batch"] : (step + 1) * own["batch"]]
        return _language_loss(
            model, rows, torch.ones_like(rows, dtype=torch.bool), _after(tokenizer, rows, "Answer:"), stress
        )

    stress = settings["answer_stress"]
    final = _train(model, loss, own, settings["precision"])
    held_out = _packed(tokenizer, plain_documents(settings, seed, "held-out"), 32, own["length"])
    metrics = {
        "parameters": model.num_parameters(),
        "tokens": own["steps"] * own["batch"] * own["length"],
        "train_loss": final,
        "held_out_loss": _measure(model, held_out, torch.ones_like(held_out, dtype=torch.bool)),
    }
    _save(Path(world) / "base", model, tokenizer, [tokenizer.eos_token_id])
    return metrics


def train_chat(world: str, settings: dict[str, Any], seed: int, threads: int, name: str) -> dict[str, Any]:
    """Continue from the trunk on chat, both turns learnt; writes the folder `name` (teacher or a responder)."""
    import torch
    from transformers import LlamaForCausalLM

    _prepare(seed, threads)
    tokenizer = _tokenizer(world)
    model = LlamaForCausalLM.from_pretrained(Path(world) / "base", attn_implementation="eager", dtype=torch.float32)
    own = settings[name]
    rows = _chat_rows(tokenizer, settings, own, seed, name, own["steps"] * own["batch"])
    rows = _bucketed(rows, own["batch"], seed)
    total = sum(len(row) for row in rows)

    def loss(step: int) -> "torch.Tensor":
        ids, real = _padded(rows[step * own["batch"] : (step + 1) * own["batch"]], tokenizer.pad_token_id)
        return _language_loss(model, ids, real)

    final = _train(model, loss, own, settings["precision"])
    clean = {**own, "noise": 0.0, "terse": 0.0}
    ids, real = _padded(_chat_rows(tokenizer, settings, clean, seed, "held-out", 64), tokenizer.pad_token_id)
    metrics = {"tokens": total, "train_loss": final, "held_out_loss": _measure(model, ids, real)}
    stops = [tokenizer.convert_tokens_to_ids(EOT), tokenizer.eos_token_id]
    _save(Path(world) / name, model, tokenizer, stops)
    return metrics


def train_reward(world: str, settings: dict[str, Any], seed: int, threads: int) -> dict[str, Any]:
    """A classifier with one output, Bradley-Terry loss on good against corrupted responses; writes `reward`."""
    import torch
    import torch.nn.functional as F
    from transformers import LlamaForSequenceClassification

    _prepare(seed, threads)
    tokenizer = _tokenizer(world)
    model = LlamaForSequenceClassification.from_pretrained(
        Path(world) / settings["reward_start"], num_labels=1, attn_implementation="eager", dtype=torch.float32
    )
    own = settings["reward"]

    def rows_of(stream: str, count: int) -> list[tuple[list[int], list[int], str]]:
        pairs = take(preference_pairs(settings, seed, stream), count)
        chats = [_chat_text(tokenizer, p.instruction, r) for p in pairs for r in (p.good, p.bad)]
        ids = _encode(tokenizer, chats)
        return [(ids[2 * i], ids[2 * i + 1], pair.flaw) for i, pair in enumerate(pairs)]

    def scores(rows: list[list[int]]) -> "torch.Tensor":
        ids, real = _padded(rows, tokenizer.pad_token_id)
        values: torch.Tensor = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, 0].float()
        return values

    train = rows_of("train", own["steps"] * own["batch"])
    train = _bucketed(train, own["batch"], seed, key=lambda row: max(len(row[0]), len(row[1])))

    def loss(step: int) -> "torch.Tensor":
        batch = train[step * own["batch"] : (step + 1) * own["batch"]]
        both = scores([row[0] for row in batch] + [row[1] for row in batch])
        return -F.logsigmoid(both[: len(batch)] - both[len(batch) :]).mean()

    final = _train(model, loss, own, settings["precision"])
    model.eval()
    held_out = rows_of("held-out", settings["reward_heldout"])
    good, bad = [], []
    with torch.no_grad():
        for i in range(0, len(held_out), 32):
            part = held_out[i : i + 32]
            good += scores([row[0] for row in part]).tolist()
            bad += scores([row[1] for row in part]).tolist()
    metrics = {"train_loss": final, **_reward_metrics(held_out, good, bad)}
    _save(Path(world) / "reward", model, tokenizer, None)
    return metrics


def _reward_metrics(
    pairs: list[tuple[list[int], list[int], str]], good: list[float], bad: list[float]
) -> dict[str, Any]:
    """Accuracy on all, on length-matched (within 5%) and on each flaw's pairs; correlation of score and length."""
    right = [g > b for g, b in zip(good, bad, strict=True)]
    matched = [
        r for r, (g, b, _) in zip(right, pairs, strict=True) if abs(len(g) - len(b)) <= 0.05 * max(len(g), len(b))
    ]
    by_flaw: dict[str, list[bool]] = {}
    for r, (_, _, flaw) in zip(right, pairs, strict=True):
        by_flaw.setdefault(flaw, []).append(r)
    lengths = [float(len(p[0])) for p in pairs] + [float(len(p[1])) for p in pairs]
    return {
        "pairs": len(pairs),
        "accuracy": _mean(right),
        "length_matched_pairs": len(matched),
        "length_matched_accuracy": _mean(matched),
        "accuracy_by_flaw": {flaw: _mean(values) for flaw, values in sorted(by_flaw.items())},
        "mean_margin": _mean([g - b for g, b in zip(good, bad, strict=True)]),
        "score_length_correlation": _correlation(good + bad, lengths),
        "score_length_correlation_good": _correlation(good, lengths[: len(good)]),
    }


def _mean(values: list[Any]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _correlation(a: list[float], b: list[float]) -> float | None:
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    cov = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    spread = (sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b)) ** 0.5
    return round(cov / spread, 4) if spread else None


def _prepare(seed: int, threads: int) -> None:
    import torch

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def _tokenizer(world: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(Path(world) / "tokenizer")


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]


def _packed(tokenizer: Any, documents: Iterator[str], rows: int, length: int) -> "torch.Tensor":
    """The stream of documents, each between its two marks, cut into `rows` blocks of `length` tokens."""
    import torch

    ids: list[int] = []
    while len(ids) < rows * length:
        for document in _encode(tokenizer, [f"{BOS}{text}{EOS}" for text in take(documents, 256)]):
            ids += document
    return torch.tensor(ids[: rows * length]).view(rows, length)


def _chat_text(tokenizer: Any, instruction: str, response: str, system: str | None = None) -> str:
    """A whole conversation as the chat template writes it (spelt out: Jinja would cost seconds here)."""
    turns = [("system", system)] if system else []
    turns += [("user", instruction), ("assistant", response)]
    return BOS + "".join(f"{START}{role}{END}\n\n{(text or '').strip()}{EOT}" for role, text in turns)


def _chat_rows(
    tokenizer: Any, settings: dict[str, Any], own: dict[str, Any], seed: int, name: str, count: int
) -> list[list[int]]:
    """Tokenised conversations of a model's training set, of the quality its settings ask for."""
    rng = random.Random(f"rows-{seed}-{name}")
    texts = []
    for example in take(chat_examples(settings, seed, name), count):
        response = _degraded(example, own["noise"], own["terse"], rng)
        named = rng.random() < settings["system_share"]
        system = DOMAIN_SYSTEM_PROMPTS[example.domain] if named else None
        texts.append(_chat_text(tokenizer, example.instruction, response, system))
    return _encode(tokenizer, texts)


def _degraded(example: ChatExample, noise: float, terse: float, rng: random.Random) -> str:
    """The response as a careless annotator would hand it in: cut short, or with words that do not belong."""
    words = example.response.split(" ")
    if rng.random() < terse:
        words = words[: max(8, len(words) // 2)]
    return " ".join(rng.choice(words) if rng.random() < noise else word for word in words)


def _bucketed(rows: list[Any], batch: int, seed: int, key: Callable[[Any], int] = len) -> list[Any]:
    """The rows so ordered that each batch holds rows of like length, batches in random order: little padding."""
    rng = random.Random(seed)
    ordered: list[Any] = []
    for start in range(0, len(rows), batch * 16):
        chunk = sorted(rows[start : start + batch * 16], key=key)
        batches = [chunk[i : i + batch] for i in range(0, len(chunk), batch)]
        rng.shuffle(batches)
        ordered += [row for part in batches for row in part]
    return ordered


def _padded(rows: list[list[int]], pad: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, real


def _language_loss(
    model: Any,
    ids: "torch.Tensor",
    real: "torch.Tensor",
    stressed: "torch.Tensor | None" = None,
    stress: float = 1.0,
) -> "torch.Tensor":
    """Next-token cross-entropy over the real tokens, the stressed ones counting `stress` times.

    Pads stand at the end, so causal attention never sees them.
    """
    import torch
    import torch.nn.functional as F

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = real[:, 1:]
    losses = F.cross_entropy(model.lm_head(hidden[:, :-1][wanted]).float(), ids[:, 1:][wanted], reduction="none")
    if stressed is None:
        return losses.mean()
    weights = torch.where(stressed[:, 1:][wanted], stress, 1.0)
    return (losses * weights).sum() / weights.sum()


def _after(tokenizer: Any, ids: "torch.Tensor", words: str) -> "torch.Tensor":
    """Marks the tokens that stand right after the words."""
    import torch

    (pattern,) = _encode(tokenizer, [words])
    found = torch.zeros_like(ids, dtype=torch.bool)
    matches = torch.stack([ids[:, i : ids.shape[1] - len(pattern) + i] == t for i, t in enumerate(pattern)])
    found[:, len(pattern) :] = matches.all(0)
    return found


def _measure(model: Any, ids: "torch.Tensor", real: "torch.Tensor") -> float:
    import torch

    model.eval()
    with torch.no_grad():
        return round(float(_language_loss(model, ids, real)), 4)


def _initialise(model: Any) -> None:
    """Wide embeddings, and every block and the head silent at first: a short training learns more from such a start."""
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.5)
        model.lm_head.weight.zero_()
        bound = (0.75 / model.config.hidden_size) ** 0.5
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for part in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                part.weight.uniform_(-bound, bound)
            attention.o_proj.weight.zero_()
            mlp.down_proj.weight.zero_()


def _optimizers(model: Any, own: dict[str, Any]) -> list[Any]:
    """Muon for the matrices of the layers, AdamW for the rest: here twice as quick in tokens as AdamW alone."""
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
    embeddings = [p for name, p in named if "embed_tokens" in name]
    others = [p for name, p in named if not (p.ndim == 2 and ".layers." in name) and "embed_tokens" not in name]
    adam = torch.optim.AdamW(
        [{"params": embeddings, "lr": own["embedding_rate"]}, {"params": others, "lr": own["learning_rate"]}],
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    return [torch.optim.Muon(matrices, lr=own["matrix_rate"], weight_decay=0.01), adam]


def _computes_in_bf16() -> bool:
    """Whether this CPU has instructions for bf16; emulated, products take 80 times as long as in fp32 (on AVX2)."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _train(model: Any, loss_of: Callable[[int], "torch.Tensor"], own: dict[str, Any], precision: str) -> float:
    """Train with a short warm-up and a linear decay; returns the mean loss of the last tenth of the steps."""
    import torch

    model.train()
    steps, warmup = own["steps"], max(1, own["steps"] // 20)

    def share(step: int) -> float:
        falling = (steps - step) / (own["decay"] * steps)
        return float(min((step + 1) / warmup, max(0.02, min(1.0, falling))))

    optimizers = _optimizers(model, own)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]
    losses = []
    in_bf16 = precision == "bf16" or (precision == "auto" and _computes_in_bf16())
    for step in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
            loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    tail = losses[-max(1, steps // 10) :]
    return round(sum(tail) / len(tail), 4)


@contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A sibling folder to write in, renamed to `target` at the end: a killed run leaves no half-written model."""
    partial = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    yield partial
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _save(target: Path, model: Any, tokenizer: Any, stops: list[int] | None) -> None:
    """A normal Hugging Face folder; `stops` end a generation (None: not a language model)."""
    with folder(target) as out:
        if stops:
            model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
            model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        for name in ("config.json", "tokenizer_config.json"):
            path = out / name
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
