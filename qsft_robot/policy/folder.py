"""Description and interface of a policy folder, read without torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsft_robot.files import SUMS, check_sums, read_json
from qsft_robot.logs.data_description import MAX_INSTRUCTIONS
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.printed_text import one_line

POLICY = "policy.json"
WEIGHTS = "weights.safetensors"


def read_description(folder: Path) -> PolicyDescription:
    """policy.json of a checkpoint or exported policy, after the folder's checksums were verified.

    FileNotFoundError when there is no such folder, ValueError when it is no policy folder, a file
    was changed, or its format is another version's.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder. A run keeps its newest checkpoint in <run>/checkpoint and "
            "the finished policy in <run>/policy."
        )
    if not (folder / POLICY).is_file():
        inside = [f.name for f in sorted(folder.iterdir())]
        raise ValueError(f"{folder}: no {POLICY}, so this is no policy folder. It holds: {inside}")
    check_sums(folder)
    return PolicyDescription.from_json(read_json(folder / POLICY), str(folder / POLICY))


def fingerprint(folder: Path) -> str:
    """Hex digest that says which policy a run, checkpoint or exported folder holds: that of the
    checksums of its files."""
    digest = hashlib.sha256()
    for inner in (folder, folder / "policy", folder / "checkpoint"):
        if (inner / SUMS).is_file():
            digest.update((inner / SUMS).read_bytes())
    return digest.hexdigest()


def count_parameters(folder: Path) -> int:
    """Numbers in weights.safetensors, read off its header alone; ValueError where it has none."""
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
        tensors = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(int(side) for side in shape) for shape in tensors)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}).") from error


@contextmanager
def described_by(folder: Path) -> Iterator[None]:
    """Errors from inside, where networks and tokenizers are made of a description that was checked,
    as a ValueError that names the folder: it contradicts itself or its weights."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        if str(folder) in str(e):
            raise
        what = f"{type(e).__name__} " if isinstance(e, LookupError | AttributeError) else ""
        raise ValueError(
            f"{folder}: {POLICY} contradicts itself or the weights beside it: {what}{one_line(e)}"
        ) from e


@dataclass(frozen=True)
class PolicySpec:
    """Inputs and outputs of a policy."""

    # camera key -> (height, width) in pixels
    cameras: Mapping[str, tuple[int, int]]
    # state key -> its size
    state: Mapping[str, int]
    # Actions of one decision, and numbers of one action.
    horizon: int
    action_dim: int
    # Range of each action dimension, float64 [d], in the robot's own action units.
    action_low: np.ndarray
    action_high: np.ndarray
    # Actions a second; None where the logs did not tell.
    control_hz: float | None
    # Instructions that it was trained on (at most MAX_INSTRUCTIONS).
    instructions: tuple[str, ...]

    @property
    def follows_instructions(self) -> bool:
        """Whether every episode of its logs had an instruction, so that it needs one to act."""
        return bool(self.instructions) and all(text.strip() for text in self.instructions)

    def knows(self, instruction: str) -> bool:
        """Whether it was trained on this instruction, as far as the description tells."""
        listed = self.instructions
        return not listed or instruction in listed or len(listed) >= MAX_INSTRUCTIONS

    @classmethod
    def of(cls, description: PolicyDescription) -> PolicySpec:
        """The interface that a policy's description tells; ValueError where the policy answers with
        text commands, which no arm executes."""
        action = description.action
        if action.dim == 0:
            raise ValueError(
                "this policy answers with text commands, not with the actions of an arm, so it can "
                "be evaluated (qsft-robot evaluate) but neither run on a robot nor served."
            )
        return cls(
            cameras=description.cameras,
            state={key: len(description.norm_stats.mean[key]) for key in description.state_keys},
            horizon=action.horizon,
            action_dim=action.dim,
            action_low=np.asarray(action.low, np.float64),
            action_high=np.asarray(action.high, np.float64),
            control_hz=action.control_hz,
            instructions=description.data.instructions,
        )
