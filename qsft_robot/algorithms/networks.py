"""The networks of one policy, behavior and value, and what they say about a batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qsft_robot.algorithms.qsft import TokenBatch
from vlm.heads import ValueHeads, VoidHead

if TYPE_CHECKING:
    from qsft_robot.build import Model
    from vlm.decision import RTOutput


class PolicyNetworks(nn.Module):
    """Behavior phi, and, after the value stage, theta with its void outcome or value heads."""

    def __init__(self, behavior: Model | None) -> None:
        super().__init__()
        self.behavior = behavior
        self.value: Model | None = None
        self.void: VoidHead | None = None
        self.heads: ValueHeads | None = None

    def start_value_stage(self, kind: str, width: int, vocab_size: int) -> Model:
        """Add theta, a copy of the trained phi (which shares a frozen base with it), and what it
        needs beside the pretrained weights;
        `kind` "void" (Q-SFT), "none" (the paper's Eq. 3) or "heads" (ILQL)."""
        assert self.behavior is not None
        self.value = copy.deepcopy(self.behavior)
        if kind == "void":
            self.void = VoidHead(width)
        elif kind == "heads":
            self.heads = ValueHeads(width, vocab_size)
        return self.value

    def load_behavior(self, weights: Mapping[str, Tensor]) -> Model:
        """Give phi the `behavior.` part of saved weights, and return it."""
        assert self.behavior is not None
        prefix = "behavior."
        phi = {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}
        self.behavior.load_state_dict(phi)
        return self.behavior

    def trunks(self) -> list[Model]:
        """The transformers that are there, phi first."""
        return [m for m in (self.behavior, self.value) if m is not None]


def frame_features(model: Model, batch: TokenBatch) -> Float[Tensor, "b k m c"] | None:
    """Image tokens of every history frame: those of the batch, or encoded from its images."""
    if batch.features is not None or not batch.images:
        return batch.features
    b, k = batch.frame_mask.shape
    flat = {camera: x.flatten(0, 1) for camera, x in batch.images.items()}
    text = batch.text_ids.repeat_interleave(k, 0)
    return model.encode_images(flat, text).unflatten(0, (b, k))


def teacher_forced(model: Model, batch: TokenBatch) -> RTOutput:
    """Hidden states and logits at every token of the decisions in the batch."""
    return model(
        frame_features(model, batch),
        batch.state,
        batch.frame_mask,
        batch.text_ids,
        batch.action_ids,
        batch.returns,
        **with_words(batch),
    )


def first_token(model: Model, batch: TokenBatch) -> RTOutput:
    """Hidden state and logits before the first token: all that V(s) needs."""
    output, _ = model.prefill(
        frame_features(model, batch),
        batch.state,
        batch.frame_mask,
        batch.text_ids,
        batch.returns,
        **with_words(batch),
    )
    return output


def with_words(batch: TokenBatch) -> dict[str, Tensor]:
    """The words of the last steps as an argument, for a model that reads them."""
    return {} if batch.words is None else {"words": batch.words}


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; afterwards the model is in its earlier mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def value_of(networks: PolicyNetworks, hidden: Float[Tensor, "b n c"]) -> Float[Tensor, "b n"]:
    """V(s) of the void outcome; 1 where the model has none (the paper's Eq. 3)."""
    if networks.void is None:
        return hidden.new_ones(hidden.shape[:-1])
    return torch.sigmoid(networks.void(hidden).float())
