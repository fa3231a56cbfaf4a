"""Runs of steps in which a signal stood still although it should have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Fewest steps in which the rest moved and the signal did not.
SHORTEST = 5
# Fewest moving steps on which a whole log, or data set, is judged.
_ENOUGH = 10
# Share of the moving steps at which a signal changes that is taken to change always.
_ALWAYS = 0.95
# For one value of many, which may rest by itself: its longest run where it does not hang, where it
# does, and the share of logs in which it may.
_NEVER_RESTS, _HANGS, _RARE = 2, 10, 0.1
# Logs that tell whether a value never rests.
_MANY = 20
# How many times longer than the usual longest run.
_LONGER = 3.0


@dataclass(frozen=True)
class Signal:
    """One signal in one log: whether it changed at each step after the first, and whether it had
    reason to. bool [t - 1] each."""

    log: str
    changed: np.ndarray
    moving: np.ndarray

    @property
    def share(self) -> float:
        """Share of the moving steps at which it changed."""
        return float(self.changed[self.moving].mean()) if self.moving.any() else np.nan


def stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _share_outside(signal: Signal) -> float:
    """Share of the moving steps at which it changed, its longest run left out."""
    a, b = max(stretches(~signal.changed), key=lambda run: run[1] - run[0], default=(0, -1))
    kept = signal.moving.copy()
    kept[a : b + 1] = False
    return float(signal.changed[kept].mean()) if kept.any() else 0.0


def frozen(signals: Sequence[Signal]) -> tuple[bool, dict[str, list[tuple[int, int]]]]:
    """Whether the signal never changes in any log, and log -> its frozen steps [first, last].

    What a signal usually does decides: one that changes at nearly every moving step is frozen where
    it stands still for 5 of them, and for 3 times the longest run of most logs; one that often
    rests is frozen only where it stands still all through a log.
    """
    judged = [s for s in signals if s.moving.sum() >= SHORTEST]
    if not judged:
        return False, {}
    shares = np.array([s.share for s in judged])
    moving = sum(int(s.moving.sum()) for s in judged)
    if not shares.any():
        return moving >= 2 * _ENOUGH, {}
    usual = float(np.median(shares))
    runs = [
        [(a, b, int(s.moving[a : b + 1].sum())) for a, b in stretches(~s.changed)] for s in judged
    ]
    longest = np.array([max((n for _, _, n in each), default=0) for each in runs])
    enough = max(SHORTEST, _LONGER * float(np.quantile(longest, 0.75)))
    if len(judged) < 4:  # too few to tell what is usual: the signal itself, outside of its run
        enough, usual = 2.0 * SHORTEST, max(map(_share_outside, judged))
    found: dict[str, list[tuple[int, int]]] = {}
    for signal, each in zip(judged, runs, strict=True):
        whole = signal.share == 0 and signal.moving.sum() >= _ENOUGH and usual >= 0.5
        held = [(a, b + 1) for a, b, n in each if usual >= _ALWAYS and n >= enough]
        if whole or held:
            found[signal.log] = held or [(0, len(signal.changed))]
    return False, found


def frozen_alone(signals: Sequence[Signal]) -> dict[str, list[tuple[int, int]]]:
    """Log -> frozen steps of one value that never rests in the other logs.

    A force without contact or a pose of an object rests now and then, in some logs briefly and in
    some for long; a sensor that hangs does so in few logs, for long, and never else.
    """
    runs = {
        s.log: [(a, b + 1, int(s.moving[a : b + 1].sum())) for a, b in stretches(~s.changed)]
        for s in signals
        if s.moving.any()
    }
    longest = {name: max((n for _, _, n in each), default=0) for name, each in runs.items()}
    hung = [name for name, n in longest.items() if n >= _HANGS]
    rest = [n for n in longest.values() if n < _HANGS]
    rests = max(rest, default=_HANGS) > _NEVER_RESTS or len(runs) < _MANY
    if rests or len(hung) > _RARE * len(runs):
        return {}
    return {name: [(a, b) for a, b, n in runs[name] if n >= _HANGS] for name in hung}
