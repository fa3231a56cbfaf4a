"""The data contract: what a simulator, a log, a policy and a robot hand to each other (numpy only).

Shape letters, used in every signature of the project:
b batch, t time (control steps), k history frames, h chunk length (actions of one decision),
n action tokens of one decision, d action dimension, s state dimension, v vocabulary,
c channels (hidden width), m image tokens of one frame, l instruction tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

# The text key that lists the commands which may be given next, one a line: the support of
# policies that act by text commands.
ADMISSIBLE = "admissible_commands"


@dataclass(frozen=True)
class Observation:
    """Sensor readings of one control step."""

    # camera key -> uint8 [height, width, 3], RGB, row 0 at the top
    images: Mapping[str, np.ndarray]
    # low-dimensional key -> float32 [s_key], SI units, robot base frame unless the key says other
    state: Mapping[str, np.ndarray]
    instruction: str = ""
    # text key -> what a text environment said, e.g. its answer to the last command
    texts: Mapping[str, str] = field(default_factory=dict)
    # Control steps since the episode began, by which a policy with a history knows how far its
    # observations lie apart. None: as far as in its training.
    step: int | None = None
    # Rewards of the episode so far, by which a policy that is asked for a return knows what is
    # still to come. None: nobody tells.
    paid: float | None = None

    @staticmethod
    def from_env(observation: Mapping[str, np.ndarray | str], instruction: str) -> Observation:
        """Split a gymnasium dict observation: str are texts, uint8 [h, w, 3] images, the rest is
        state."""
        texts = {key: x for key, x in observation.items() if isinstance(x, str)}
        arrays = {key: x for key, x in observation.items() if not isinstance(x, str)}
        images = {key: x for key, x in arrays.items() if is_image(x)}
        state = {key: np.asarray(x, np.float32) for key, x in arrays.items() if not is_image(x)}
        return Observation(images, state, instruction, texts)


def is_image(array: np.ndarray) -> bool:
    """Whether one observation entry (no time axis) is an image: uint8 [height, width, 3]."""
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3


@dataclass(frozen=True)
class Episode:
    """One log. Row i of an observation is what was seen before action i; the last row, t, is what
    was seen after the last action."""

    name: str
    # key -> [t + 1, ...]: uint8 [t + 1, height, width, 3] for images, float32 [t + 1, s] for state
    observations: Mapping[str, np.ndarray]
    actions: np.ndarray  # float32 [t, d], or text commands, object [t] of str
    rewards: np.ndarray  # float32 [t]
    # The outcome is known: success, or a failure that used its whole step limit. No bootstrap.
    terminated: bool
    # The log was cut while the task could go on. Bootstraps from the value of observation row t.
    truncated: bool
    success: bool
    instruction: str = ""
    # How to make the episode again: "seed", "reset_options", "expert", ... (JSON types only)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    # text key -> object [t + 1] of str, rows as those of the observations
    texts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def has_commands(self) -> bool:
        """Whether its actions are text commands."""
        return is_text(self.actions)


def is_text(array: np.ndarray) -> bool:
    """Whether an array holds text: object [...] of str."""
    return array.dtype == object


def stack_rows(rows: Sequence[Any]) -> np.ndarray:
    """Rows of one key, one after the other: object [t] where they are str, else [t, ...]."""
    return np.array(rows, object) if isinstance(rows[0], str) else np.stack(rows)


def split_texts(
    rows: Mapping[str, Sequence[Any]],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Observation rows of a log, key -> rows, as (observations, texts) of an `Episode`."""
    stacked = {key: stack_rows(values) for key, values in rows.items()}
    return (
        {key: x for key, x in stacked.items() if not is_text(x)},
        {key: x for key, x in stacked.items() if is_text(x)},
    )


@dataclass(frozen=True)
class Decision:
    """One answer of a policy."""

    # float32 [h, d], in the environment's own action units, or a text command, object [1] of str
    actions: np.ndarray
    value: float | None = None  # V(s) in [0, 1] where the policy carries a value, else None


class Policy(Protocol):
    """A policy for one robot. History and randomness live inside; `reset` starts an episode."""

    def reset(self, seed: int = 0) -> None: ...

    def infer(self, observation: Observation) -> np.ndarray:
        """Return the action chunk, float32 [h, d], in the environment's own action units."""
        ...


class NotFinite(RuntimeError):
    """A network gave NaN or Inf, from which no command may be made."""

    def __init__(self, where: str = "the policy's networks") -> None:
        super().__init__(
            f"{where} gave NaN or Inf, from which no command is made: look at the readings it got, "
            "and at its weights."
        )


class PolicyChanged(ConnectionError):
    """Another policy answers than the one that began the episode; the next `reset` takes it."""


class EpisodeMemory(Protocol):
    """Memory of one episode (frames, random state), opaque to the caller."""


class BatchPolicy(Protocol):
    """A policy for many simulated episodes at once; episodes of one batch don't influence each
    other."""

    def begin_episode(self, seed: int) -> EpisodeMemory: ...

    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[Any]
    ) -> list[Decision]:
        """One decision an observation; each memory is advanced by its own observation."""
        ...
