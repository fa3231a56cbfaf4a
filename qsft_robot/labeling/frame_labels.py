"""V and the advantage of every frame of logs, by policies that carry a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsft_robot.logs.checks import ANY_SCALE
from qsft_robot.logs.reader import iter_episodes, read_masks
from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.returns import ReturnRange, discounted
from qsft_robot.rollouts.value_ranking import trained_on, values_of
from qsft_robot.types import Episode


@dataclass(frozen=True)
class FrameLabels:
    """One log; arrays are of its frames, float64 [t]. V, returns and advantages are in the unit of
    V: 0 is the lowest return that was declared, 1 the highest."""

    name: str
    value: np.ndarray
    advantage: np.ndarray  # reward_sum + discount^n next_value - value
    returns: np.ndarray  # what the log came to from here on, discounted
    next_value: np.ndarray  # V after n steps, 0 after an outcome
    reward_sum: np.ndarray  # discounted reward terms of the next n steps
    rewards_ahead: np.ndarray  # rewards of the next n steps as the log has them, discounted
    steps_ahead: np.ndarray  # n, less than asked for at the end of a log; int64
    held_out: bool  # whether no policy that was asked had learned from it


def label_frames(
    path: str | Path,
    policies: Sequence[LoadedPolicy],
    steps: int,
    filter_key: str | None = None,
    success_reward: bool = False,
    names: Sequence[str] | None = None,
) -> Iterator[FrameLabels]:
    """The labels of each log of a file, in order.

    The advantage of the action at t is A = r_t + ... + g^(n-1) r_(t+n-1) + g^n V_(t+n) - V_t over n
    = `steps` frames (RECAP's), fewer where the log ends; an outcome is followed by 0, a cut by V of
    its last row. V of a policy that learned from a log remembers its label: where a log is outside
    of the mask that a policy was trained on, such policies alone are asked, else the mean of all.
    `success_reward`: reward 1 at the first success and none else; frames after it have advantage 0.
    `names` picks some of the logs.
    ValueError for a policy without V and for returns outside of its range.
    """
    if steps < 1:
        raise ValueError(f"--steps {steps}: an advantage looks at least 1 step ahead.")
    ranges = list(dict.fromkeys(policy.description.return_range for policy in policies))
    return_range, *others = ranges
    if others:
        raise ValueError(
            f"the policies have V in different units: {' and '.join(map(str, ranges))}. Take "
            "policies that were trained with the same --discount and --data.return-low and -high."
        )
    if return_range is None:
        raise ValueError("the policy does not tell the range of its returns; export it again.")
    masks = read_masks(path)
    known = [trained_on(policy, masks) for policy in policies]
    asked = [
        values_of(policy, path, filter_key, every_row=True, names=names) for policy in policies
    ]
    rewarded = iter_episodes(
        path, keys=(), filter_key=filter_key, success_reward=success_reward,
        action_scale=ANY_SCALE, names=names,
    )  # fmt: skip
    for told, paid in zip(zip(*asked, strict=True), rewarded, strict=True):
        name = told[0][0].name
        held_out = [names is not None and name not in names for names in known]
        curves = [values for (_, _, values), out in zip(told, held_out, strict=True) if out]
        curves = curves or [values for _, _, values in told]
        value = np.mean(curves, axis=0)
        yield _labels(path, name, value, paid, return_range, steps, any(held_out))


def _labels(
    path: str | Path,
    name: str,
    value: np.ndarray,
    paid: Episode,
    return_range: ReturnRange,
    steps: int,
    held_out: bool,
) -> FrameLabels:
    discount, end = return_range.discount, len(paid)
    try:
        return_range.check(paid.rewards, paid.terminated)
    except ValueError:
        raise ValueError(
            f"{path}: data/{name}: its return is outside of [{return_range.low:g}, "
            f"{return_range.high:g}], which the policy was trained with. If that was with "
            "--data.success-reward, give --success-reward."
        ) from None
    terms = return_range.reward_terms(paid.rewards, paid.terminated)
    after = 0.0 if paid.terminated else float(value[end])
    ahead = np.minimum(steps, end - np.arange(end))
    arrived = np.arange(end) + ahead
    next_value = np.append(value[:end], after)[arrived]
    power = discount ** ahead.astype(float)
    # What remains at the end of the log is nothing, and stands at index `end`.
    remaining = np.append(discounted(terms, discount), 0.0)
    reward_sum = remaining[:end] - power * remaining[arrived]
    raw = np.append(discounted(paid.rewards.astype(np.float64), discount), 0.0)
    found = {
        "advantage": reward_sum + power * next_value - value[:end],
        "returns": remaining[:end] + discount ** (end - np.arange(end)) * after,
        "next_value": next_value,
        "reward_sum": reward_sum,
        "rewards_ahead": raw[:end] - power * raw[arrived],
        "steps_ahead": ahead,
    }
    # Frames after the first success are no part of the task.
    rest = len(value) - 1 - end
    padded = {key: np.append(x, np.zeros(rest, x.dtype)) for key, x in found.items()}
    return FrameLabels(name, value=value[:-1], held_out=held_out, **padded)
