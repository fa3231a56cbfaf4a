"""V(s) against the return that the log had from there: how far the values can be believed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.stage import ValueStage
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.config.train import TrainConfig
from qsft_robot.files import write_json
from qsft_robot.parallel.distributed import processes
from qsft_robot.printed_text import say
from qsft_robot.token_data.run_data import RunData
from qsft_robot.token_data.token_data import TokenData

POINTS = 2000
# Logs of an outcome whose rise of V is looked at, and the fewest from which anything follows.
LOGS, FEWEST = 250, 5
# Standard errors by which logs of success and others have to differ.
_APART = 2.0


@dataclass(frozen=True)
class Rise:
    """How far V rises from the first decision of a log to its last, which is what its actions
    gained: the mean of logs that succeed, of the others, and the standard error of the difference.
    """

    success: float
    other: float
    standard_error: float
    logs: tuple[int, int]

    @property
    def tells_apart(self) -> bool:
        """Whether what actions gain stands out of its noise."""
        return self.success - self.other > _APART * self.standard_error

    def __str__(self) -> str:
        return (
            f"V rises by {self.success:.3g} along {self.logs[0]} logs that succeed and by "
            f"{self.other:.3g} along {self.logs[1]} others (standard error of the difference "
            f"{self.standard_error:.2g})"
        )


def rise_of(success: Sequence[float], other: Sequence[float]) -> Rise | None:
    """From the rise of V along each log; None where there are too few of either outcome."""
    if min(len(success), len(other)) < FEWEST:
        return None
    first, second = torch.tensor(success), torch.tensor(other)
    error = math.sqrt(float(first.var() / len(first) + second.var() / len(second)))
    counts = (len(first), len(second))
    return Rise(float(first.mean()), float(second.mean()), error, counts)


def write_calibration(
    path: Path, networks: PolicyNetworks, data: RunData, config: TrainConfig
) -> None:
    """Write predicted V and the log's own discounted return at up to `POINTS` steps.

    Held-out logs where the run has them, else training logs; logs cut without an outcome are left
    out. Writes nothing for a policy without values. Says where V tells no actions apart.
    """
    if networks.head is None:
        return
    tokens = data.valid if data.valid is not None else data.train
    returns = lambda_returns(
        tokens.reward_terms,
        tokens.steps,
        tokens.terminated,
        torch.zeros(len(tokens.names), int(tokens.steps.max()) + 1, 1),
        discount=tokens.discount,
        lam=1.0,
    )[tokens.episode_of_step, tokens.time_of_step, 0]
    known = tokens.terminated[tokens.episode_of_step].nonzero().squeeze(1)
    if len(known) == 0:
        return
    generator = torch.Generator().manual_seed(config.seed)
    steps = known[torch.randperm(len(known), generator=generator)[:POINTS]]
    stage = ValueStage(networks, tokens, config.device)
    values = stage.values_at(tokens.row_of_step[steps])
    rise = _rise(stage, tokens, generator)
    if rise is None and data.valid is not None:  # too few are held out to tell
        rise = _rise(ValueStage(networks, data.train, config.device), data.train, generator)
    if not processes().is_main:
        return
    if rise is not None and not rise.tells_apart:
        say(
            f"note: {rise}: it tells no actions apart, so the policy acts as its logs do. More "
            "updates, more logs that succeed or a --discount nearer to 1 may help.",
            sys.stderr,
        )
    write_json(
        path,
        {
            "split": "held out" if data.valid is not None else "training",
            "value": values.tolist(),
            "return": returns[steps].tolist(),
            "success": tokens.success[tokens.episode_of_step[steps]].tolist(),
            "rise": None if rise is None else asdict(rise),
        },
    )


def _rise(stage: ValueStage, tokens: TokenData, generator: torch.Generator) -> Rise | None:
    def rises(logs: Tensor) -> list[float]:
        logs = logs[torch.randperm(len(logs), generator=generator)[:LOGS]]
        if len(logs) < FEWEST:
            return []
        begin, end = tokens.first_row[logs], tokens.first_row[logs] + tokens.steps[logs] - 1
        values = stage.values_at(torch.cat([begin, end]))
        return (values[len(logs) :] - values[: len(logs)]).tolist()

    succeeded = tokens.success.bool()
    return rise_of(rises(succeeded.nonzero()[:, 0]), rises((~succeeded).nonzero()[:, 0]))
