"""A summary of logs: keys, shapes, ranges, returns, success, ends, instructions, masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsft_robot.logs.doctor.finding import Finding
from qsft_robot.logs.doctor.frames import FrameDigests
from qsft_robot.logs.ends import OUTCOME, UNTOLD
from qsft_robot.normalize import CONSTANT_STD
from qsft_robot.types import ADMISSIBLE, Episode, is_text

TEXT = "text"
# Fewer successes than this share are few; in logs of at least so many steps they teach V little.
_RARE, _LONG = 0.1, 100


def rare_success(successes: int, lengths: Sequence[int]) -> str | None:
    """The note on files where few of many long logs succeed; None elsewhere, and without a
    success, of which other words tell."""
    usual = float(np.median(lengths)) if len(lengths) else 0.0
    if not 0 < successes < _RARE * len(lengths) or usual < _LONG:
        return None
    return (
        f"{successes} of {len(lengths)} logs succeed ({successes / len(lengths):.1%}), in logs of "
        f"{usual:.0f} steps: V is near 0 almost everywhere, so it takes many updates, or more logs "
        "that succeed, before it tells actions apart."
    )


@dataclass
class KeySummary:
    """One observation key, or the actions, over all steps."""

    shape: tuple[int, ...]
    dtype: str  # "text" where the rows are str: low and high are then their lengths
    low: np.ndarray  # [s]; one number for images
    high: np.ndarray

    @property
    def constant(self) -> list[int]:
        """Dimensions that never change."""
        return np.flatnonzero(self.high - self.low < CONSTANT_STD).tolist()


@dataclass
class DataSummary:
    """Summary of a set of logs; returns are undiscounted."""

    path: str
    environment: str
    episodes: int = 0
    steps: int = 0
    lengths: list[int] = field(default_factory=list)
    keys: dict[str, KeySummary] = field(default_factory=dict)
    actions: KeySummary | None = None
    returns: list[float] = field(default_factory=list)
    rewarded: bool = False
    successes: int = 0
    # logs of which nobody told whether they succeeded
    untold: int = 0
    terminated: int = 0
    truncated: int = 0
    # filter key -> (episodes, successes)
    masks: dict[str, tuple[int, int]] = field(default_factory=dict)
    # instruction -> episodes
    instructions: dict[str, int] = field(default_factory=dict)
    # The gravest first
    findings: list[Finding] = field(default_factory=list)
    # text commands that were not among the admissible ones of their step
    foreign_commands: int = 0

    @property
    def success_rate(self) -> float:
        return self.successes / self.episodes

    @property
    def warnings(self) -> list[str]:
        """The sentences of all findings."""
        return [finding.message for finding in self.findings]

    def add(self, episode: Episode, frames: Mapping[str, FrameDigests]) -> None:
        """Count one log; its images come as digests."""
        self.episodes += 1
        self.steps += len(episode)
        self.lengths.append(len(episode))
        self.returns.append(float(episode.rewards.sum()))
        self.rewarded |= bool(episode.rewards.any())
        self.successes += episode.success
        self.untold += episode.attributes.get(OUTCOME) == UNTOLD
        self.terminated += episode.terminated
        self.truncated += episode.truncated
        text = episode.instruction
        self.instructions[text] = self.instructions.get(text, 0) + 1
        found = {key: _of_rows(x) for key, x in {**episode.observations, **episode.texts}.items()}
        found |= {key: _of_frames(x) for key, x in frames.items()}
        for key, here in found.items():
            self.keys[key] = _join(self.keys.get(key), here)
        self.actions = _join(self.actions, _of_rows(episode.actions))
        if episode.has_commands and ADMISSIBLE in episode.texts:
            admissible = [text.split("\n") for text in episode.texts[ADMISSIBLE]]
            self.foreign_commands += sum(
                action not in commands
                for action, commands in zip(episode.actions, admissible, strict=False)
            )

    def add_masks(self, masks: Mapping[str, Sequence[str]], success: Mapping[str, bool]) -> None:
        """Count the logs and successes of every mask; `success`: log -> whether it succeeded."""
        for key, names in masks.items():
            known = [success[name] for name in names if name in success]
            self.masks[key] = (len(known), sum(known))

    def to_json(self) -> dict[str, Any]:
        """Plain types, for `inspect --json`."""
        actions = {"actions": self.actions} if self.actions else {}
        return {
            "path": self.path,
            "environment": self.environment,
            "demonstrations": self.episodes,
            "steps": self.steps,
            "successes": self.successes,
            "untold": self.untold,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "returns": [min(self.returns), max(self.returns)] if self.returns else None,
            "lengths": [min(self.lengths), max(self.lengths)] if self.lengths else None,
            "keys": {
                key: {
                    "shape": list(x.shape),
                    "dtype": x.dtype,
                    "low": float(np.min(x.low)),
                    "high": float(np.max(x.high)),
                }
                for key, x in {**self.keys, **actions}.items()
            },
            "instructions": self.instructions,
            "masks": {
                key: {"demonstrations": n, "successes": k} for key, (n, k) in self.masks.items()
            },
            "findings": [finding.to_json() for finding in self.findings],
        }


def _of_rows(rows: np.ndarray) -> KeySummary:
    if is_text(rows):
        lengths = np.array([len(x) for x in rows])
        return KeySummary((), TEXT, lengths.min(keepdims=True), lengths.max(keepdims=True))
    return KeySummary(rows.shape[1:], str(rows.dtype), rows.min(axis=0), rows.max(axis=0))


def _of_frames(frames: FrameDigests) -> KeySummary:
    low, high = frames.low.min(keepdims=True), frames.high.max(keepdims=True)
    return KeySummary(frames.shape, "uint8", low, high)


def _join(before: KeySummary | None, here: KeySummary) -> KeySummary:
    if before is None:
        return here
    low, high = np.minimum(here.low, before.low), np.maximum(here.high, before.high)
    return KeySummary(here.shape, here.dtype, low, high)
