"""The outcome of a LeRobot episode: rewards, success and what its end means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qsft_robot.lerobot.columns import finite, marks, single
from qsft_robot.lerobot.format import ACTION, INFO, REWARD, SUCCESS, TRUNCATED, DataSet
from qsft_robot.logs.ends import LogEnd

# What marks success where the data set has no next.success.
SuccessRule = Literal["next.success", "reward", "all", "none"]


@dataclass(frozen=True)
class Outcomes:
    """Rewards, success and end of an episode, from its columns and what the caller said."""

    folder: Path
    columns: tuple[str, ...]
    rule: SuccessRule
    successful: frozenset[int] | None
    truncates: bool

    @classmethod
    def of(
        cls,
        data: DataSet,
        rule: SuccessRule,
        successful: Sequence[int] | None,
        failure_end: LogEnd,
    ) -> Outcomes:
        if rule == "next.success" and successful is None and SUCCESS not in data.features:
            raise ValueError(
                f"{data.folder / INFO}: no feature {SUCCESS}, so which episodes succeeded is "
                "unknown. Say so: --success all, none, reward (a positive next.reward), or the "
                "numbers of the episodes (--successful 0 3 7)."
            )
        if rule == "reward" and REWARD not in data.features:
            raise ValueError(f"{data.folder / INFO}: success by reward, but no feature {REWARD}.")
        there = {row["episode_index"] for row in data.episodes}
        for number in successful or ():
            if number not in there:
                raise ValueError(
                    f"{data.folder}: no episode {number}; there are {min(there)} to {max(there)}."
                )
        columns = tuple(n for n in (REWARD, SUCCESS, TRUNCATED) if n in data.features)
        chosen = None if successful is None else frozenset(successful)
        return cls(data.folder, columns, rule, chosen, failure_end == "truncated")

    @property
    def said(self) -> bool:
        """Whether the caller says which episodes succeeded, whatever the data set says."""
        return self.successful is not None or self.rule != "next.success"

    def __call__(self, number: int, found: Mapping[str, Any]) -> tuple[np.ndarray, bool, bool]:
        """Rewards float32 [t], success, and whether the log was cut."""
        steps = len(found[ACTION])
        where = f"{self.folder}: {{}} of episode {number}"
        rewards = None
        if REWARD in found:
            rewards = finite(where.format(REWARD), found[REWARD])
            rewards = single(where.format(REWARD), rewards)
        if self.successful is not None:
            succeeded = number in self.successful
        elif self.rule == "next.success":
            succeeded = bool(marks(where.format(SUCCESS), found[SUCCESS]).any())
        elif self.rule == "reward":
            succeeded = rewards is not None and bool((rewards > 0).any())
        else:
            succeeded = self.rule == "all"
        if rewards is None:
            rewards = np.zeros(steps, np.float32)
            rewards[-1] = succeeded
        cut = self.truncates
        if TRUNCATED in found:
            cut = bool(marks(where.format(TRUNCATED), found[TRUNCATED])[-1])
        return rewards, succeeded, cut and not succeeded
