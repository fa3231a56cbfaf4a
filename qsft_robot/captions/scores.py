"""Loss and accuracy of a VLM on captions of held-out scenes, with the images and blind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from qsft_robot.captions.batches import Example, answer_losses, encode
from qsft_robot.captions.questions import converse
from qsft_robot.captions.scenes import sample_scenes

# Kinds of turns whose answer is one choice of few, and that only the image can tell.
LOOKING = ("side", "colour", "holding", "wrist sees", "inside")
VALID_SEED = 77_000  # first seed of held-out scenes


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
    """Distance between "red cube 12 34." and "red cube 56 78.", in a list; an empty one where none
    is told."""
    numbers = [
        [float(w) for w in text.replace(".", " ").split() if w.isdigit()] for text in (told, true)
    ]
    if len(numbers[0]) != 2:
        return []
    return [math.dist(*numbers)]
