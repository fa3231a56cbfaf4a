"""Settings of how a trained model chooses its tokens."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from qsft_robot.config.require import require
from qsft_robot.names import unknown


@dataclass(frozen=True)
class ActingConfig:
    """How a trained model chooses; saved with the checkpoint, changeable at evaluation."""

    # How the behavior network pi_phi and the value network's tokens p~ make a decision. power:
    # log pi = log pi_phi + k (log p~ - log pi_phi); ratio: pi_phi exp(beta Q);
    # paper: pi_phi exp(beta p_theta); advantage: pi_phi exp(beta (Q - V)) (value heads);
    # value: exp(beta Q) (Q-learning); behavior: pi_phi itself.
    rule: Literal["power", "ratio", "paper", "advantage", "value", "behavior"] = "power"
    # Strength of the improvement of rule power. 1 is p~ alone: one network, one forward pass.
    k: float = 1.0
    # Inverse temperature of the rules ratio, paper, advantage and value, and of a tilted judge.
    beta: float = 8.0
    # Support: tokens with pi_phi(a|s) >= support * max pi_phi. Not used where pi_phi isn't run.
    support: float = 0.05
    # Tokens less likely than this share of the likeliest one are cut.
    min_p: float = 0.3
    # 1 samples from what is left; 0 takes the likeliest token.
    temperature: float = 1.0
    # sample: a token by its probability, at that temperature. median: the token in the middle of
    # the distribution, in the order of the bins, which leaves out the noise that logged actions
    # have; for bins and splines.
    draw: Literal["sample", "median"] = "sample"
    # Return that the return-conditioned baseline is asked for, in [0, 1].
    target_return: float = 1.0

    # Decisions that are drawn by the rule above, of which the judge's best is taken. 1: one is
    # drawn, and nothing judges it.
    candidates: int = 1
    # critic: Q of the whole decision. likelihood: the rule's own probability pi of the whole
    # decision, whose likeliest token by token may be far from the likeliest (words of letters).
    # tilted: pi exp(beta Q), Q of the critic.
    judge: Literal["critic", "likelihood", "tilted"] = "critic"
    # Actions of a chunk that are executed before the next decision; None: all. With a history,
    # training takes it for the steps between two frames.
    execute: int | None = None

    @property
    def needs_critic(self) -> bool:
        """Whether a critic chooses among candidates."""
        return self.candidates > 1 and self.judge != "likelihood"

    @property
    def runs_behavior(self) -> bool:
        """Whether the rule needs phi: power with k = 1 is p~ alone, and value is Q alone."""
        return self.rule != "value" and not (self.rule == "power" and self.k == 1)

    def __post_init__(self) -> None:
        rules = typing.get_args(typing.get_type_hints(ActingConfig)["rule"])
        if self.rule not in rules:
            raise unknown("acting rule", self.rule, rules)
        require(self.candidates >= 1, "--acting.candidates must be at least 1.")
        require(
            self.draw in ("sample", "median"),
            f"--acting.draw {self.draw}: there are sample and median.",
        )
        judges = typing.get_args(typing.get_type_hints(ActingConfig)["judge"])
        require(
            self.judge in judges, f"--acting.judge {self.judge}: there are {', '.join(judges)}."
        )
        require(
            self.candidates == 1 or self.draw == "sample",
            "--acting.draw median gives one decision, and --acting.candidates draws several: use "
            "--acting.draw sample with them.",
        )
        require(self.k >= 0, "--acting.k must not be negative.")
        require(self.temperature >= 0, "--acting.temperature must not be negative.")
        require(0 <= self.min_p <= 1, "--acting.min-p must lie in [0, 1].")
        require(self.execute is None or self.execute >= 1, "--acting.execute must be at least 1.")
        require(0 <= self.support <= 1, "--acting.support must lie in [0, 1].")
