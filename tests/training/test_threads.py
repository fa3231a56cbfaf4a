"""Parts that are computed at the same time add up to the bits of one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qsft_robot.config.model import ModelConfig
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.training.optimizer import check_parts
from qsft_robot.training.threads import add_gradients_together


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_are_those_of_the_parts_in_their_order(count):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.GELU(), nn.Linear(40, 1))
    unused = nn.Parameter(torch.zeros(3))
    parameters = [*model.parameters(), unused]
    parts = torch.randn(count, 8, 6)

    def loss(x):
        value = model(x).square().mean() / count
        return value, {"loss": value.detach()}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    told = [loss(x) for x in parts]
    for value, _ in told:
        value.backward()
    torch.set_num_threads(threads)
    wanted = [None if p.grad is None else p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    metrics = add_gradients_together([lambda x=x: loss(x) for x in parts], parameters)
    assert [m["loss"] for m in metrics] == [m["loss"] for _, m in told]
    for parameter, gradient in zip(parameters, wanted, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert unused.grad is None
    assert torch.get_num_threads() == threads


def test_an_error_in_a_part_is_raised_and_the_threads_are_given_back():
    def wrong():
        raise RuntimeError("this part")

    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="this part"):
        add_gradients_together([wrong, wrong], [])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": ModelConfig(dropout=0.1)}, "--model.dropout 0"),
        ({"model": ModelConfig(dropout=0, pretrained="gpt2")}, "no --model.pretrained"),
    ],
)
def test_what_threads_would_share_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**settings, optim=OptimConfig(parallel=2))
    with pytest.raises(ValueError, match="not with --optim"):
        OptimConfig(parallel=2, compile=True)
    with pytest.raises(ValueError, match=r"2 \(--optim\.parallel\)"):
        check_parts(OptimConfig(batch_size=6), 1, 2)
