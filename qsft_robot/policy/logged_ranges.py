"""Readings far from what a policy's logs had: another unit, another order, a broken sensor."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qsft_robot.normalize import CONSTANT_STD
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.types import Observation, Policy

# A reading this many times the logs' span away from them is another unit or another order.
_FAR = 3.0
# Folders of before `state_range` tell mean and deviation alone: almost all rows lie within these.
_DEVIATIONS = 3.0
_LEAST_SPAN = 1e-3


@dataclass(frozen=True)
class FarReading:
    """One number of the state, and the range that the logs had."""

    key: str
    index: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"state {self.key!r}[{self.index}] reads {self.value:.4g}, the logs had "
            f"{self.low:.4g} to {self.high:.4g}"
        )


@dataclass(frozen=True)
class LoggedRanges:
    """The range of every state key in the logs: key -> [s] each."""

    low: Mapping[str, np.ndarray]
    high: Mapping[str, np.ndarray]
    # key -> [s], True for numbers that never changed there; the policy does not read them
    constant: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, description: PolicyDescription) -> LoggedRanges:
        """The ranges that policy.json tells, or mean and deviation stand for in older folders."""
        low, high, constant = {}, {}, {}
        for key, mean in description.norm_stats.mean.items():
            std = description.norm_stats.std[key]
            low[key], high[key] = mean - _DEVIATIONS * std, mean + _DEVIATIONS * std
            constant[key] = std < CONSTANT_STD
        for key, span in description.state_range.items():
            low[key], high[key] = np.asarray(span.low), np.asarray(span.high)
            constant.setdefault(key, np.zeros(low[key].shape, bool))
        return cls(low, high, constant)

    def far(
        self, state: Mapping[str, np.ndarray], keys: Sequence[str] | None = None
    ) -> Iterator[FarReading]:
        """The first far reading of each of the `keys` (None: all that are known, with the numbers
        that never changed in the logs, too)."""
        for key in self.low if keys is None else keys:
            low, high, row = self.low[key], self.high[key], np.asarray(state.get(key), np.float64)
            if row.shape != low.shape:
                continue  # told elsewhere, where it is one of the policy's keys
            beyond = np.maximum(low - row, row - high)
            far = beyond > _FAR * np.maximum(high - low, _LEAST_SPAN)
            if keys is not None:
                far &= ~self.constant[key]
            if far.any():
                i = int(np.flatnonzero(far)[0])
                yield FarReading(key, i, float(row[i]), float(low[i]), float(high[i]))


class WatchedReadings:
    """A `Policy` whose far readings are counted and said once a key; with `refuse` it does not
    decide on them, which leaves the arm holding."""

    def __init__(self, policy: Policy, description: PolicyDescription, refuse: bool) -> None:
        self._policy, self._description, self._refuse = policy, description, refuse
        self._ranges = LoggedRanges.of(description)
        self._keys = description.state_keys
        # state key -> decisions that were asked for at far readings of it
        self.counts: Counter[str] = Counter()

    @property
    def description(self) -> PolicyDescription:
        """The policy's own, which a server may exchange."""
        told: PolicyDescription = getattr(self._policy, "description", self._description)
        return told

    def reset(self, seed: int = 0) -> None:
        """Begin an episode in the policy."""
        self._policy.reset(seed)

    def infer(self, observation: Observation) -> np.ndarray:
        """The policy's action chunk; ValueError at far readings that are to be refused."""
        found = list(self._ranges.far(observation.state, self._keys))
        for reading in found:
            self.counts[reading.key] += 1
            if self.counts[reading.key] == 1 and not self._refuse:
                warnings.warn(f"{reading}; --refuse-far holds the arm instead", stacklevel=2)
        if found and self._refuse:
            raise ValueError(f"{found[0]}, and --refuse-far is given")
        return self._policy.infer(observation)
