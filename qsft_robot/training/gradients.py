"""Gradients of one update: a batch in parts, one after the other or at the same time."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor

from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.stage import Scale, Stage
from qsft_robot.config.train import TrainConfig
from qsft_robot.parallel.distributed import processes
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.training.optimizer import trainable
from qsft_robot.training.threads import add_gradients_together


def add_gradients(
    stage: Stage, drawn: Tensor, generator: torch.Generator, config: TrainConfig
) -> tuple[Tensor, Metrics, float]:
    """Add the gradients of this process's share of a drawn batch, in `accumulate` passes of
    `parallel` parts each; mean loss and metrics over all processes, and the seconds spent on
    reading."""
    workers, together = processes(), parts_together(config)
    passes = config.optim.accumulate * together
    parts, found, data_s = workers.count * passes, list[Metrics](), 0.0
    half = config.optim.precision == "bfloat16"

    def loss_of(batch: TokenBatch, steps: Tensor, scale: Scale) -> tuple[Tensor, Metrics]:
        # Autocast holds for the thread that enters it.
        with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=half):
            loss, metrics = stage.loss(batch, steps, scale)
        return (loss if passes == 1 else loss / passes), {"loss": loss.detach(), **metrics}

    for first in range(0, passes, together):
        clock, read = time.perf_counter(), []
        for i in range(first, first + together):
            steps, scale = stage.part(drawn, workers.rank * passes + i, parts)
            read.append((stage.read(steps, generator), steps, scale))
        data_s += time.perf_counter() - clock
        if together == 1:
            loss, metrics = loss_of(*read[0])
            loss.backward()
            found.append(metrics)
        else:
            found += add_gradients_together(
                [partial(loss_of, *each) for each in read], trainable(stage.trained())
            )
    mean = found[0]
    if parts > 1:
        sums = sum(torch.stack([x.float() for x in one.values()]) for one in found)
        assert isinstance(sums, Tensor)
        mean = dict(zip(mean, (workers.sum_(sums) / parts).unbind(), strict=True))
    return mean.pop("loss"), mean, data_s


def parts_together(config: TrainConfig) -> int:
    """Parts of a batch that are computed at the same time: on a GPU one."""
    return config.optim.parallel if config.device == "cpu" else 1
