"""Bounds on where displacements have sent a hand, a point that only the robot knows exactly."""

from __future__ import annotations

import numpy as np


class CommandedPoint:
    """Bounds, for each of x, y, z, the point that the next displacement will be added to.

    A robot adds it to base = hand + clip(goal - hand, +-leash), the hand being where it is when the
    command arrives: somewhere between where it was seen and the goal of the command before, for it
    went on while the policy was thinking. `leash` 0: it adds displacements to the hand itself.
    """

    def __init__(self, leash: float) -> None:
        self._leash = leash
        self.reset()

    def reset(self) -> None:
        """An episode begins: the hand stands."""
        # What is looked at now, and what was looked at as the last displacement went out: the
        # hand [3], and the lowest and highest base [3], meters.
        self._now: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._step = np.zeros(3)

    def look(self, hand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest base [3] for the command that will be sent after the hand was seen at
        `hand` [3], meters."""
        low = high = hand
        if self._before is not None:
            earlier, low, high = self._before
            low, high = low + self._step, high + self._step
            # A hand that was pushed on in the same direction has shown how far it had come when
            # that command arrived; so a goal that something keeps the hand from is forgotten.
            on = np.maximum(earlier, hand) + self._leash + self._step
            back = np.minimum(earlier, hand) - self._leash + self._step
            high = np.where(self._step >= 0, np.minimum(high, on), high)
            low = np.where(self._step <= 0, np.maximum(low, back), low)
            high = np.maximum(high, hand + np.clip(high - hand, -self._leash, self._leash))
            low = np.minimum(low, hand + np.clip(low - hand, -self._leash, self._leash))
        self._now = (hand, low, high)
        return low, high

    def sent(self, step: np.ndarray) -> None:
        """A displacement `step` [3], meters, went out after the last look."""
        if self._now is not None:
            self._before, self._step = self._now, np.asarray(step, np.float64)
