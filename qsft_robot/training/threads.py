"""Parts of one update computed at the same time, each by one thread of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics

Loss = Callable[[], tuple[Tensor, Metrics]]


def add_gradients_together(
    losses: Sequence[Loss], parameters: Sequence[nn.Parameter]
) -> list[Metrics]:
    """Add the gradients of several losses to the parameters' `grad`, in their order, so that the
    sums are the same to the bit as one after the other; the metrics of each.

    A loss computes on one thread of its own from beginning to end. With threads inside of every
    operation each of hundreds of them ends when its slowest thread does: where another program
    holds one of two cores, such an update took twice as long as on one thread alone.
    """

    def gradients(loss: Loss) -> tuple[tuple[Tensor | None, ...], Metrics]:
        torch.set_num_threads(1)  # holds for the thread that says so
        value, metrics = loss()
        return torch.autograd.grad(value, parameters, allow_unused=True), metrics

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(losses)) as pool:
            found = list(pool.map(gradients, losses))
    finally:
        torch.set_num_threads(threads)
    for each, _ in found:
        for parameter, gradient in zip(parameters, each, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
    return [metrics for _, metrics in found]
