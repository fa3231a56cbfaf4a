"""Ranges of actions and states in a set of logs, from which a robot's limits come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from qsft_robot.types import Episode


@dataclass(frozen=True)
class LogRanges:
    """Extremes over all rows of all logs, in the logs' own units; d = 0 for text commands."""

    # [d]: the smallest and largest action, and the largest change from one action to the next
    # within one log (0 where no log has two actions).
    low: np.ndarray
    high: np.ndarray
    largest_change: np.ndarray
    # state key -> smallest and largest, [s_key] each
    state: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, episodes: Iterable[Episode], keys: Sequence[str]) -> Self:
        """The extremes over `episodes` and their state `keys`; ValueError on no episodes."""
        episodes = list(episodes)
        if not episodes:
            raise ValueError("The ranges of logs need at least one log.")
        all_actions = [np.zeros((len(e), 0)) if e.has_commands else e.actions for e in episodes]
        changes = [np.abs(np.diff(actions, axis=0)) for actions in all_actions if len(actions) > 1]
        zero = np.zeros(all_actions[0].shape[1])
        rows = {key: [e.observations[key] for e in episodes] for key in keys}
        return cls(
            low=np.min([actions.min(axis=0) for actions in all_actions], axis=0),
            high=np.max([actions.max(axis=0) for actions in all_actions], axis=0),
            largest_change=np.max([c.max(axis=0) for c in changes], axis=0) if changes else zero,
            state={
                key: (
                    np.min([x.min(axis=0) for x in found], axis=0),
                    np.max([x.max(axis=0) for x in found], axis=0),
                )
                for key, found in rows.items()
            },
        )
