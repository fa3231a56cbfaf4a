"""A critic of whole decisions: V of a context and Q of a context and a decision, by perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlm.heads import start_last_layer
from vlm.model import Context

# Name of a combination of an ensemble -> probabilities [m, b] to one each, [b].
COMBINE: dict[str, Callable[[Tensor], Tensor]] = {
    "min": lambda values: values.amin(0),
    "mean": lambda values: values.mean(0),
}


@dataclass(frozen=True)
class CriticShape:
    """Everything that decides the shapes of a DecisionCritic."""

    # Numbers of one decision (h * d), read as they are; 0 where decisions are read as tokens.
    action_numbers: int
    # Action tokens of one decision and of the vocabulary, read where there are no numbers.
    n_tokens: int
    vocab_size: int
    # Frames in a context (k) and the width of a frame's state (s).
    history: int
    state_dim: int
    # Image tokens of a frame (m) and their channels (c); 0 without cameras.
    image_tokens: int = 0
    image_width: int = 0
    # Rows of the embeddings of instruction words and of the words of the last steps; 0: none read.
    text_buckets: int = 4096
    word_buckets: int = 0
    # Perceptrons for V and for Q, each trained alone; their inner width and dropout.
    members: int = 2
    width: int = 256
    dropout: float = 0.1
    # How the members' Q become one: "min", the most pessimistic, or "mean".
    combine: str = "min"

    def __post_init__(self) -> None:
        for name in ("members", "width", "history", "n_tokens", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.combine not in COMBINE:
            raise ValueError(f"combine is {self.combine!r}; there are: {', '.join(COMBINE)}.")


class DecisionCritic(nn.Module):
    """An ensemble of V(s) and Q(s, a) with trunks of their own, as logits of a probability.

    The decision is read whole, as the numbers that the arm would get (near actions are near for the
    critic too) or, where an action is no number, as its tokens.
    """

    def __init__(self, config: CriticShape) -> None:
        super().__init__()
        self.config = config
        wide = config.history * (config.state_dim + 1)
        self.images: nn.Module | None = None
        if config.image_tokens:
            self.images = nn.Linear(config.image_tokens * config.image_width, config.width)
            wide += config.history * config.width
        self.text = MeanOfWords(config.text_buckets, 32)
        wide += 32
        self.words: nn.Module | None = None
        if config.word_buckets:
            self.words = MeanOfWords(config.word_buckets, 64)
            wide += 64
        self.tokens: nn.Embedding | None = None
        decision = config.action_numbers
        if not decision:
            self.tokens = nn.Embedding(config.n_tokens * config.vocab_size, 64)
            decision = 64
        members = range(config.members)
        self.state_value = nn.ModuleList(_perceptron(wide, config) for _ in members)
        self.action_value = nn.ModuleList(_perceptron(wide + decision, config) for _ in members)

    def start_at(self, mean_target: float) -> None:
        """Set V and Q to one number in every state, the mean target, kept in [1e-4, 1 - 1e-4]."""
        for member in (*self.state_value, *self.action_value):
            assert isinstance(member, nn.Sequential)
            start_last_layer(member, mean_target)

    def encode(self, context: Context) -> Float[Tensor, "b c"]:
        """A context as one vector; frames that are not there count as zeros."""
        seen = context.frame_mask.float()
        parts = [seen]
        if context.state is not None and self.config.state_dim:
            parts.append((context.state.float() * seen[..., None]).flatten(1))
        if self.images is not None:
            assert context.features is not None
            image = self.images(context.features.float().flatten(2))
            parts.append((image * seen[..., None]).flatten(1))
        parts.append(self.text(context.text_ids))
        if self.words is not None:
            assert context.words is not None
            parts.append(self.words(context.words.flatten(1)))
        return torch.cat(parts, -1)

    def values(self, encoded: Float[Tensor, "b c"]) -> Float[Tensor, "m b"]:
        """Logits of V of every member."""
        return torch.stack([member(encoded)[:, 0] for member in self.state_value])

    def action_values(
        self, encoded: Float[Tensor, "b c"], decision: Float[Tensor, "b a"]
    ) -> Float[Tensor, "m b"]:
        """Logits of Q of every member, for decisions as `read_decision` gives them."""
        both = torch.cat([encoded, decision], -1)
        return torch.stack([member(both)[:, 0] for member in self.action_value])

    def read_decision(
        self, ids: Int64[Tensor, "b n"], numbers: Float[Tensor, "b a"] | None
    ) -> Float[Tensor, "b a"]:
        """Numbers of decisions, or the mean embedding of their tokens at their places."""
        if self.tokens is None:
            assert numbers is not None
            return numbers.float()
        places = torch.arange(ids.shape[1], device=ids.device) * self.config.vocab_size
        return self.tokens(ids + places).mean(1)

    def scores(
        self, encoded: Float[Tensor, "b c"], decision: Float[Tensor, "b a"]
    ) -> Float[Tensor, " b"]:
        """Q of decisions in [0, 1], the members combined."""
        return COMBINE[self.config.combine](torch.sigmoid(self.action_values(encoded, decision)))

    def describe(self) -> dict[str, Any]:
        """The shape that `load_critic` reads; JSON types only."""
        return asdict(self.config)


def load_critic(description: Mapping[str, Any]) -> DecisionCritic:
    """Build the critic that a checkpoint describes, with its weights still to be loaded."""
    return DecisionCritic(CriticShape(**description))


class MeanOfWords(nn.Module):
    """Ids of words [b, l], 0 for none, to the mean of their embeddings [b, c]; zeros for no word.

    Ids beyond the table are folded into it.
    """

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, width)

    def forward(self, ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b c"]:
        is_word = (ids != 0).float()[..., None]
        rows = self.embedding(ids % self.embedding.num_embeddings)
        return (rows * is_word).sum(1) / is_word.sum(1).clamp(min=1.0)


def _perceptron(wide: int, config: CriticShape) -> nn.Sequential:
    width, dropout = config.width, config.dropout
    return nn.Sequential(
        nn.Linear(wide, width), nn.LayerNorm(width), nn.SiLU(), nn.Dropout(dropout),
        nn.Linear(width, width), nn.LayerNorm(width), nn.SiLU(), nn.Dropout(dropout),
        nn.Linear(width, 1),
    )  # fmt: skip
