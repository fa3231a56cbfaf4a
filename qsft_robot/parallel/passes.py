"""Inference passes over many rows, shared out over the processes of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsft_robot.parallel.distributed import processes
from qsft_robot.parallel.sharding import has_shards

if TYPE_CHECKING:
    from vlm.model import ActionModel

# An inference pass reads at most so many rows, and fewer where a model would hold more numbers than
# this for them (1 GiB in float32).
INFERENCE_BATCH, INFERENCE_NUMBERS = 1024, 2**28


def rows_per_pass(model: ActionModel) -> int:
    """Rows that one inference pass of a model reads: every layer keeps keys and values of every
    token, and its perceptron is four times as wide."""
    config = model.config
    tokens = config.history * config.frame_image_tokens + config.text_length
    numbers = tokens * config.width * (2 * config.depth + 8)
    return max(1, min(INFERENCE_BATCH, INFERENCE_NUMBERS // numbers))


def my_share(count: int, model: ActionModel) -> list[Tensor]:
    """Numbers 0 ... count - 1 in passes of the model: those that this process makes. All of them
    where the model is spread over the processes, which then compute together."""
    passes, workers = list(torch.arange(count).split(rows_per_pass(model))), processes()
    return passes if has_shards(model) else passes[workers.rank :: workers.count]


def from_all(table: Tensor, model: ActionModel) -> Tensor:
    """The table, on the CPU, of which each process has filled its share, the rest being 0."""
    workers = processes()
    if workers.count == 1 or has_shards(model):
        return table
    return workers.sum_(table.to(next(model.parameters()).device)).cpu()
