"""Configuration of what a DecisionTransformer has beside an RTConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEADS = TOKENS, CONTINUOUS = ("tokens", "continuous")
EMBEDDINGS = MLP, LINEAR = ("mlp", "linear")


@dataclass(frozen=True)
class DecisionConfig:
    """Trunk, embeddings and head of a Decision Transformer; the last three fields it fills in."""

    # Numbers at the end of each frame's state: the actions before it, then the return to go.
    past_dim: int
    # "tokens": a distribution over action tokens; "continuous": a number for each action dimension.
    head: str = TOKENS
    # "mlp": perceptrons with a skip before and behind the trunk; "linear": one matrix.
    embeddings: str = MLP
    # Whether the instruction stands before the frames.
    reads_instruction: bool = False
    # Of the continuous head: center of the first bin and width of the bins, for each number.
    places: tuple[tuple[float, float], ...] = ()
    # Hub id, folder or GGUF file of the causal language model whose layers are the trunk; None: a
    # trunk from scratch.
    base: str | None = None
    # Layers of it that are kept, from the first; None: all.
    layers: int | None = None
    # Its architecture with random weights.
    random_weights: bool = False
    # Rank of the LoRA adapters on the kept layers; 0 trains all of their weights.
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    # Commit of the hub repository; None takes the newest and records it.
    revision: str | None = None
    # Identity of the base, and transformers' configuration of the kept layers.
    fingerprint: str = ""
    language_model: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # JSON has lists where Python has tuples.
        places = tuple((float(first), float(width)) for first, width in self.places)
        object.__setattr__(self, "places", places)
        for name, known in (("head", HEADS), ("embeddings", EMBEDDINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; there are: {', '.join(known)}."
                )
        if self.past_dim < 2:
            raise ValueError(f"past_dim is {self.past_dim}: an action and the return to go.")
        if (self.head == CONTINUOUS) != bool(self.places):
            raise ValueError("places belong to the continuous head, which needs them.")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers is {self.layers}; at least 1 is kept.")
        if self.random_weights and self.lora_rank:
            raise ValueError("random weights can't carry an adapter: set lora_rank to 0.")
