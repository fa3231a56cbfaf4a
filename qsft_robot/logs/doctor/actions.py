"""Checks of actions: saturated, and shifted in time against the states that they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsft_robot.logs.doctor.finding import Finding, Where, whole
from qsft_robot.logs.doctor.log import Log, LogSet
from qsft_robot.logs.doctor.motion import state_scales

# Values of an action dimension that is a switch, a gripper say: at its ends by design.
_SWITCH = 3
# Share of a log at one end of a dimension, and how far beyond most logs, that is saturated.
_SATURATED, _BEYOND = 0.5, 0.35
# Share of the steps of all logs at one end that no control by hand or by a policy has.
_ALL_SATURATED = 0.9
_FEWEST_STEPS = 8
# Steps of shift that are looked for.
_SHIFTS = np.arange(-4, 5)
# Correlation of an action with a state's change below which it tells nothing.
_TELLS = 0.3
# Correlation from which all logs are judged: a controller's answer to what it sees is a weaker one.
_SURE = 0.6
# How much better another shift must be, and how much nearer the log's curve of correlations must
# come to that of the other logs, moved so far. Clean logs that have their best shift beside the
# usual one lie at 1.3 and more, shifted ones below .3.
_BETTER, _NEARER = 0.01, 0.4


def saturated_action(logs: LogSet) -> list[Finding]:
    """An action dimension stays at its limit, in some logs or in all. Switches are none."""
    there = [x for x in logs.readable if x.actions.shape[1] and len(x) >= _FEWEST_STEPS]
    if not there:
        return []
    everything = np.concatenate([log.actions for log in there])
    where: dict[str, set[int]] = {}
    everywhere = []
    for i in range(everything.shape[1]):
        if len(np.unique(everything[:, i])) <= _SWITCH:
            continue
        shares = np.array([_at_an_end(log.actions[:, i]) for log in there])
        usual = float(np.median(shares))
        if usual >= _ALL_SATURATED:
            everywhere.append(i)
            continue
        for log, share in zip(there, shares, strict=True):
            if share >= max(_SATURATED, usual + _BEYOND) and len(there) > 1:
                where.setdefault(log.name, set()).add(i)
    found = []
    if everywhere:
        message = (
            f"dimension {_listed(everywhere)} is at its limit at nearly every step of nearly every "
            "log: the actions were clipped, or are in other units than their limits."
        )
        found.append(Finding("saturated-action", "warning", message))
    if where:
        which = sorted(set().union(*where.values()))
        message = (
            f"dimension {_listed(which)} stays at one value, the log's largest or smallest, for "
            "most of the log, which it does not elsewhere: clipped on the way to the file?"
        )
        found.append(Finding("saturated-action", "warning", message, whole(where)))
    return found


def _at_an_end(values: np.ndarray) -> float:
    """Share of the steps at the log's largest or smallest value, where it takes others too."""
    low, high = values.min(), values.max()
    if low == high:
        return 0.0
    # One step is always there; a limit is met again and again.
    ends = [(values == end).sum() for end in (low, high)]
    return float(sum(n for n in ends if n > 1) / len(values))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


@dataclass(frozen=True)
class _Response:
    """How strongly actions go with the states' changes, by shift: [logs, shifts]."""

    scores: np.ndarray
    usual: np.ndarray  # [shifts], the median over logs

    @property
    def shift(self) -> int:
        """Index of the usual shift."""
        return int(self.usual.argmax())

    @property
    def sharpness(self) -> float:
        """Its lead over the shifts beside it."""
        at = self.shift
        beside = [self.usual[i] for i in (at - 1, at + 1) if 0 <= i < len(self.usual)]
        return float(self.usual[at] - max(beside))


def action_offset(logs: LogSet) -> list[Finding]:
    """Actions go best with states of other steps than in the other logs, or of earlier steps."""
    there = [x for x in logs.readable if x.actions.shape[1] and x.state and len(x) >= 12]
    if not there:
        return []
    response = _response(there)
    if response is None:
        return []
    usual, found = response.shift, []
    if _SHIFTS[usual] < 0 and response.usual[usual] > _SURE and response.sharpness > 0.02:
        message = (
            f"an action goes with the step of the state {-_SHIFTS[usual]} before it in all logs: "
            "action and state are shifted against each other. An action stands beside what was "
            "seen before it."
        )
        found.append(Finding("action-offset", "error", message))
    if len(there) < 4:
        return found
    shifted: dict[int, Where] = {}
    for log, score in zip(there, response.scores, strict=True):
        best = int(score.argmax())
        if best != usual and score[best] - score[usual] > _BETTER and _moved(score, response):
            shifted.setdefault(int(_SHIFTS[best] - _SHIFTS[usual]), Where())[log.name] = []
    for shift, names in sorted(shifted.items()):
        way = "late" if shift < 0 else "early"
        message = (
            f"the actions stand {abs(shift)} step{'s' if abs(shift) > 1 else ''} too {way} beside "
            "the states, by the other logs. Shift them back, or leave the logs out."
        )
        found.append(Finding("action-offset", "warning", message, names))
    return found


def _moved(score: np.ndarray, response: _Response) -> bool:
    """Whether the curve of one log is that of most logs, moved to where its peak is."""
    shift = int(score.argmax()) - response.shift

    def distance(by: int) -> float:
        at = np.arange(max(0, shift), len(score) + min(0, shift))
        off = score[at] - response.usual[at - by]
        return float(np.var(off))

    return distance(shift) < _NEARER * distance(0)


def _response(logs: Sequence[Log]) -> _Response | None:
    """The response to actions, or to their changes (commands of positions), whichever is the
    stronger; None where actions tell nothing of the states."""
    scales = state_scales(logs)
    keys = [key for key in scales if scales[key].smooth.any() and all(key in x.state for x in logs)]
    if not keys:
        return None
    found = []
    for changes in (False, True):
        each = []
        for log in logs:
            rows = np.concatenate([log.state[k][:, scales[k].smooth] for k in keys], axis=1)
            actions = np.diff(log.actions, axis=0, prepend=log.actions[:1])
            each.append(_correlations(actions if changes else log.actions, rows))
        table = np.stack(each)  # [logs, shifts, d, s]
        usual = np.median(table, axis=0)
        action = np.arange(usual.shape[1])
        state = np.abs(usual).max(axis=0).argmax(axis=1)
        best = np.abs(usual[:, action, state])
        weight = np.where(best.max(axis=0) > _TELLS, best.max(axis=0), 0.0)
        if not weight.any():
            continue
        sign = np.sign(usual[best.argmax(axis=0), action, state])
        scores = (table[:, :, action, state] * sign * weight).sum(axis=-1) / weight.sum()
        found.append(_Response(scores, np.median(scores, axis=0)))
    return max(found, key=lambda x: x.usual.max(), default=None)


def _correlations(actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Correlation of each action dimension with each state's change, [shifts, d, s]."""
    change = np.diff(rows.astype(np.float64), axis=0)
    actions = actions[:-1].astype(np.float64)
    steps = len(actions)
    found = np.zeros((len(_SHIFTS), actions.shape[1], change.shape[1]), np.float32)
    for k, shift in enumerate(_SHIFTS):
        x = actions[max(0, -shift) : steps - max(0, shift)]
        y = change[max(0, shift) : steps - max(0, -shift)]
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        size = np.sqrt((x**2).sum(axis=0))[:, None] * np.sqrt((y**2).sum(axis=0))
        found[k] = np.divide(x.T @ y, size, out=np.zeros_like(size), where=size > 1e-9)
    return found
