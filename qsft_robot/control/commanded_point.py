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
        """The robot was laid out anew: the hand stands."""
        # The hand [3] and the lowest and highest base [3], meters: as looked at since the last
        # displacement went out, and of that displacement itself.
        self._now: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        # Whether the hand was seen just before the last displacement, and the least and the most
        # that it added.
        self._seen = False
        self._step = np.zeros(3), np.zeros(3)

    def look(self, hand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest base [3] for the command that will be sent after the hand was seen at
        `hand` [3], meters."""
        low = high = hand
        if self._before is not None:
            earlier, low, high = self._before
            least, most = self._step
            low, high = low + least, high + most
            if self._seen:
                # A hand that was pushed on in the same direction has shown how far it had come when
                # that command arrived; so a goal that something keeps the hand from is forgotten.
                on = np.maximum(earlier, hand) + self._leash + most
                back = np.minimum(earlier, hand) - self._leash + least
                high = np.where(least >= 0, np.minimum(high, on), high)
                low = np.where(most <= 0, np.maximum(low, back), low)
            low, high = self._drawn(hand, low, high)
        self._now = (hand, low, high)
        return low, high

    def sent(self, step: np.ndarray) -> None:
        """A displacement `step` [3], meters, went out, after a look or in the dark: a hold at a
        reading that nobody believes is added to the goal of the command before like any other."""
        self._seen = self._now is not None
        if self._now is not None:
            self._before = self._now
        elif self._before is not None:
            hand, low, high = self._before
            low, high = self._drawn(hand, low + self._step[0], high + self._step[1])
            self._before = hand, low, high
        self._now = None
        self._step = np.asarray(step, np.float64), np.asarray(step, np.float64)

    def told(self, step: np.ndarray) -> None:
        """The robot says that it added `step` instead of the last one, which may be so or not."""
        least, most = self._step
        self._step = np.minimum(least, step), np.maximum(most, step)

    def _drawn(
        self, hand: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Widened by where a base between `low` and `high` is drawn to by a hand at `hand`."""
        leash = self._leash
        return (
            np.minimum(low, hand + np.clip(low - hand, -leash, leash)),
            np.maximum(high, hand + np.clip(high - hand, -leash, leash)),
        )
