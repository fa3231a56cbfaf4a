"""The critic of whole decisions: expectiles, targets, ensembles, and values on problems with known
ones."""

from __future__ import annotations

import pytest
import torch

from qsft_robot.algorithms.advantage_weighted import advantage_weights
from qsft_robot.algorithms.critic import decision_targets, expectile_loss
from vlm.critic import CriticShape, DecisionCritic, load_critic
from vlm.model import Context


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.95])
def test_the_minimizer_is_the_exact_expectile(expectile):
    targets = torch.tensor([0.05, 0.1, 0.4, 0.9], dtype=torch.float64)
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], lr=0.5, max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = expectile_loss(logit.expand(4), targets, expectile)
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    v = float(torch.sigmoid(logit.detach()))
    # What defines an expectile: the weighted distances above and below it are equal.
    above, below = (targets - v).clamp(min=0).sum(), (v - targets).clamp(min=0).sum()
    assert float(expectile * above) == pytest.approx(float((1 - expectile) * below), abs=1e-4)
    assert (v == pytest.approx(float(targets.mean()), abs=1e-3)) == (expectile == 0.5)


def test_targets_bootstrap_after_the_decision_and_not_after_the_end():
    given = {
        "rewards": torch.tensor([0.0, 0.5, 0.0]), "lengths": torch.tensor([4, 4, 2]),
        "ended": torch.tensor([False, True, False]), "following": torch.tensor([0.8, 0.9, 0.3]),
        "returns": torch.tensor([0.2, 0.5, 0.1]),
    }  # fmt: skip
    steps = decision_targets(**given, discount=0.9, lam=0.0)
    torch.testing.assert_close(steps, torch.tensor([0.9**4 * 0.8, 0.5, 0.9**2 * 0.3]))
    own = decision_targets(**given, discount=0.9, lam=1.0)
    torch.testing.assert_close(own, given["returns"])
    half = decision_targets(**given, discount=0.9, lam=0.5)
    torch.testing.assert_close(half, (steps + own) / 2)


def critic(**changes):
    torch.manual_seed(0)
    shape = dict(action_numbers=2, n_tokens=2, vocab_size=5, history=2, state_dim=3, width=32)
    return DecisionCritic(CriticShape(**{**shape, **changes})).eval()


def context(rows: int) -> Context:
    mask = torch.tensor([[True, True]] * rows)
    return Context(None, torch.randn(rows, 2, 3), mask, torch.randint(0, 9000, (rows, 4)))


def test_an_ensemble_of_one_is_its_member_and_more_are_no_more_hopeful():
    seen, decision = context(6), torch.randn(6, 2)
    one = critic(members=1)
    q = torch.sigmoid(one.action_values(one.encode(seen), decision))
    assert torch.equal(one.scores(one.encode(seen), decision), q[0])
    for combine in ("min", "mean"):
        several = critic(members=3, combine=combine)
        encoded = several.encode(seen)
        q = torch.sigmoid(several.action_values(encoded, decision))
        expected = q.amin(0) if combine == "min" else q.mean(0)
        assert torch.equal(several.scores(encoded, decision), expected)
        assert (several.scores(encoded, decision) <= q.mean(0) + 1e-6).all()


def test_a_frame_that_is_not_there_and_padding_words_change_nothing():
    seen, decision, judge = context(3), torch.randn(3, 2), critic()
    mask = torch.tensor([[False, True]] * 3)
    young = seen._replace(frame_mask=mask)
    state = seen.state.clone()
    state[:, 0] = 7.0
    padded = torch.cat([seen.text_ids, torch.zeros(3, 5, dtype=torch.long)], 1)
    for same in (young._replace(state=state), young._replace(text_ids=padded)):
        torch.testing.assert_close(
            judge.scores(judge.encode(same), decision),
            judge.scores(judge.encode(young), decision),
        )


def test_it_starts_at_the_mean_target_and_is_rebuilt_from_its_description():
    judge = critic(members=2)
    judge.start_at(0.3)
    encoded, decision = judge.encode(context(4)), torch.randn(4, 2)
    torch.testing.assert_close(torch.sigmoid(judge.values(encoded)), torch.full((2, 4), 0.3))
    torch.testing.assert_close(judge.scores(encoded, decision), torch.full((4,), 0.3))
    again = load_critic(judge.describe())
    assert {k: x.shape for k, x in again.state_dict().items()} == {
        k: x.shape for k, x in judge.state_dict().items()
    }
    with pytest.raises(ValueError, match=r"combine is 'max'; there are: min, mean"):
        critic(combine="max")


def test_tokens_are_told_apart_by_their_places():
    judge = critic(action_numbers=0)
    encoded = judge.encode(context(1))
    ids = [torch.tensor([[1, 2]]), torch.tensor([[2, 1]])]
    a, b = (judge.scores(encoded, judge.read_decision(each, None)) for each in ids)
    assert not torch.equal(a, b)


def test_dynamic_programming_joins_what_no_log_shows_and_returns_do_not():
    """Two steps. Logs of one kind begin with action A and fail by a bad second action, those of
    the other begin with B and are carried by good second actions. The second state is the same,
    so by the best second action A is worth as much as B; by the logs' own returns it is not."""
    q_of_second = {"good": 1.0, "bad": 0.0}
    following = torch.tensor(0.0, requires_grad=True)
    seconds = torch.tensor([q_of_second["bad"]] * 5 + [q_of_second["good"]] * 5)
    optimizer = torch.optim.Adam([following], 0.1)
    for _ in range(600):
        optimizer.zero_grad()
        expectile_loss(following.expand(10), seconds, 0.95).backward()
        optimizer.step()
    v = torch.sigmoid(following.detach())
    given = {
        "rewards": torch.zeros(2), "lengths": torch.ones(2, dtype=torch.long),
        "ended": torch.tensor([False, False]), "following": v.expand(2),
        "returns": torch.tensor([0.0, 0.9]), "discount": 0.9,
    }  # fmt: skip
    joined = decision_targets(**given, lam=0.0)
    assert joined[0] == joined[1] > 0.8
    own = decision_targets(**given, lam=1.0)
    assert own[0] == 0.0 < own[1]


def test_weights_of_advantages_maximize_the_mean_advantage_near_the_behavior():
    """exp(A / t), normalized, is the best of all distributions by E[A] - t KL(p | uniform)."""
    advantage = torch.tensor([-0.2, 0.0, 0.1, 0.3], dtype=torch.float64)
    weight = advantage_weights(advantage, temperature=0.1, largest=1e9)
    best = weight / weight.sum()

    def worth(p):
        return (p * advantage).sum() - 0.1 * (p * (p * 4).log()).sum()

    for _ in range(50):
        other = torch.softmax(best.log() + 0.3 * torch.randn(4, dtype=torch.float64), 0)
        assert worth(other) <= worth(best)
    capped = advantage_weights(advantage, temperature=0.1, largest=2.0)
    assert torch.equal(capped, weight.clamp(max=2.0))
