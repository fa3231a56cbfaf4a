"""Frozen settings of the critic of whole decisions, their contradictions refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qsft_robot.config.require import require


@dataclass(frozen=True)
class CriticConfig:
    """The critic of whole decisions, which chooses among candidates: --acting.candidates."""

    # Updates of its stage, after the others. 0: no critic.
    updates: int = 0
    # Perceptrons for Q and V, each with a trunk of its own.
    members: int = 2
    # Inner width of these perceptrons.
    width: int = 256
    # Dropout of these perceptrons.
    dropout: float = 0.1
    # How the members' Q become one number: the smallest, or the mean.
    combine: Literal["min", "mean"] = "min"
    # 0: one-step targets, r + discount ** h V(s'); 1: the log's own return.
    lam: float = 0.0
    # V is this expectile of Q over the decisions of the logs: .5 is the behavior's value, towards 1
    # that of the best decision that the logs support.
    expectile: float = 0.7
    # Step of the slow copy of Q, which targets and V are read from, at each update.
    ema_rate: float = 0.005
    # Peak learning rate of the critic's stage.
    learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        require(self.updates >= 0, "--critic.updates must not be negative.")
        require(self.members >= 1, "--critic.members must be at least 1.")
        require(self.width >= 1, "--critic.width must be at least 1.")
        require(0 <= self.dropout < 1, "--critic.dropout must lie in [0, 1).")
        require(0 <= self.lam <= 1, "--critic.lam must lie in [0, 1].")
        require(0.5 <= self.expectile < 1, "--critic.expectile must lie in [0.5, 1).")
        require(0 < self.ema_rate <= 1, "--critic.ema-rate must lie in (0, 1].")
        require(self.learning_rate > 0, "--critic.learning-rate must be positive.")
