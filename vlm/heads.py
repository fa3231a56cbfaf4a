"""Heads on hidden states, and what each reads there: the value, and what tells actions apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Reading(NamedTuple):
    """A head's reading of a state."""

    value: Float[Tensor, "b n"]  # V in [0, 1]
    advantage: Float[Tensor, "b n v"] | None = None  # Q - V of every token, where it has Q


def logit(mean: float) -> float:
    """log(mean / (1 - mean)), the mean kept in [1e-4, 1 - 1e-4]."""
    mean = min(max(float(mean), 1e-4), 1 - 1e-4)
    return math.log(mean) - math.log1p(-mean)


@torch.no_grad()
def start_last_layer(layers: nn.Sequential, mean: float) -> None:
    """Make a perceptron of logits say `mean` whatever it is given."""
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.fill_(logit(mean))


class VoidHead(nn.Module):
    """logit V = b0 + u . h with u = 0 at the start, so that V is one number in every state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def start_at(self, mean_target: float) -> None:
        """Set u = 0 and b0 = logit(mean_target); the mean is kept in [1e-4, 1 - 1e-4]."""
        self.weight.zero_()
        self.bias.fill_(logit(mean_target))

    def forward(self, hidden: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch"]:
        """The logit of V, in float32 whatever the model's dtype."""
        # Not a matrix product, which autocast would compute in its own type.
        return (hidden.float() * self.weight.float()).sum(-1) + self.bias.float()

    def read(self, hidden: Float[Tensor, "b n c"]) -> Reading:
        """V, of what is no void."""
        return Reading(torch.sigmoid(self(hidden).float()))


class AuxiliaryHead(nn.Module):
    """Image tokens and state of one frame to numbers that only the logs know: an auxiliary task.

    An action says little about where its object is, under the noise of the log; a log from a
    simulator or a tracked scene says it plainly. Linear, so that the image tokens have to know.
    """

    def __init__(self, image_tokens: int, width: int, state_dim: int, outputs: int) -> None:
        super().__init__()
        self.out = nn.Linear(image_tokens * width + state_dim, outputs)

    def forward(
        self, features: Float[Tensor, "b m c"], state: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b a"]:
        """The (normalized) numbers."""
        return self.out(torch.cat([features.flatten(1), state], -1))


class ValueHeads(nn.Module):
    """Q of every token and V of every prefix, unbounded (ILQL's heads).

    Each is a two-layer perceptron whose last layer starts at zero, so that both start at 0.
    """

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__()
        self.action_value = _head(width, vocab)
        self.state_value = _head(width, 1)

    def forward(
        self, hidden: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b n v"], Float[Tensor, "b n"]]:
        """(Q [b, n, v], V [b, n])."""
        return self.action_value(hidden), self.state_value(hidden).squeeze(-1)

    def read(self, hidden: Float[Tensor, "b n c"]) -> Reading:
        """V kept to [0, 1], and Q - V."""
        q, v = self(hidden.float())
        return Reading(v.clamp(0.0, 1.0), q - v.unsqueeze(-1))


class TokenValueHead(nn.Module):
    """Q of every token, a probability; the same for all tokens and states at the start."""

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__()
        self.action_value = _head(width, vocab)

    def start_at(self, mean_target: float) -> None:
        """Set every Q to the mean target, kept in [1e-4, 1 - 1e-4]."""
        start_last_layer(self.action_value, mean_target)

    def forward(self, hidden: Float[Tensor, "b n c"]) -> Float[Tensor, "b n v"]:
        """Q in [0, 1]."""
        return torch.sigmoid(self.action_value(hidden))

    def read(self, hidden: Float[Tensor, "b n c"]) -> Reading:
        """The largest Q, and what every token lacks of it."""
        q = self(hidden.float())
        value = q.amax(-1)
        return Reading(value, q - value.unsqueeze(-1))


def _head(width: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(2 * width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), last)
