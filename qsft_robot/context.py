"""Windows of a decision: the rows of a log, or the entries of an episode, that it sees.

One rule for the batches of training and for every policy that acts: a window of k holds the present
decision and the k - 1 decisions before it, newest last. A policy that acts in chunks of h actions
looks once a chunk, so decisions lie h rows apart. Where the episode is younger than the window, the
present row stands in and is marked as not seen.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

Entry = TypeVar("Entry")


def rows_seen(
    rows: Int64[np.ndarray, " b"], first: Int64[np.ndarray, " b"], history: int, horizon: int
) -> tuple[Int64[np.ndarray, "b k"], Bool[np.ndarray, "b k"]]:
    """The rows in the windows of decisions at `rows`, and which of them are seen.

    `first` is the first row of each one's log, `history` is k, `horizon` is h.
    """
    window = rows[:, None] - np.arange(history - 1, -1, -1) * horizon
    seen = window >= first[:, None]
    return np.where(seen, window, rows[:, None]), seen


class History(Generic[Entry]):
    """The window of an episode that is being played, one entry a decision."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._entries: deque[Entry] = deque(maxlen=length)

    def push(self, entry: Entry) -> None:
        """Add the present decision's; the oldest leaves a full window."""
        self._entries.append(entry)

    def window(self) -> list[Entry]:
        """As many entries as the window is long, newest last; the present one stands in."""
        newest = self._entries[-1]
        return [newest] * (self.length - len(self._entries)) + list(self._entries)

    def seen(self) -> Bool[np.ndarray, " k"]:
        """Which entries of `window` are seen."""
        return np.arange(self.length) >= self.length - len(self._entries)

    def entries(self) -> list[Entry]:
        """Those that are seen, newest last."""
        return list(self._entries)


class Memory:
    """Memory of one episode."""

    def __init__(self, history: int, text_history: int, encoders: int, seed: int) -> None:
        self.states: History[np.ndarray] = History(history)  # normalized state vectors
        # Image tokens, one history an image encoder; of the type that the policy computes with.
        self.features: list[History] = [History(history) for _ in range(encoders)]
        # The command that led to each step, and what was said there.
        self.steps: History[tuple[str, list[str]]] = History(text_history)
        self.words: History[np.ndarray] = History(text_history)  # the same, as ids
        self.command = ""  # the last one
        self.generator = np.random.default_rng(seed)
