"""Questions and answers about scenes as a VLM's tensors, and the loss of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from qsft_robot.captions.model import END
from qsft_robot.captions.questions import Turn
from qsft_robot.captions.scenes import CAMERAS, CaptionScene


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
    # In two steps, as every transformers 5 has them.
    batch = processor(
        text=processor.apply_chat_template([chat(each) for each in examples], tokenize=False),
        images=[[each.scene.images[camera] for camera in CAMERAS] for each in examples],
        add_special_tokens=False,  # the template writes them
        padding=True,
        padding_side="right",
        return_tensors="pt",
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
