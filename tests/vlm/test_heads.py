"""The void head starts as one constant; the value heads start at zero."""

from __future__ import annotations

import pytest
import torch

from vlm.heads import ValueHeads, VoidHead


@pytest.mark.parametrize("mean", [0.03, 0.5, 0.9])
def test_the_void_head_starts_at_the_mean_target_in_every_state(mean):
    head = VoidHead(8)
    torch.nn.init.normal_(head.weight)
    head.start_at(mean)
    logit = head(torch.randn(5, 3, 8))
    assert logit.shape == (5, 3)
    torch.testing.assert_close(logit.sigmoid(), torch.full((5, 3), mean))


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_mean_at_the_end_of_the_range_stays_finite(mean):
    head = VoidHead(8)
    head.start_at(mean)
    assert head(torch.randn(2, 8)).isfinite().all()


def test_the_void_head_is_linear_in_the_hidden_state_and_float32():
    head = VoidHead(4)
    torch.nn.init.normal_(head.weight)
    hidden = torch.randn(6, 4)
    torch.testing.assert_close(head(hidden), hidden @ head.weight + head.bias)
    assert head(hidden.bfloat16()).dtype == torch.float32


def test_value_heads_start_at_zero_and_learn():
    heads = ValueHeads(8, 5)
    hidden = torch.randn(2, 3, 8)
    action_values, state_values = heads(hidden)
    assert action_values.shape == (2, 3, 5)
    assert state_values.shape == (2, 3)
    assert not action_values.any()
    assert not state_values.any()
    (action_values.sum() + state_values.sum()).backward()
    assert heads.action_value[-1].weight.grad.abs().sum() > 0


def test_the_void_head_is_float32_under_autocast_too():
    head = VoidHead(64)
    torch.nn.init.normal_(head.weight)
    hidden = torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logit = head(hidden)
    assert logit.dtype == torch.float32
    torch.testing.assert_close(logit, head(hidden))
