"""Projections before and behind the trunk: a perceptron with a skip, or one matrix."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlm.decision_transformer.config import LINEAR


class SkipPerceptron(nn.Module):
    """A matrix, and a two-layer perceptron beside it."""

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.skip = nn.Linear(inputs, outputs)
        self.first = nn.Linear(inputs, inner)
        self.second = nn.Linear(inner, outputs)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self.skip(x) + self.second(F.gelu(self.first(x)))


def projection(kind: str, inputs: int, outputs: int, inner: int) -> nn.Module:
    """A projection of one of EMBEDDINGS."""
    if kind == LINEAR:
        return nn.Linear(inputs, outputs)
    return SkipPerceptron(inputs, outputs, inner)
