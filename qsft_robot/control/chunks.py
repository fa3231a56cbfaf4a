"""Action chunks in time: each starts at the tick it was decided for, a newer one blends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plan:
    """Actions [n, d] for the ticks `start`, `start` + 1, ..."""

    start: int
    actions: np.ndarray

    @property
    def end(self) -> int:
        """The first tick that it no longer covers."""
        return self.start + len(self.actions)

    def covers(self, tick: int) -> bool:
        return self.start <= tick < self.end


def blend(
    old: np.ndarray, new: np.ndarray, switches: Sequence[int] = (), ramp: int | None = None
) -> np.ndarray:
    """Pass over from `old` to `new`, both [m, d] for the same ticks: row i is
    (1 - w) old + w new with w = min(1, (i + 1) / (ramp + 1)), so neither end jumps.

    `ramp` is the rows of the passage, all m when None. `switches` are dimensions that say which,
    not how much: they are taken from `new`.
    """
    if old.shape != new.shape:
        raise ValueError(f"chunks to blend cover the same ticks, got {old.shape}, {new.shape}.")
    rows = len(new) if ramp is None else ramp
    weight = np.minimum(1.0, (np.arange(len(new)) + 1) / (rows + 1))[:, None]
    mixed = (1 - weight) * old + weight * new
    # 0 x NaN is NaN, and a broken old chunk must not outlive a good new one.
    mixed = np.where(np.isfinite(old), mixed, new)
    mixed[:, list(switches)] = new[:, list(switches)]
    return mixed.astype(np.float32)


class ChunkExecution:
    """The plan at hand; ticks are counted by the loop's own absolute grid.

    A chunk decided from the observation of tick j is for the ticks j, j + 1, ...: those that went
    by while it was computed are dropped, and what the old plan still covers is blended with it.
    """

    def __init__(
        self, switches: Sequence[int] = (), ramp: int | None = None, late_ticks: int = 1
    ) -> None:
        """`late_ticks`: how many ticks past its time an action that nothing replaced may run."""
        self._switches, self._ramp, self._late = tuple(switches), ramp, late_ticks
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._plan: Plan | None = None
        # First tick of the newest chunk, and the tick that the last executed action was meant for.
        self._decided_for = -1
        self._executed = -1

    def add(self, decided_for: int, actions: np.ndarray, now: int) -> None:
        """Take a chunk [h, d] that was decided from the observation of tick `decided_for`; `now`
        is the tick that will be executed next."""
        with np.errstate(over="ignore"):  # Inf is no action, and becomes a hold
            actions = np.array(actions, np.float32)  # the policy may use its array again
        if decided_for < self._decided_for:
            return  # overtaken by a newer one
        self._decided_for = decided_for
        new = Plan(decided_for, actions)
        old = self._plan
        if old is None or max(now, new.start) >= min(old.end, new.end):
            self._plan = new
            return
        first, last = max(now, new.start), min(old.end, new.end)
        merged = new.actions.copy()
        merged[first - new.start : last - new.start] = blend(
            old.actions[first - old.start : last - old.start],
            new.actions[first - new.start : last - new.start],
            self._switches,
            self._ramp,
        )
        self._plan = Plan(new.start, merged)

    def covers(self, tick: int) -> bool:
        """Whether the plan has an action for this very tick."""
        return self._plan is not None and self._plan.covers(tick)

    def used(self, tick: int) -> int:
        """How many ticks of the newest chunk have gone by at `tick`."""
        return tick - self._decided_for

    def take(self, tick: int) -> np.ndarray | None:
        """The action [d] to execute at `tick`, or None where there is none or it is stale."""
        plan = self._plan
        if plan is None or tick < plan.start:
            return None
        meant = min(tick, plan.end - 1)
        if meant <= self._executed or tick - meant > self._late:
            return None
        self._executed = meant
        return plan.actions[meant - plan.start]
