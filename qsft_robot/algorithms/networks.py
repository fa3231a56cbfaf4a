"""The networks of one policy, behavior and value, and what they say about a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qsft_robot.names import unknown
from qsft_robot.token_data.batch import TokenBatch
from vlm.critic import DecisionCritic
from vlm.heads import Reading, TokenValueHead, ValueHeads, VoidHead
from vlm.model import ActionModel, Context, ModelOutput


@runtime_checkable
class Head(Protocol):
    """A module on theta's hidden states that tells what a state is worth."""

    def read(self, hidden: Float[Tensor, "b n c"]) -> Reading: ...


# Name of a head, which is also its prefix in the weights -> from width and vocabulary to the head.
HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "void": lambda width, vocab_size: VoidHead(width),
    "heads": ValueHeads,
    "token_values": TokenValueHead,
}


class PolicyNetworks(nn.Module):
    """Behavior phi, after a value stage theta with its head, and a critic of whole decisions."""

    def __init__(self, behavior: ActionModel | None) -> None:
        super().__init__()
        self.behavior = behavior
        self.value: ActionModel | None = None
        self.head_name: str | None = None
        self.critic: DecisionCritic | None = None

    @property
    def head(self) -> Any:
        """The `Head`; None where theta has none (the paper's Eq. 3)."""
        return None if self.head_name is None else getattr(self, self.head_name)

    def add_head(self, name: str, head: nn.Module) -> None:
        """Add a head under the name that its weights have in a file."""
        self.head_name = name
        self.add_module(name, head)

    def remove_value(self) -> None:
        """Leave phi alone."""
        if self.head_name is not None:
            delattr(self, self.head_name)
        self.value = self.head_name = None

    def start_value_stage(self, head: str | None, vocab_size: int) -> ActionModel:
        """Add theta, a copy of the trained phi (which shares a frozen base with it), and a head of
        `HEADS`, or none. ValueError on a name that is not there."""
        assert self.behavior is not None
        self.value = copy.deepcopy(self.behavior)
        if head is not None:
            if head not in HEADS:
                raise unknown("head", head, HEADS)
            self.add_head(head, HEADS[head](self.behavior.config.width, vocab_size))
        return self.value

    def load_behavior(self, weights: Mapping[str, Tensor]) -> ActionModel:
        """Give phi the `behavior.` part of saved weights, and return it."""
        assert self.behavior is not None
        self.behavior.load_state_dict(under(weights, "behavior."))
        return self.behavior

    def trunks(self) -> list[ActionModel]:
        """The transformers that are there, phi first."""
        return [m for m in (self.behavior, self.value) if m is not None]


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}


def frame_features(model: ActionModel, batch: TokenBatch) -> Float[Tensor, "b k m c"] | None:
    """Image tokens of every history frame: those of the batch, or encoded from its images."""
    if batch.features is not None or not batch.images:
        return batch.features
    b, k = batch.frame_mask.shape
    flat = {camera: x.flatten(0, 1) for camera, x in batch.images.items()}
    text = batch.text_ids.repeat_interleave(k, 0)
    return model.encode_images(flat, text).unflatten(0, (b, k))


def context_of(model: ActionModel, batch: TokenBatch) -> Context:
    """The part of a batch that a model reads before any action token."""
    features = frame_features(model, batch)
    return Context(
        features, batch.state, batch.frame_mask, batch.text_ids, batch.returns, batch.words
    )


def teacher_forced(model: ActionModel, batch: TokenBatch) -> ModelOutput:
    """Hidden states and logits at every token of the decisions in the batch."""
    seen = context_of(model, batch)
    return model(
        seen.features,
        seen.state,
        seen.frame_mask,
        seen.text_ids,
        batch.action_ids,
        seen.returns,
        seen.words,
    )


def first_token(model: ActionModel, batch: TokenBatch) -> ModelOutput:
    """Hidden state and logits before the first token: all that V(s) needs."""
    output, _ = model.prefill(*context_of(model, batch))
    return output


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
    """V(s) of the head; 1 where there is none (the paper's Eq. 3)."""
    if networks.head is None:
        return hidden.new_ones(hidden.shape[:-1])
    return networks.head.read(hidden).value
