"""The return that a Decision Transformer asks for, chosen on its training logs."""

from __future__ import annotations

import torch

from qsft_robot.config.train import TrainConfig
from qsft_robot.token_data.token_data import TokenData

# Share of the logs, the best, whose mean return is asked for.
BEST = 0.1
_TOLERANCE = 1e-4


def target_return(config: TrainConfig, data: TokenData) -> float:
    """In [0, 1] of the range of returns: that of --lamo.target-return, else the mean of the best
    tenth of the logs. ValueError where the logs have no such return, or their own lie outside of
    the range, which is declared for discounted returns."""
    returns = data.returns_to_go[:, 0]
    low, high = config.data.return_low, config.data.return_high
    span, least, most = high - low, float(returns.min()), float(returns.max())
    if least < -_TOLERANCE or most > 1 + _TOLERANCE:
        raise ValueError(
            f"{config.data.path}: the undiscounted returns of the logs reach from "
            f"{low + least * span:.6g} to {low + most * span:.6g}, outside of [{low:g}, {high:g}]: "
            "declare a range that holds them (--data.return-low, --data.return-high), with "
            "--discount 1."
        )
    wanted = config.lamo.target_return
    if wanted is None:
        best = returns.sort(descending=True).values[: max(1, round(BEST * len(returns)))]
        return float(best.mean())
    target = (wanted - low) / span
    if not least - _TOLERANCE <= target <= most + _TOLERANCE:
        raise ValueError(
            f"--lamo.target-return {wanted:g}: the logs' returns reach from "
            f"{low + least * span:.6g} to {low + most * span:.6g}, and a Decision Transformer can "
            "only be asked for what it has seen."
        )
    return float(torch.tensor(target).clamp(0, 1))
