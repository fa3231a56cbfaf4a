"""Windows of a decision: the rows of a log, or the entries of an episode, that it sees.

One rule for the batches of training and for every policy that acts: a window of k holds what is
seen now and the k - 1 rows that lie `stride` apart before it, newest last. The stride is the number
of actions that are executed of each chunk, since a policy only looks when it decides. Where the
episode is younger than the window, the present row stands in and is marked as not seen. A policy
that executes another number of actions than its stride takes the entry that is nearest to each row
of the window: the very row where the stride is a multiple of that number.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

Entry = TypeVar("Entry")


def rows_seen(
    rows: Int64[np.ndarray, " b"], first: Int64[np.ndarray, " b"], history: int, stride: int
) -> tuple[Int64[np.ndarray, "b k"], Bool[np.ndarray, "b k"]]:
    """The rows in the windows of decisions at `rows`, and which of them are seen.

    `first` is the first row of each one's log, `history` is k.
    """
    window = rows[:, None] - np.arange(history - 1, -1, -1) * stride
    seen = window >= first[:, None]
    return np.where(seen, window, rows[:, None]), seen


class History(Generic[Entry]):
    """The window of an episode that is being played, of entries at the steps of decisions."""

    def __init__(self, length: int, stride: int = 1) -> None:
        self.length, self.stride = length, stride
        self._first = 0
        self._entries: deque[tuple[int, Entry]] = deque()

    def push(self, entry: Entry, step: int | None = None) -> None:
        """Add the present decision's, at a control step of the episode; None: a stride after the
        last. A step before the last one's begins anew."""
        if step is None:
            step = self._entries[-1][0] + self.stride if self._entries else 0
        if self._entries and step < self._entries[-1][0]:
            self._entries.clear()
        if not self._entries:
            self._first = step
        elif step == self._entries[-1][0]:
            self._entries.pop()
        self._entries.append((step, entry))
        oldest = step - (self.length - 1) * self.stride
        while len(self._entries) > 1 and self._entries[1][0] <= oldest:
            self._entries.popleft()

    def window(self) -> list[Entry]:
        """As many entries as the window is long, newest last; the present one stands in."""
        newest = self._entries[-1][1]
        found = zip(self._steps(), self.seen(), strict=True)
        return [self._nearest(step) if seen else newest for step, seen in found]

    def seen(self) -> Bool[np.ndarray, " k"]:
        """Which entries of `window` are seen."""
        return np.array([step >= self._first for step in self._steps()], bool)

    def entries(self) -> list[Entry]:
        """Those that are seen, newest last."""
        return [e for e, seen in zip(self.window(), self.seen(), strict=True) if seen]

    def _steps(self) -> list[int]:
        now = self._entries[-1][0]
        return [now - i * self.stride for i in range(self.length - 1, -1, -1)]

    def _nearest(self, step: int) -> Entry:
        """The entry whose step is nearest; of two as near the older."""
        return min(self._entries, key=lambda kept: abs(kept[0] - step))[1]


class Memory:
    """Memory of one episode."""

    def __init__(
        self, history: int, text_history: int, encoders: int, seed: int, stride: int = 1
    ) -> None:
        # Normalized state vectors.
        self.states: History[np.ndarray] = History(history, stride)
        # Image tokens, one history an image encoder; of the type that the policy computes with.
        self.features: list[History] = [History(history, stride) for _ in range(encoders)]
        # The command that led to each step, and what was said there.
        self.steps: History[tuple[str, list[str]]] = History(text_history, stride)
        self.words: History[np.ndarray] = History(text_history, stride)  # the same, as ids
        self.command = ""  # the last one
        # Normalized actions of the last decision, [h, d], where the policy reads them.
        self.actions: np.ndarray | None = None
        self.generator = np.random.default_rng(seed)
