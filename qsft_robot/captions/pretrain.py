"""Pretrains a small VLM on captions of tabletop scenes, and measures whether it looks at them."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn, optim

from qsft_robot.captions.batches import Example, encode, mean_answer_loss, written
from qsft_robot.captions.cell_head import CellHead, cell_targets
from qsft_robot.captions.model import IMAGE_TOKENS, build_processor, build_tokenizer, build_vlm
from qsft_robot.captions.questions import converse
from qsft_robot.captions.resume import (
    Progress,
    load_progress,
    precision_kept,
    save_progress,
    unfinished_folder,
)
from qsft_robot.captions.scenes import CaptionScene, sample_scenes
from qsft_robot.captions.scores import evaluate_captions, held_out
from qsft_robot.files import atomic_folder, check_replaceable, write_json
from qsft_robot.hardware import AUTO, choose_precision

REPORT = "pretraining.json"
SIDE = math.isqrt(IMAGE_TOKENS)  # image tokens in a row
_TEXTS = 2_000  # scenes whose questions the tokenizer is trained on


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run: simulated scenes in, a Hugging Face folder out."""

    # Folder that appears when all is done.
    out: Path = Path("runs/vlm_base")
    # Scenes to learn from, each asked about anew whenever it is drawn.
    scenes: int = 3000
    # Scenes of other episodes, for the validation.
    valid_scenes: int = 256
    # Questions about a scene in one sequence.
    turns: int = 6
    # Sequences of one update.
    batch_size: int = 16
    # Updates.
    steps: int = 5000
    # Peak learning rate; warm-up over a twentieth of the updates, cosine to a tenth.
    learning_rate: float = 2e-3
    # AdamW's decay of matrices.
    weight_decay: float = 0.05
    # Width and depth of the language model and of the image encoder.
    width: int = 128
    depth: int = 4
    vision_width: int = 128
    vision_depth: int = 3
    # Weight of the head by which image tokens learn what is in their cell.
    cell_weight: float = 1.0
    # float32, bfloat16 (autocast), or auto: bfloat16 where this processor computes faster in it.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # Updates between two validations, each followed by a checkpoint.
    valid_every: int = 500
    # The same seed and settings give the same weights, to the bit, on one machine; a precision
    # of auto is timed, and two processes may not agree: pretraining.json names the one taken.
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("scenes", "valid_scenes", "turns", "batch_size", "steps", "valid_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1.")


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

    The folder loads by AutoModelForImageTextToText and AutoProcessor like any other. After each
    validation the state is kept in `<out>.unfinished`: the same settings go on from there, to the
    same weights as without a stop. ValueError if other settings left it, FileExistsError where
    something else is at `out`.
    """
    check_replaceable(config.out)
    began, kept = time.monotonic(), unfinished_folder(config.out)
    if config.precision == AUTO:
        # What was left unfinished goes on as it began, on another machine too.
        taken, why = precision_kept(kept), "as it began"
        if taken is None:
            taken, why = choose_precision(AUTO, "cpu")
        say(f"precision: {taken} ({why})")
        config = dataclasses.replace(config, precision=taken)
    settings = {**dataclasses.asdict(config), "out": str(config.out)}
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    scenes = list(sample_scenes(config.scenes, config.seed))
    valid = held_out(config.valid_scenes, config.seed, config.turns)
    say(f"{time.monotonic() - began:6.0f} s  {len(scenes)} scenes, {len(valid)} held out")
    processor, model = build_for(scenes, config, rng)
    names = sorted({name for scene in scenes for name in scene.truth.positions})
    head = CellHead(config.width, names)
    progress = Progress({"model": model, "head": head}, build_optimizer(model, head, config), rng)
    if kept.is_dir():
        load_progress(kept, settings, progress)
        began -= progress.seconds
        say(f"{time.monotonic() - began:6.0f} s  going on from step {progress.step} of {kept}")
    image_tokens: list[torch.Tensor] = []
    model.model.connector.register_forward_hook(lambda *call: image_tokens.append(call[-1]))
    recent: list[list[float]] = []
    batches = training_batches(scenes, config, rng)
    model.train()
    for step in range(progress.step + 1, config.steps + 1):
        for group in progress.optimizer.param_groups:
            group["lr"] = learning_rate(config, step - 1)
        examples = next(batches)
        places = cell_targets([example.scene for example in examples], names, SIDE)
        image_tokens.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = mean_answer_loss(model, encode(processor, examples))
        cells = head(image_tokens[0], places)
        progress.optimizer.zero_grad()
        (loss + config.cell_weight * cells).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        progress.optimizer.step()
        recent.append([float(loss.detach()), float(cells.detach())])
        if step % config.valid_every == 0 or step == config.steps:
            metrics = evaluate_captions(model, processor, valid)
            blind = evaluate_captions(model, processor, valid, blind=True)
            metrics |= {f"blind/{name}": value for name, value in blind.items()}
            train_loss, cell_loss = np.mean(recent, 0).tolist()
            line = {"step": step, "loss/train": train_loss, "loss/cells": cell_loss, **metrics}
            line["time/s"] = round(time.monotonic() - began, 1)
            progress.curve.append({name: x for name, x in line.items() if not math.isnan(x)})
            recent.clear()
            save_progress(kept, settings, progress)
            say(validation_text(line))
    parameters = sum(p.numel() for p in model.parameters())
    report = {"settings": settings, "parameters": parameters, "curve": progress.curve}
    with atomic_folder(config.out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / REPORT, report)
    shutil.rmtree(kept, ignore_errors=True)
    return report


def build_for(
    scenes: Sequence[CaptionScene], config: PretrainConfig, rng: np.random.Generator
) -> tuple[Any, Any]:
    """A processor whose tokenizer learnt the scenes' questions, and a model for it."""
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
    # On a CPU faster than fused attention, whose backward pass took a third of an update.
    model.set_attn_implementation("eager")
    return processor, model


def build_optimizer(model: nn.Module, head: nn.Module, config: PretrainConfig) -> optim.AdamW:
    """AdamW over both; vectors do not decay."""
    trained = [*model.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, betas=(0.9, 0.98))


def validation_text(line: dict[str, float]) -> str:
    """One validation as a line of text."""
    return (
        f"{line['time/s']:6.0f} s  step {line['step']:.0f}  train {line['loss/train']:.3f}  "
        f"cells {line['loss/cells']:.3f}  "
        f"valid {line['loss/answers']:.3f} (blind {line['blind/loss/answers']:.3f})  "
        f"looking {line['exact/looking']:.2f} (blind {line['blind/exact/looking']:.2f})  "
        f"point error {line['error/point']:.1f} (blind {line['blind/error/point']:.1f})"
    )
