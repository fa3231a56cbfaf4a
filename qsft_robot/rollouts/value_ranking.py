"""Logs ranked by what a trained policy's V says of their outcome."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qsft_robot.logs.checks import ANY_SCALE
from qsft_robot.logs.inspection_table import LogValue
from qsft_robot.logs.reader import iter_episodes, read_masks
from qsft_robot.types import Episode, Observation, is_image

if TYPE_CHECKING:
    from qsft_robot.policy.description import LoadedPolicy

# Last decisions of a log whose V are averaged: one may be off.
_LAST = 3
# Logs that are decided side by side.
_TOGETHER = 64
# Bytes of observations after which no further log joins them.
_BYTES = 1 << 29


class NoValue(ValueError):
    """A policy that carries no value was asked for V."""


def rank_by_value(
    path: str | Path, policies: Sequence[LoadedPolicy], filter_key: str | None = None
) -> list[LogValue]:
    """The logs of a file that have an outcome, the most suspicious first.

    V of a log that a policy learned from remembers its label. Where a log is outside of the mask
    that a policy was trained on (its filter key), that policy alone is asked; with two policies,
    each trained on one half of the logs, every log is judged by the one that never saw it.
    ValueError for a policy without V, and for text commands.
    """
    masks = read_masks(path)
    trained = [trained_on(policy, masks) for policy in policies]
    everything: dict[str, list[tuple[np.ndarray, np.ndarray, bool]]] = {}
    outcomes: dict[str, bool] = {}
    for policy, known in zip(policies, trained, strict=True):
        for episode, steps, values in values_of(policy, path, filter_key):
            held_out = known is not None and episode.name not in known
            everything.setdefault(episode.name, []).append((steps, values, held_out))
            if episode.terminated:  # a log that was cut has no outcome yet
                outcomes[episode.name] = episode.success
    curves = {name: _judged(everything[name]) for name in outcomes}
    last = {name: float(values[-_LAST:].mean()) for name, (_, values, _) in curves.items()}
    peers = {
        outcome: float(np.median([last[name] for name in outcomes if outcomes[name] == outcome]))
        for outcome in set(outcomes.values())
    }
    ranked = []
    for name, success in outcomes.items():
        steps, values, held_out = curves[name]
        falls = -np.diff(values)
        at = int(falls.argmax()) if len(falls) else 0
        drop = max(0.0, float(falls[at])) if len(falls) else 0.0
        after = int(steps[min(at + 1, len(steps) - 1)])
        ranked.append(LogValue(name, success, last[name], peers[success], drop, after, held_out))
    return sorted(ranked, key=lambda x: -x.suspicion)


def _judged(
    told: Sequence[tuple[np.ndarray, np.ndarray, bool]],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Steps and mean V of the policies that never saw the log, else of all."""
    held_out = [x for x in told if x[2]]
    asked = held_out or list(told)
    shortest = min(len(steps) for steps, _, _ in asked)
    values = np.mean([values[-shortest:] for _, values, _ in asked], axis=0)
    return asked[0][0][-shortest:], values, bool(held_out)


def trained_on(
    policy: LoadedPolicy, masks: Mapping[str, Collection[str]]
) -> Collection[str] | None:
    """Names of the logs that a policy learned from, None where it may be all."""
    key = policy.description.data.filter_key
    if key is None or key not in masks:
        return None
    return set(masks[key])


def values_of(
    policy: LoadedPolicy,
    path: str | Path,
    filter_key: str | None = None,
    every_row: bool = False,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[Episode, np.ndarray, np.ndarray]]:
    """Each log, the steps [k] at which the policy decides in it, and V there, float [k]; with
    `every_row` V of every observation row, [t + 1], each with the history that it had. `names`
    picks some of the logs. NoValue for a policy without V."""
    about = policy.description
    keys = [*about.state_keys, *about.cameras]
    episodes = iter_episodes(
        path, keys=keys, filter_key=filter_key, action_scale=ANY_SCALE, names=names
    )
    # So far the frames of a history lie apart.
    stride = about.action.history_stride if about.history > 1 and not every_row else 1
    for together in _together(episodes):
        if together[0].has_commands:
            raise ValueError(f"{path}: V is not computed over logs of text commands.")
        yield from _decide(policy, together, stride, every_row)


def _together(episodes: Iterator[Episode]) -> Iterator[list[Episode]]:
    """Logs to decide side by side: so many, and no more than fit in memory."""
    group: list[Episode] = []
    size = 0
    for episode in episodes:
        group.append(episode)
        size += sum(x.nbytes for x in episode.observations.values())
        if len(group) == _TOGETHER or size >= _BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _decide(
    policy: LoadedPolicy, episodes: Sequence[Episode], stride: int, last_row: bool
) -> Iterator[tuple[Episode, np.ndarray, np.ndarray]]:
    memories = [policy.begin_episode(0) for _ in episodes]
    values: list[list[float]] = [[] for _ in episodes]
    rows = [len(episode) + last_row for episode in episodes]
    for step in range(0, max(rows), stride):
        going = [i for i, count in enumerate(rows) if step < count]
        seen = [_row(episodes[i], step) for i in going]
        for i, decision in zip(
            going, policy.infer_batch(seen, [memories[i] for i in going]), strict=True
        ):
            if decision.value is None:
                raise NoValue(
                    f"the policy ({policy.description.method}) has no V: take one that was "
                    "trained with values, by --method qsft."
                )
            values[i].append(decision.value)
    for episode, told in zip(episodes, values, strict=True):
        yield episode, np.arange(len(told)) * stride, np.array(told)


def _row(episode: Episode, step: int) -> Observation:
    rows = {key: x[step] for key, x in episode.observations.items()}
    return Observation(
        images={key: x for key, x in rows.items() if is_image(x)},
        state={key: x for key, x in rows.items() if not is_image(x)},
        instruction=episode.instruction,
        step=step,
    )
