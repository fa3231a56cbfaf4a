"""V(s) against the return that the log had from there: how far the values can be believed."""

from __future__ import annotations

from pathlib import Path

import torch

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.stage import ValueStage
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.config.train import TrainConfig
from qsft_robot.files import write_json
from qsft_robot.parallel.distributed import processes
from qsft_robot.token_data.run_data import RunData

POINTS = 2000


def write_calibration(
    path: Path, networks: PolicyNetworks, data: RunData, config: TrainConfig
) -> None:
    """Write predicted V and the log's own discounted return at up to `POINTS` steps.

    Held-out logs where the run has them, else training logs; logs cut without an outcome are left
    out. Writes nothing for a policy without values.
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
    values = ValueStage(networks, tokens, config.device).values_at(tokens.row_of_step[steps])
    if not processes().is_main:
        return
    write_json(
        path,
        {
            "split": "held out" if data.valid is not None else "training",
            "value": values.tolist(),
            "return": returns[steps].tolist(),
            "success": tokens.success[tokens.episode_of_step[steps]].tolist(),
        },
    )
