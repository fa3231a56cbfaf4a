"""Trajectories cut into logs: at each success of a task, and at a length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qsft_robot.flat_files.trajectories import ACTIONS, OBSERVATIONS, REWARDS, Trajectory
from qsft_robot.types import Episode


@dataclass(frozen=True)
class Cuts:
    """How trajectories become logs."""

    # column -> observation key of the logs
    keys: Mapping[str, str]
    # Most actions of a log.
    max_length: int | None = None
    # A reward of at least this marks success.
    success_reward: float | None = None
    # The file's rewards stay as they are, where nothing marks success.
    keeps_rewards: bool = False
    # What the end of a trajectory means that the file does not tell and that is no success.
    terminal: bool = False
    instruction: str = ""


def logs_of(cuts: Cuts, part: Trajectory, done: np.ndarray | None = None) -> Iterator[Episode]:
    """The logs of one trajectory. `done`, bool [t]: states in which the task is done.

    Each log ends at the first success: what is done in a state of success belongs to no log. A
    stretch without success is cut from its first step on, one that ends in a success backwards
    from it, so that the log of a success is the longest possible.
    """
    reached = _reached(cuts, part, done)
    count, repeat = _actions_of(cuts, part, reached)
    if reached is None:
        stretches = [(0, count, False)]
    else:
        stretches = list(_stretches(reached[:count], done))
    for first, stop, success in stretches:
        for begin, end in _pieces(first, stop, cuts.max_length, success):
            last = end == stop
            terminal = last and (success or (stop == count and _ends_known(cuts, part)))
            yield _log(cuts, part, begin, end, repeat, terminal, success and last)


def _reached(cuts: Cuts, part: Trajectory, done: np.ndarray | None) -> np.ndarray | None:
    """Whether action i led to success, bool [t]; None where nothing tells."""
    if done is not None:
        return np.append(done[1:], False)
    if cuts.success_reward is None:
        return None
    return part.columns[REWARDS].reshape(-1) >= cuts.success_reward


def _ends_known(cuts: Cuts, part: Trajectory) -> bool:
    return part.terminal or cuts.terminal


def _actions_of(cuts: Cuts, part: Trajectory, reached: np.ndarray | None) -> tuple[int, bool]:
    """Actions whose outcome was seen, and whether the last observation stands in for it: after an
    end that is known nothing is read from it."""
    steps = len(part)
    if part.last is not None:
        return steps, False
    known = _ends_known(cuts, part) or (reached is not None and bool(reached[-1]))
    return (steps, True) if known else (steps - 1, False)


def _stretches(reached: np.ndarray, done: np.ndarray | None) -> Iterator[tuple[int, int, bool]]:
    """(first action, end, whether it ends in success) of the stretches outside of success."""
    inside = np.append(False, reached[:-1]) if len(reached) else reached
    if done is not None:
        inside = done[: len(reached)]
    first = 0
    while first < len(reached):
        if inside[first]:
            first += 1
            continue
        ends = np.flatnonzero(reached[first:])
        stop = first + int(ends[0]) + 1 if len(ends) else len(reached)
        yield first, stop, bool(len(ends))
        first = stop


def _pieces(first: int, stop: int, most: int | None, backwards: bool) -> Iterator[tuple[int, int]]:
    if most is None:
        most = max(1, stop - first)
    if backwards and (stop - first) % most:
        yield first, first + (stop - first) % most
        first += (stop - first) % most
    for begin in range(first, stop, most):
        yield begin, min(begin + most, stop)


def _log(
    cuts: Cuts,
    part: Trajectory,
    begin: int,
    end: int,
    repeat: bool,
    terminal: bool,
    success: bool,
) -> Episode:
    observations = {}
    for column, key in cuts.keys.items():
        rows = part.columns[column][begin : end + 1]
        if len(rows) == end - begin:  # the trajectory's last action
            after = part.last if column == OBSERVATIONS and not repeat else None
            rows = np.concatenate([rows, rows[-1:] if after is None else after[None]])
        observations[key] = rows if rows.dtype == np.uint8 else rows.astype(np.float32)
    if cuts.keeps_rewards:
        rewards = part.columns[REWARDS][begin:end].reshape(-1).astype(np.float32)
    else:
        rewards = np.zeros(end - begin, np.float32)
        rewards[-1] = success
    return Episode(
        name="",
        observations=observations,
        actions=part.columns[ACTIONS][begin:end].astype(np.float32),
        rewards=rewards,
        terminated=terminal,
        truncated=not terminal,
        success=success,
        instruction=cuts.instruction,
        attributes={"first_row": part.first_row + begin},
    )
