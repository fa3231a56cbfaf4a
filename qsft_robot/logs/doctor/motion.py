"""Checks of motion: states and actions that stand still, states that jump."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qsft_robot.logs.doctor.finding import Finding
from qsft_robot.logs.doctor.log import Log, LogSet
from qsft_robot.logs.doctor.runs import Signal, frozen, frozen_alone

# Share of the usual speed from which something counts as moving.
_MOVES = 0.3
# A dimension is followed step by step where its steps are small beside its spread (positions are,
# velocities and flags are not).
_SMOOTH = 0.5
# Values of a dimension that is a switch.
_FEW = 8
# Usual step of a value that the robot drives, beside its spread; an object trembles by less.
_DRIVEN = 0.01
# A jump, beside the largest usual step of its dimension and beside its spread.
_JUMP, _FAR = 6.0, 0.5
# Share of the dimensions that leap at once where two recordings were joined.
_AT_ONCE = 0.5


@dataclass(frozen=True)
class Scale:
    """Spread and usual steps of each dimension of one key, over all logs."""

    std: np.ndarray  # [s]
    step: np.ndarray  # [s], the 99.5 % quantile of |x[i + 1] - x[i]|
    smooth: np.ndarray  # bool [s], whether its steps are small beside its spread
    driven: np.ndarray  # bool [s], whether it moves along at most steps


def scale_of(rows: Sequence[np.ndarray]) -> Scale:
    """Scale of one key from its rows [t, s] in each log."""
    everything = np.concatenate(rows).astype(np.float64)
    steps = np.abs(np.concatenate([np.diff(x.astype(np.float64), axis=0) for x in rows]))
    std = everything.std(axis=0)
    if not len(steps):
        return Scale(std, np.zeros_like(std), *np.zeros((2, len(std)), bool))
    few = np.array([len(np.unique(x)) <= _FEW for x in everything.T], bool)
    typical = np.sqrt((steps**2).mean(axis=0))
    smooth = (std > 1e-9) & ~few & (typical < _SMOOTH * std)
    driven = np.median(steps, axis=0) > _DRIVEN * std
    return Scale(std, np.quantile(steps, 0.995, axis=0), smooth, driven)


def state_scales(logs: Sequence[Log]) -> dict[str, Scale]:
    """Key -> scale."""
    keys = {key: x.shape[1] for log in logs for key, x in log.state.items()}
    return {
        key: scale_of([x.state[key] for x in logs if key in x.state and len(x)]) for key in keys
    }


def speeds(rows: np.ndarray, std: np.ndarray) -> np.ndarray:
    """How far rows [t, s] move at each step after the first, in spreads: float [t - 1]."""
    there = std > 1e-9
    if not there.any() or len(rows) < 2:
        return np.zeros(max(0, len(rows) - 1))
    return np.sqrt((np.diff(rows[:, there], axis=0) / std[there]).__pow__(2).mean(axis=1))


def state_motion(logs: Sequence[Log], scales: Mapping[str, Scale]) -> dict[str, np.ndarray]:
    """Log -> bool [t - 1], whether any state key moves as much as it usually does."""
    moving = {log.name: np.zeros(max(0, len(log) - 1), bool) for log in logs}
    for key, scale in scales.items():
        found = {log.name: speeds(x, scale.std) for log, x in _with(logs, key)}
        _mark(moving, found)
    return moving


def action_motion(logs: Sequence[Log]) -> dict[str, np.ndarray]:
    """Log -> bool [t - 1], whether the action changes as much as it usually does."""
    moving = {log.name: np.zeros(max(0, len(log) - 1), bool) for log in logs}
    if not logs or not logs[0].actions.shape[1]:
        return moving
    std = scale_of([log.actions for log in logs]).std
    _mark(moving, {log.name: speeds(log.actions, std) for log in logs})
    return moving


def _mark(moving: dict[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    everything = np.concatenate([*found.values()]) if found else np.zeros(0)
    if not (everything > 0).any():
        return
    usual = float(np.median(everything[everything > 0]))
    for name, speed in found.items():
        moving[name] |= speed > _MOVES * usual


def _with(logs: Sequence[Log], key: str) -> list[tuple[Log, np.ndarray]]:
    return [(log, log.state[key]) for log in logs if key in log.state]


def frozen_state(logs: LogSet) -> list[Finding]:
    """The state stands still while the actions change, or one of its values while the rest moves.

    A value counts that changes at nearly every step elsewhere: an object that lies still is none.
    """
    there = [log for log in logs.readable if log.state]
    acting = action_motion(there)
    scales = state_scales(there)
    whole = [
        Signal(
            log.name,
            np.any([np.diff(x, axis=0).any(axis=1) for x in log.state.values()], axis=0),
            acting[log.name],
        )
        for log in there
    ]
    _, steps = frozen(whole)
    found = []
    if steps:
        found.append(
            Finding(
                "frozen-state",
                "warning",
                "the state stays the same to the bit while the actions change: the recorder or the "
                "robot's driver hung. Cut these steps, or leave the logs out.",
                steps,
            )
        )
    moving = state_motion(there, scales)
    for key, scale in scales.items():
        stuck: dict[str, list[tuple[int, int]]] = {}
        which = []
        for i in np.flatnonzero(scale.smooth & scale.driven):
            signals = [
                Signal(log.name, np.diff(x[:, i]) != 0, moving[log.name])
                for log, x in _with(there, key)
                if log.name not in steps
            ]
            if one := frozen_alone(signals):
                which.append(int(i))
                for name, at in one.items():
                    stuck.setdefault(name, at)
        if stuck:
            found.append(
                Finding(
                    "frozen-state",
                    "warning",
                    f"{key}: dimension {', '.join(map(str, which))} stays the same to the bit "
                    "while the rest moves: a sensor hung. Leave these logs out.",
                    stuck,
                )
            )
    return found


def frozen_action(logs: LogSet) -> list[Finding]:
    """The action stays the same while the state moves on."""
    there = [log for log in logs.readable if log.state and log.actions.shape[1]]
    moving = state_motion(there, state_scales(there))
    signals = [
        Signal(log.name, np.diff(log.actions, axis=0).any(axis=1), moving[log.name])
        for log in there
    ]
    always, steps = frozen(signals)
    if always:
        return [Finding("frozen-action", "error", "the actions never change although states do.")]
    if not steps:
        return []
    message = (
        "the action stays the same while the state moves on: the commands were not recorded. "
        "Leave these logs out."
    )
    return [Finding("frozen-action", "warning", message, steps)]


def state_jump(logs: LogSet) -> list[Finding]:
    """One frame of the state lies far off its neighbors, or the whole state leaps and stays."""
    there = [log for log in logs.readable if log.state]
    found = []
    for key, scale in state_scales(there).items():
        if not scale.smooth.any():
            continue
        for what, rule in (
            (
                "one frame lies far off the frames before and after it: a reading went wrong. "
                "Leave the log out, or put the mean of its neighbors there.",
                _spikes,
            ),
            (
                "all of it leaps from one step to the next and stays: frames are missing or two "
                "recordings were joined. Cut the log there.",
                _leaps,
            ),
        ):
            steps = _jumps(there, key, scale, rule)
            if steps:
                found.append(Finding("state-jump", "warning", f"{key}: {what}", steps))
    return found


Rule = Callable[[np.ndarray, Scale], np.ndarray]


def _jumps(
    logs: Sequence[Log], key: str, scale: Scale, rule: Rule
) -> dict[str, list[tuple[int, int]]]:
    steps = {}
    for log, rows in _with(logs, key):
        at = rule(rows[:, scale.smooth].astype(np.float64), _of_smooth(scale))
        if len(at):
            steps[log.name] = [(int(i), int(i)) for i in at]
    return steps


def _of_smooth(scale: Scale) -> Scale:
    at = scale.smooth
    return Scale(scale.std[at], scale.step[at], scale.smooth[at], scale.driven[at])


def _spikes(rows: np.ndarray, scale: Scale) -> np.ndarray:
    """Steps of one frame that is off in any dimension, [t, s] -> [k]."""
    if len(rows) < 3:
        return np.zeros(0, int)
    there, back = rows[1:-1] - rows[:-2], rows[1:-1] - rows[2:]
    height = np.minimum(np.abs(there), np.abs(back))
    off = (there * back > 0) & (np.abs(rows[2:] - rows[:-2]) < 0.3 * height)
    off &= (height > _JUMP * scale.step) & (height > _FAR * scale.std)
    # An angle that wraps, or a quaternion that turns its sign, is the same in another notation.
    off &= np.abs(np.abs(rows[1:-1]) - np.abs(rows[:-2])) > 0.2 * height
    return np.flatnonzero(off.any(axis=1)) + 1


def _leaps(rows: np.ndarray, scale: Scale) -> np.ndarray:
    """Steps at which most dimensions leap at once and stay there, [t, s] -> [k]."""
    if len(rows) < 4 or rows.shape[1] < 2:
        return np.zeros(0, int)
    step = np.abs(np.diff(rows, axis=0))
    far = (step > _JUMP / 2 * scale.step) & (step > _FAR / 2 * scale.std)
    far &= np.abs(np.abs(rows[1:]) - np.abs(rows[:-1])) > 0.2 * step
    many = far.mean(axis=1) >= _AT_ONCE
    alone = many & ~np.roll(many, 1) & ~np.roll(many, -1)
    # After it stood still to the bit it is the frozen state that catches up.
    alone[1:] &= step[:-1].any(axis=1)
    return np.flatnonzero(alone) + 1
