"""What actions and states a set of logs saw: the statistics that a robot's limits come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from qsft_robot.types import Episode


@dataclass(frozen=True)
class LogRanges:
    """Extremes over all rows of all logs, in the logs' own units."""

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
        changes = [np.abs(np.diff(e.actions, axis=0)) for e in episodes if len(e) > 1]
        zero = np.zeros(episodes[0].actions.shape[1])
        rows = {key: [e.observations[key] for e in episodes] for key in keys}
        return cls(
            low=np.min([e.actions.min(axis=0) for e in episodes], axis=0),
            high=np.max([e.actions.max(axis=0) for e in episodes], axis=0),
            largest_change=np.max([c.max(axis=0) for c in changes], axis=0) if changes else zero,
            state={
                key: (
                    np.min([x.min(axis=0) for x in found], axis=0),
                    np.max([x.max(axis=0) for x in found], axis=0),
                )
                for key, found in rows.items()
            },
        )

    def action_to_json(self) -> dict[str, Any]:
        """low, high, largest_change: one number a dimension."""
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "largest_change": self.largest_change.tolist(),
        }

    def state_to_json(self) -> dict[str, Any]:
        """state key -> low, high: one number a dimension."""
        return {
            key: {"low": low.tolist(), "high": high.tolist()}
            for key, (low, high) in self.state.items()
        }
