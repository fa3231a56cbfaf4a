"""Settings of how actions become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from qsft_robot.config.require import require

# Settings that one kind alone has -> that kind.
_OF_KIND = {"points": "spline", "vocabulary": "fast", "scale": "fast", "max_tokens": "fast"}


@dataclass(frozen=True)
class TokenizerConfig:
    """How actions become tokens."""

    # quantile_bins (between the 1st and 99th percentile of each dimension), uniform_bins (over
    # [-1, 1]), fast (a chunk's cosine transform in byte pairs: few tokens, of varying number),
    # spline (a chunk's B-splines: few tokens, each prefix a coarser chunk), commands (actions are
    # text: one token a word, and an end), or a kind that an installed package registers.
    kind: str = "quantile_bins"
    # Commands are decoded word by word as they come, not only those that the environment lists as
    # admissible.
    free: bool = False
    # Commands are those that the logs hold, whole, and no others, in every state; needs no list of
    # admissible ones.
    closed: bool = False
    # Bins of each action dimension, or of each number of a spline; one number for all.
    n_bins: int = 256
    # Actions of one decision (chunk length), executed one after the other.
    horizon: int = 1
    # Of spline: control points of each dimension. None: a fifth of the horizon, 4 at least.
    points: int | None = None
    # Of fast: ids that there are at most. None: 1024.
    vocabulary: int | None = None
    # Of fast: what coefficients are multiplied by before they are rounded; twice as much halves the
    # error and takes more tokens. None: 10.
    scale: float | None = None
    # Of fast: tokens of one decision at most; longer chunks lose their fastest motion. None: what
    # 99.9 % of the chunks need.
    max_tokens: int | None = None
    # A code that qsft-robot fit-tokenizer wrote: its own kind and settings count. None: it is fit
    # on the logs.
    from_file: Annotated[Path | None, arg(name="from")] = None

    @property
    def reads_admissible(self) -> bool:
        """Whether each decision is among the commands that its observation lists."""
        return self.kind == "commands" and not (self.free or self.closed)

    def __post_init__(self) -> None:
        require(self.n_bins >= 2, "--tokenizer.n-bins must be at least 2.")
        require(self.horizon >= 1, "--tokenizer.horizon must be at least 1.")
        require(
            self.kind != "commands" or self.horizon == 1,
            "--tokenizer.horizon is for the actions of an arm: a text command is decided alone.",
        )
        for name in ("free", "closed"):
            require(
                self.kind == "commands" or not getattr(self, name),
                f"--tokenizer.{name} says how text commands are decoded: use --tokenizer.kind "
                "commands.",
            )
        for name, kind in _OF_KIND.items():
            require(
                getattr(self, name) is None or self.kind == kind,
                f"--tokenizer.{name.replace('_', '-')} is a setting of --tokenizer.kind {kind}, "
                f"not of {self.kind}.",
            )
        require(
            self.points is None or 1 <= self.points <= self.horizon,
            f"--tokenizer.points {self.points}: a chunk of --tokenizer.horizon {self.horizon} "
            "actions has 1 control point to as many as it has actions.",
        )
        require(
            self.vocabulary is None or 16 <= self.vocabulary <= 2**15,
            f"--tokenizer.vocabulary {self.vocabulary}: give 16 to {2**15}.",
        )
        require(
            self.scale is None or 0 < self.scale < 1e6,
            f"--tokenizer.scale {self.scale}: give a number above 0.",
        )
        require(
            self.max_tokens is None or self.max_tokens >= 1,
            "--tokenizer.max-tokens must be at least 1.",
        )
        require(
            self.from_file is None or self.kind != "commands",
            f"--tokenizer.from {self.from_file}: a code of an arm's actions, which "
            "--tokenizer.kind commands does not read.",
        )
        set_too = [name for name in _OF_KIND if getattr(self, name) is not None]
        require(
            self.from_file is None or not set_too,
            f"--tokenizer.from {self.from_file}: its settings stand in the file; leave "
            f"--tokenizer.{(set_too or [''])[0].replace('_', '-')} out.",
        )
