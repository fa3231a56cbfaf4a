"""The perceptron model: action tokens by residual perceptrons, for states on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlm.model import ModelOutput
from vlm.rt.config import RTConfig
from vlm.rt.context import ContextReader


class PrefixDecisions(ContextReader):
    """A base of models that decide on one vector: each action token reads it and the sum of the
    tokens before.

    Token i's input is that vector, a vector of place i, and the sum over j < i of token j's
    embedding times a gain of place j (as a neural autoregressive density estimator has it).
    """

    # Of each place, [n, c].
    gains: Tensor
    positions: Tensor
    # The tokens before tell a log from all others: what reads them whole learns it by heart.
    forgotten: nn.Module
    token_block: nn.Module
    norm: nn.Module
    head: nn.Module

    def decisions(
        self, context: Float[Tensor, "b c"], action_ids: Int64[Tensor, "b n"]
    ) -> ModelOutput:
        """Hidden states and logits of whole decisions; `action_ids[:, n - 1]` is never an input."""
        return self.output(self.inputs(context, action_ids))

    def inputs(
        self, context: Float[Tensor, "b c"], action_ids: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n c"]:
        """What `output` reads at every token of whole decisions."""
        before = self.forgotten(self.action_embedding(action_ids[:, :-1]) * self.gains[:-1])
        prefixes = F.pad(before.cumsum(1), (0, 0, 1, 0))
        return context[:, None] + prefixes + self.positions

    def output(self, x: Float[Tensor, "b n c"]) -> ModelOutput:
        """Hidden states and logits of inputs of action tokens."""
        hidden = self.hidden(x)
        return ModelOutput(hidden, self.head(hidden))

    def hidden(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Hidden states of inputs of action tokens."""
        return self.norm(self.token_block(x))


class PerceptronModel(PrefixDecisions):
    """The context as one vector, by perceptrons.

    An update costs a part of the transformer's, and few of them are needed: on 200 logs of states
    400 do what 1,500 of the transformer's do, and many more learn the logs by heart.
    """

    def __init__(self, config: RTConfig, load_image_weights: bool = True) -> None:
        super().__init__(config, load_image_weights)
        c, n = config.width, config.n_tokens
        self.joined = nn.Linear(config.context_length * c, c)
        self.gains = nn.Parameter(torch.randn(n, c))
        self.positions = nn.Parameter(torch.randn(n, c) * 0.5)
        self.forgotten = nn.Dropout(config.dropout)
        inner = round(config.mlp_ratio * c)
        # Rows of the tokens are n times those of the contexts: the depth stands before them.
        self.context_blocks = nn.Sequential(
            *(ResidualPerceptron(c, inner, config.dropout) for _ in range(config.depth))
        )
        self.token_block = ResidualPerceptron(c, inner, config.dropout)
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Nothing: the activations of perceptrons are few."""

    def forward(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        action_ids: Int64[Tensor, "b n"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> ModelOutput:
        """Hidden states [b, n, c] and logits [b, n, v]; index i has seen action tokens < i only.

        `action_ids[:, n - 1]` is never an input. The newest frame is the last; frames whose
        `frame_mask` is False have no effect.
        """
        tokens, _ = self._context(features, state, frame_mask, text_ids, returns, words)
        return self.decisions(self._joined(tokens), action_ids)

    @torch.no_grad()
    def prefill(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> tuple[ModelOutput, PrefixSum]:
        """Read the context: the output for action token 0 (n = 1), and what `decode` extends."""
        tokens, _ = self._context(features, state, frame_mask, text_ids, returns, words)
        cache = self.start(self._joined(tokens))
        return cache.output(), cache

    def start(self, context: Float[Tensor, "b c"]) -> PrefixSum:
        """A decision of which nothing was said."""
        return PrefixSum(self, context, 0)

    def _joined(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b c"]:
        """Context tokens as one vector."""
        return self.context_blocks(self.joined(tokens.flatten(1)))


@dataclass
class PrefixSum:
    """A decision as far as it is made: its context and the sum of its tokens, [b, c], growing."""

    model: PrefixDecisions
    sum: Tensor
    # Tokens read.
    length: int

    @torch.no_grad()
    def decode(self, ids: Int64[Tensor, " b"]) -> ModelOutput:
        """Read action tokens [b]; the output (n = 1) for the next."""
        if self.length + 1 >= self.model.config.n_tokens:
            raise ValueError(
                f"the decision is complete: it has {self.model.config.n_tokens} tokens."
            )
        embedded = self.model.action_embedding(ids)
        self.sum = self.sum + embedded * self.model.gains[self.length]
        self.length += 1
        return self.output()

    def output(self) -> ModelOutput:
        """The output (n = 1) for the next token."""
        return self.model.output(self.input())

    def input(self) -> Float[Tensor, "b 1 c"]:
        """What the model reads for the next token."""
        return (self.sum + self.model.positions[self.length])[:, None]


class ResidualPerceptron(nn.Module):
    """A two-layer perceptron behind a LayerNorm, added to its input."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return x + self.dropout(self.second(F.silu(self.first(self.norm(x)))))
