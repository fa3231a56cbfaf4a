"""Settings of how actions become tokens."""

from __future__ import annotations

from dataclasses import dataclass

from qsft_robot.config.require import require


@dataclass(frozen=True)
class TokenizerConfig:
    """How actions become tokens."""

    # quantile_bins (between the 1st and 99th percentile of each dimension), uniform_bins (over
    # [-1, 1]), commands (actions are text: one token a word, and an end), or a kind that an
    # installed package registers.
    kind: str = "quantile_bins"
    # Commands are decoded word by word as they come, not only those that the environment lists as
    # admissible.
    free: bool = False
    # Bins of each action dimension; one number for all dimensions.
    n_bins: int = 256
    # Actions of one decision (chunk length), executed one after the other.
    horizon: int = 1

    def __post_init__(self) -> None:
        require(self.n_bins >= 2, "--tokenizer.n-bins must be at least 2.")
        require(self.horizon >= 1, "--tokenizer.horizon must be at least 1.")
        require(
            self.kind != "commands" or self.horizon == 1,
            "--tokenizer.horizon is for the actions of an arm: a text command is decided alone.",
        )
        require(
            self.kind == "commands" or not self.free,
            "--tokenizer.free says how text commands are decoded: use --tokenizer.kind commands.",
        )
