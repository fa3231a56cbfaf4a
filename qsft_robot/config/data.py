"""Frozen settings of what is read from the logs, their contradictions refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qsft_robot.config.require import require

LogEnd = Literal["terminal", "truncated"]


@dataclass(frozen=True)
class DataConfig:
    """Settings of the data that is read from the logs."""

    # HDF5 file in robomimic's schema.
    path: Path = Path("logs.hdf5")
    # Low-dimensional observation keys, in this order. Empty: none (images only).
    state_keys: tuple[str, ...] = ()
    # Image observation keys, e.g. front_image wrist_image. Empty: none (state only).
    cameras: tuple[str, ...] = ()
    # Text observation keys, e.g. feedback. A policy that acts by text commands remembers its last
    # commands in any case.
    text_keys: tuple[str, ...] = ()
    # Low-dimensional keys that only the logs have (poses from a simulator or a tracker). The image
    # tokens learn to tell them in training; the policy neither gets nor needs them.
    auxiliary_keys: tuple[str, ...] = ()
    # The same for logs of text commands: the image tokens learn to tell what could be done, from
    # the admissible commands that the logs list.
    auxiliary_commands: bool = False
    # Train on the logs of this mask (mask/<name> in the file). None: all logs.
    filter_key: str | None = None
    # Hold the logs of this mask out of training; the calibration picture is of them. None: none
    # are held out.
    valid_key: str | None = None
    # Use only the first so many logs of the mask. None: all.
    max_episodes: int | None = None
    # Logs that are shorter than one chunk (--tokenizer.horizon): refuse them, keep them (past its
    # end a log repeats its last action, as at the end of every log), or drop them.
    short_logs: Literal["refuse", "keep", "drop"] = "refuse"
    # Instruction for every log; overrides what the file says.
    instruction: str | None = None
    # How an unsuccessful log ended: "terminal" (the failure is the outcome) or "truncated" (it was
    # cut while the task could go on). One word for all logs, or mask=word pairs, e.g.
    # drawer_open=truncated. Empty: as the file says, and terminal where it doesn't.
    log_end: tuple[str, ...] = ()
    # Give reward 1 at the first success and cut the log there (for files whose rewards are empty).
    success_reward: bool = False
    # Lowest discounted return that a log may have from any step on; one below is an error.
    return_low: float = 0.0
    # Highest such return; one above is an error.
    return_high: float = 1.0
    # Lowest action of the scale in the file, one number for each dimension or one for all. Empty:
    # actions must lie in [-1, 1].
    action_low: tuple[float, ...] = ()
    # Highest action of that scale.
    action_high: tuple[float, ...] = ()
    # Disk space that the decoded frames of this file may take, in GiB.
    frame_cache_gib: float = 8.0
    # Disk space that a frozen image tower's features of these frames may take, in GiB. 0: none, the
    # tower then runs on every batch.
    feature_cache_gib: float = 32.0

    def log_ends(self) -> LogEnd | dict[str, LogEnd] | None:
        """The flag as the reader takes it."""
        if not self.log_end:
            return None
        ends: dict[str, Any] = {}
        for word in self.log_end:
            mask, equals, end = word.rpartition("=")
            require(
                end in ("terminal", "truncated") and bool(mask) == bool(equals),
                f"--data.log-end {word!r}: give terminal, truncated, or mask=terminal|truncated.",
            )
            ends[mask] = end
        if "" in ends:
            require(
                len(ends) == 1, "--data.log-end: give one word for all logs or mask=word pairs."
            )
            return ends[""]
        return ends

    def __post_init__(self) -> None:
        require(
            bool(self.state_keys or self.cameras or self.text_keys),
            "give --data.state-keys, --data.cameras or --data.text-keys: the policy needs "
            "something to look at (qsft-robot inspect FILE lists the keys).",
        )
        require(
            bool(self.cameras) or not self.auxiliary_keys,
            "--data.auxiliary-keys teaches image tokens: it needs --data.cameras.",
        )
        require(
            bool(self.cameras) or not self.auxiliary_commands,
            "--data.auxiliary-commands teaches image tokens: it needs --data.cameras.",
        )
        require(
            self.return_low < self.return_high,
            "--data.return-low must be below --data.return-high.",
        )
        require(
            len(self.action_low) == len(self.action_high),
            "--data.action-low and --data.action-high need the same number of values.",
        )
        require(
            self.max_episodes is None or self.max_episodes >= 1,
            "--data.max-episodes must be at least 1; leave it out for all logs.",
        )
        self.log_ends()
