"""Actions before a frame and its return to go, which a Decision Transformer reads beside the state.

One rule for the batches of training and for every policy that acts: the actions are those that were
executed of the last decision, none at the first; the return to go is what the log still had coming,
or what was asked for less what the episode has paid, both in units of the return range. They follow
a frame's state as its last numbers. Where nobody tells what was paid (a robot does not), the return
to go stays as it was asked for: with a success that pays once, at the end, that is what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qsft_robot.returns import ReturnRange

if TYPE_CHECKING:
    from jaxtyping import Float32

    from qsft_robot.context import Memory
    from qsft_robot.policy.description import PolicyDescription
    from qsft_robot.types import Observation


@dataclass(frozen=True)
class Past:
    """Sizes and scale of these numbers."""

    # Actions between two frames, and the numbers of one.
    stride: int
    action_dim: int
    returns: ReturnRange

    @classmethod
    def of(cls, description: PolicyDescription) -> Past | None:
        """That of a policy; None where it reads none."""
        if not description.reads_past:
            return None
        if description.return_range is None:
            raise ValueError("it reads returns to go, but tells no return_range of them.")
        action = description.action
        return cls(action.history_stride, action.dim, description.return_range)

    @property
    def width(self) -> int:
        """Numbers of one frame."""
        return self.stride * self.action_dim + 1

    def of_log(
        self, actions: Float32[np.ndarray, "t d"], rewards: Float32[np.ndarray, " t"]
    ) -> Float32[np.ndarray, "rows p"]:
        """Those of every row of a log, t + 1 of them; actions are normalized."""
        steps = len(actions)
        before = np.zeros((steps + 1, self.stride, self.action_dim), np.float32)
        for j in range(self.stride):
            before[self.stride :, j] = actions[j : steps + 1 - self.stride + j]
        to_go = np.append(np.cumsum(rewards[::-1], dtype=np.float64)[::-1], 0.0)
        target = (to_go - self.returns.low) / (self.returns.high - self.returns.low)
        columns = before.reshape(steps + 1, -1), target.astype(np.float32)[:, None]
        return np.concatenate(columns, 1)

    def of_decision(
        self, memory: Memory, observation: Observation, target: float
    ) -> Float32[np.ndarray, " p"]:
        """Those of the present decision; `target` is asked for, in [0, 1] of the range."""
        row = np.zeros(self.width, np.float32)
        if memory.actions is not None:
            row[:-1] = memory.actions[: self.stride].reshape(-1)
        paid = observation.paid or 0.0
        row[-1] = target - paid / (self.returns.high - self.returns.low)
        return row
