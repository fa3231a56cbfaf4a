"""Settings of a Decision Transformer, whose trunk may be a language model (LaMo)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qsft_robot.config.require import require


@dataclass(frozen=True)
class LaMoConfig:
    """A Decision Transformer, on a language model or from scratch."""

    # tokens: a distribution over action tokens; continuous: the mean squared error of actions
    # behind a tanh, which acts at the nearest bin (--tokenizer.kind uniform_bins or quantile_bins).
    head: Literal["tokens", "continuous"] = "tokens"
    # Before and behind the trunk: mlp, perceptrons with a skip, or linear, one matrix.
    embeddings: Literal["mlp", "linear"] = "mlp"
    # Return that the policy asks for, in the rewards' own units, undiscounted. None: the mean
    # return of the best tenth of the training logs.
    target_return: float | None = None
    # Text whose next words the trunk goes on predicting, an auxiliary task. None: off.
    text: Path | None = None
    # Weight of that task.
    text_weight: float = 0.1
    # Passages of text in a batch.
    text_batch: int = 8
    # Tokens of a passage.
    text_length: int = 128

    def __post_init__(self) -> None:
        require(
            self.text_weight > 0, "--lamo.text-weight must be positive; --lamo.text turns it on."
        )
        require(self.text_batch >= 1, "--lamo.text-batch must be at least 1.")
        require(self.text_length >= 2, "--lamo.text-length must be at least 2.")
