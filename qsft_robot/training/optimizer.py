"""AdamW, its learning rate by update, and batches that can be cut into equal parts."""

from __future__ import annotations

import math

import torch
from torch import nn

from qsft_robot.config.train import OptimConfig


def build_optimizer(modules: list[nn.Module], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms, the void row) are not decayed."""
    parameters = trainable(modules)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # One parameter at a time where some are spread over processes and some are not.
    foreach = False if optim.shard else None
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=(0.9, 0.95), foreach=foreach)


def trainable(modules: list[nn.Module]) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def schedule(update: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to a tenth."""
    warmup = min(warmup, max(1, steps // 10))
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def check_parts(optim: OptimConfig, count: int, together: int = 1) -> None:
    """ValueError where a batch can't be cut into equal parts for `count` processes that compute
    `together` at the same time."""
    parts = count * optim.accumulate * together
    if parts > 1 and optim.batch_size % (2 * parts):
        raise ValueError(
            f"--optim.batch-size {optim.batch_size} can't be shared out: each half of a batch is "
            f"cut into {count} process(es) x {optim.accumulate} (--optim.accumulate) x {together} "
            f"(--optim.parallel) equal parts, so it has to be a multiple of {2 * parts}."
        )
    if optim.shard and count == 1:
        raise ValueError(
            "--optim.shard spreads a model over several processes: start them with accelerate "
            "launch or torchrun, or leave it out."
        )
