"""Monte-Carlo heads: the optimum is the mean return of each token, whatever was bootstrapped."""

from __future__ import annotations

import pytest
import torch

from qsft_robot.algorithms.monte_carlo import monte_carlo_loss
from qsft_robot.token_data.batch import TokenBatch


def batch(ids, mask=None) -> TokenBatch:
    ids = torch.tensor(ids)
    b, n = ids.shape
    return TokenBatch(
        state=torch.zeros(b, 1, 1),
        frame_mask=torch.ones(b, 1, dtype=torch.bool),
        text_ids=torch.zeros(b, 1, dtype=torch.long),
        action_ids=ids,
        token_mask=torch.ones(b, n, dtype=torch.bool) if mask is None else torch.tensor(mask),
        legal=torch.ones(b, n, 3, dtype=torch.bool),
    )


def test_at_the_optimum_q_is_the_mean_return_of_a_token_and_v_that_of_the_state():
    given, returns = batch([[0], [0], [1], [2]]), torch.tensor([1.0, 0.5, 0.25, 0.0])
    q = torch.zeros(1, 1, 3, requires_grad=True)
    v = torch.zeros(1, 1, requires_grad=True)
    optimizer = torch.optim.SGD([q, v], lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        shared = q.expand(4, 1, 3), v.expand(4, 1)
        monte_carlo_loss(*shared, given, returns, conservatism=0.0)[0].backward()
        optimizer.step()
    torch.testing.assert_close(q[0, 0], torch.tensor([0.75, 0.25, 0.0]), atol=1e-4, rtol=0)
    assert float(v) == pytest.approx(float(returns.mean()), abs=1e-4)


def test_padding_counts_nowhere_and_the_loss_is_the_sum_of_its_parts():
    given = batch([[0, 1], [2, 0]], mask=[[True, True], [True, False]])
    q, v = torch.rand(2, 2, 3), torch.rand(2, 2)
    returns = torch.tensor([0.3, 0.9])
    loss, metrics = monte_carlo_loss(q, v, given, returns, conservatism=0.2)
    taken = torch.stack([q[0, 0, 0] - 0.3, q[0, 1, 1] - 0.3, q[1, 0, 2] - 0.9])
    torch.testing.assert_close(metrics["loss/q"], taken.square().mean())
    parts = metrics["loss/q"] + metrics["loss/v"] + 0.2 * metrics["loss/cql"]
    torch.testing.assert_close(loss, parts)
    other = q.clone()
    other[1, 1] = 5.0
    torch.testing.assert_close(loss, monte_carlo_loss(other, v, given, returns, 0.2)[0])
