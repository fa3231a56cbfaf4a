"""Q-learning by tokens: targets, what holds the other tokens down, and the optimum of both."""

from __future__ import annotations

import torch

from qsft_robot.algorithms.cql import conservative_gap
from qsft_robot.algorithms.q_transformer import zero_regularizer
from qsft_robot.algorithms.token_q import largest, token_targets
from qsft_robot.token_data.batch import TokenBatch


def batch(ids, mask=None, legal=None, vocab=4) -> TokenBatch:
    ids = torch.tensor(ids)
    b, n = ids.shape
    return TokenBatch(
        state=torch.zeros(b, 1, 1),
        frame_mask=torch.ones(b, 1, dtype=torch.bool),
        text_ids=torch.zeros(b, 1, dtype=torch.long),
        action_ids=ids,
        token_mask=torch.ones(b, n, dtype=torch.bool) if mask is None else torch.tensor(mask),
        legal=torch.ones(b, n, vocab, dtype=torch.bool) if legal is None else legal,
    )


def test_an_inner_token_is_worth_the_best_next_one_and_the_last_one_the_step():
    q = torch.tensor([[[0.1, 0.2, 0.3, 0.9], [0.4, 0.5, 0.6, 0.7], [0.2, 0.2, 0.2, 0.1]]])
    legal = torch.ones(1, 3, 4, dtype=torch.bool)
    legal[0, 1, 3] = False  # the best of the second token may not be taken
    given = batch([[0, 1, 2]], legal=legal)
    assert largest(q, legal)[0].tolist() == torch.tensor([0.9, 0.6, 0.2]).tolist()
    target = token_targets(q, given, torch.tensor([0.8]))
    torch.testing.assert_close(target, torch.tensor([[0.6, 0.2, 0.8]]))
    cut = batch([[0, 1, 2]], mask=[[True, True, False]], legal=legal)
    assert (
        token_targets(q, cut, torch.tensor([0.8]))[0, :2].tolist()
        == torch.tensor([0.6, 0.8]).tolist()
    )
    floor = token_targets(q, given, torch.tensor([0.8]), torch.tensor([0.7]))
    torch.testing.assert_close(floor, torch.tensor([[0.7, 0.7, 0.8]]))


def test_conservative_terms_fall_on_legal_tokens_that_were_not_taken():
    given = batch([[1]], legal=torch.tensor([[[True, True, True, False]]]))
    q = torch.tensor([[[0.5, 0.9, 0.1, 0.8]]], requires_grad=True)
    value = zero_regularizer(q, given)
    torch.testing.assert_close(value, torch.tensor((0.25 + 0.01) / 2))
    (gradient,) = torch.autograd.grad(value, q)
    assert gradient[0, 0, 1] == gradient[0, 0, 3] == 0
    assert (gradient[0, 0, [0, 2]] > 0).all()
    gap = conservative_gap(q, given)
    torch.testing.assert_close(gap, torch.logsumexp(q[0, 0, :3], 0) - 0.9)
    (gradient,) = torch.autograd.grad(gap, q)
    assert gradient[0, 0, 1] < 0 < gradient[0, 0, 0]
    assert gradient[0, 0, 3] == 0
