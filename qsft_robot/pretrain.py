"""Pretrains a small VLM on captions of tabletop scenes, and measures whether it looks at them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from qsft_robot.caption_model import END, build_processor, build_tokenizer, build_vlm
from qsft_robot.caption_scenes import CAMERAS, CaptionScene, sample_scenes
from qsft_robot.captions import Turn, converse
from qsft_robot.files import atomic_folder, write_json

# Kinds of turns whose answer is one choice of few, and that only the image can tell.
LOOKING = ("side", "colour", "holding", "wrist sees", "inside")
REPORT = "pretraining.json"
VALID_SEED = 77_000  # first seed of held-out scenes
_TEXTS = 2_000  # scenes whose questions the tokenizer is trained on


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run: simulated scenes in, a Hugging Face folder out."""

    # Folder that appears when all is done.
    out: Path = Path("runs/vlm_base")
    # Scenes to learn from, each asked about anew whenever it is drawn.
    scenes: int = 6000
    # Scenes of other episodes, for the validation.
    valid_scenes: int = 256
    # Questions about a scene in one sequence.
    turns: int = 8
    # Sequences of one update.
    batch_size: int = 16
    # Updates.
    steps: int = 2000
    # Peak learning rate; warm-up over a twentieth of the updates, cosine to a tenth.
    learning_rate: float = 2e-3
    # AdamW's decay of matrices.
    weight_decay: float = 0.05
    # Width and depth of the language model and of the image encoder.
    width: int = 128
    depth: int = 4
    vision_width: int = 128
    vision_depth: int = 4
    # Train in bfloat16 autocast.
    bf16: bool = True
    # Updates between two validations.
    valid_every: int = 200
    # The same seed and settings give the same weights, to the bit, on one machine.
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("scenes", "valid_scenes", "turns", "batch_size", "steps", "valid_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1.")


@dataclass(frozen=True)
class Example:
    """A scene with what is asked and answered about it."""

    scene: CaptionScene
    turns: Sequence[Turn]


def chat(example: Example) -> list[dict[str, Any]]:
    """An example as a conversation for `apply_chat_template`: all cameras, then the turns."""
    images = [{"type": "image", "image": example.scene.images[camera]} for camera in CAMERAS]
    messages = []
    for turn in example.turns:
        question = {"type": "text", "text": turn.prompt}
        messages.append({"role": "user", "content": [*images, question]})
        answer = {"type": "text", "text": turn.answer}
        messages.append({"role": "assistant", "content": [answer]})
        images = []
    return messages


def written(turn: Turn) -> str:
    """A turn as text that a tokenizer learns from: a question behind images, where no space stands
    before it, then one that goes on, then its answer."""
    return f"{turn.prompt}{END}\nUser: {turn.prompt}{END}\nAssistant: {turn.answer}{END}\n"


def encode(processor: Any, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The processor's tensors of a batch, padded on the right, and `labels` [b, t]: the ids of the
    answers and of the end of each, -100 elsewhere."""
    batch = processor.apply_chat_template(
        [chat(example) for example in examples],
        tokenize=True,
        return_dict=True,
        processor_kwargs={"padding": True, "padding_side": "right", "return_tensors": "pt"},
    )
    tensors = dict(batch)
    tensors["labels"] = answer_labels(processor.tokenizer, tensors["input_ids"])
    return tensors


def answer_labels(tokenizer: Any, ids: torch.Tensor) -> torch.Tensor:
    """ids [b, t] with everything but the assistant's words and their end replaced by -100."""
    speaker, colon = tokenizer("Assistant:", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(END)
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[:, 2:] = (ids[:, :-2] == speaker) & (ids[:, 1:-1] == colon)
    ends = torch.zeros_like(starts)
    ends[:, 1:] = ids[:, :-1] == end
    begun = torch.cumsum(starts.int(), 1)
    # The user's words end by the same token: the number of ends before the answer begins is odd.
    over = torch.cumsum(ends.int(), 1)
    speaking = (begun > 0) & (over == 2 * begun - 1)
    return torch.where(speaking, ids, -100)


def answer_losses(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy [b, t-1] of each next token where it is part of an answer (0 elsewhere), and
    the likeliest next tokens [b, t-1]."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return losses, logits.argmax(-1)


def mean_answer_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of an answer's tokens, nats."""
    losses, _ = answer_losses(model, batch)
    return losses.sum() / (batch["labels"][:, 1:] >= 0).sum()


def held_out(count: int, seed: int, turns: int) -> list[Example]:
    """Scenes of episodes that no training run draws, with fixed questions."""
    rng = np.random.default_rng(VALID_SEED + seed)
    return [
        Example(scene, asked)
        for scene in sample_scenes(count, VALID_SEED + seed)
        if (asked := converse(scene, rng, turns))
    ]


@torch.no_grad()
def evaluate_captions(
    model: Any, processor: Any, examples: Sequence[Example], *, blind: bool = False
) -> dict[str, float]:
    """Loss and accuracy on examples, under teacher forcing.

    `loss/answers` is the mean cross-entropy, nats; `exact/<kind>` the share of answers whose every
    token is the likeliest; `error/point` the mean distance between the told and the true place,
    hundredths of the image, where both of its numbers are told; `exact/looking` pools the kinds
    that only the image can tell. `blind` gives each question the images of another scene.
    """
    model.eval()
    # Half a list away: neighbours are moments of one episode.
    others = [*examples[len(examples) // 2 :], *examples[: len(examples) // 2]]
    total, count = 0.0, 0
    right: dict[str, list[bool]] = {}
    errors: list[float] = []
    for at in range(0, len(examples), 32):
        asked = examples[at : at + 32]
        shown = others[at : at + 32] if blind else asked
        pairs = zip(asked, shown, strict=True)
        batch = encode(processor, [Example(other.scene, one.turns) for one, other in pairs])
        losses, guesses = answer_losses(model, batch)
        labels = batch["labels"][:, 1:]
        total += float(losses.sum())
        count += int((labels >= 0).sum())
        for row, example in enumerate(asked):
            spans = _spans(labels[row])
            for turn, span in zip(example.turns, spans, strict=True):
                hit = bool((guesses[row, span] == labels[row, span]).all())
                right.setdefault(turn.kind, []).append(hit)
                if turn.kind.startswith("point"):
                    told = processor.tokenizer.decode(guesses[row, span])
                    errors += _place_error(told, turn.answer)
    metrics = {"loss/answers": total / count}
    for kind in sorted(right):
        metrics[f"exact/{kind}"] = float(np.mean(right[kind]))
    looking = [hit for kind in LOOKING for hit in right.get(kind, [])]
    metrics["exact/looking"] = float(np.mean(looking)) if looking else math.nan
    metrics["error/point"] = float(np.mean(errors)) if errors else math.nan
    model.train()
    return metrics


def _spans(labels: torch.Tensor) -> list[slice]:
    """The stretches of labels [t] that are answers."""
    said = (labels >= 0).int()
    edges = torch.diff(F.pad(said, (1, 1)))
    starts, ends = (edges == 1).nonzero().ravel(), (edges == -1).nonzero().ravel()
    return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def _place_error(told: str, true: str) -> list[float]:
    """Distance between "at 12 34." and "at 56 78.", in a list; an empty one where none is told."""
    numbers = [
        [float(w) for w in text.replace(".", " ").split() if w.isdigit()] for text in (told, true)
    ]
    if len(numbers[0]) != 2:
        return []
    return [math.dist(*numbers)]


def training_batches(
    scenes: Sequence[CaptionScene], config: PretrainConfig, rng: np.random.Generator
) -> Iterator[list[Example]]:
    """Endless batches of scenes drawn at random, with fresh questions."""
    while True:
        batch: list[Example] = []
        while len(batch) < config.batch_size:
            scene = scenes[int(rng.integers(len(scenes)))]
            if asked := converse(scene, rng, config.turns):
                batch.append(Example(scene, asked))
        yield batch


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Warm-up, then cosine to a tenth."""
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    part = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * part)))


def pretrain(config: PretrainConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train and save the folder; returns what its pretraining.json holds: settings and curves.

    The folder loads by AutoModelForImageTextToText and AutoProcessor like any other.
    """
    began = time.monotonic()
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    scenes = list(sample_scenes(config.scenes, config.seed))
    valid = held_out(config.valid_scenes, config.seed, config.turns)
    say(f"{time.monotonic() - began:6.0f} s  {len(scenes)} scenes, {len(valid)} held out")
    texts = [
        written(turn)
        for _ in range(max(1, _TEXTS // len(scenes)))
        for scene in scenes[:_TEXTS]
        for turn in converse(scene, rng, 8)
    ]
    processor = build_processor(build_tokenizer(texts))
    model = build_vlm(
        processor.tokenizer,
        width=config.width,
        depth=config.depth,
        heads=max(1, config.width // 32),
        vision_width=config.vision_width,
        vision_depth=config.vision_depth,
    )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    curve: list[dict[str, float]] = []
    recent: list[float] = []
    batches = training_batches(scenes, config, rng)
    model.train()
    for step in range(1, config.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step - 1)
        batch = encode(processor, next(batches))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            loss = mean_answer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(float(loss.detach()))
        if step % config.valid_every == 0 or step == config.steps:
            metrics = evaluate_captions(model, processor, valid)
            blind = evaluate_captions(model, processor, valid, blind=True)
            metrics |= {f"blind/{name}": value for name, value in blind.items()}
            line = {"step": step, "loss/train": float(np.mean(recent)), **metrics}
            line["time/s"] = round(time.monotonic() - began, 1)
            curve.append(line)
            recent.clear()
            say(progress(line))
    report = {
        "settings": {**dataclasses.asdict(config), "out": str(config.out)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": [{k: v for k, v in line.items() if not math.isnan(v)} for line in curve],
    }
    with atomic_folder(config.out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / REPORT, report)
    return report


def progress(line: dict[str, float]) -> str:
    """One validation as a line of text."""
    return (
        f"{line['time/s']:6.0f} s  step {line['step']:.0f}  train {line['loss/train']:.3f}  "
        f"valid {line['loss/answers']:.3f} (blind {line['blind/loss/answers']:.3f})  "
        f"looking {line['exact/looking']:.2f} (blind {line['blind/exact/looking']:.2f})  "
        f"point error {line['error/point']:.1f} (blind {line['blind/error/point']:.1f})"
    )
