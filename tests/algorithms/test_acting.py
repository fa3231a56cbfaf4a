"""Acting: each rule's closed form, the support, the cut and the choice."""

import math

import pytest
import torch

from qsft_robot.algorithms.acting import Distributions, acting_log_probs, choose, cut, median
from qsft_robot.algorithms.log_probs import ILLEGAL, legal_log_softmax
from qsft_robot.config.acting import ActingConfig


def act(config, legal, *said, **more):
    return acting_log_probs(config, legal, Distributions(*said, **more))


B, V = 4, 9


@pytest.fixture
def legal() -> torch.Tensor:
    legal = torch.ones(B, V, dtype=torch.bool)
    legal[:, 2] = False
    legal[1, 5:] = False
    return legal


@pytest.fixture
def log_phi(legal: torch.Tensor) -> torch.Tensor:
    return random_log_probs(legal, 0)


@pytest.fixture
def log_policy(legal: torch.Tensor) -> torch.Tensor:
    return random_log_probs(legal, 1)


@pytest.fixture
def value() -> torch.Tensor:
    return torch.tensor([0.05, 0.1, 0.02, 0.08])


def random_log_probs(legal: torch.Tensor, seed: int) -> torch.Tensor:
    logits = torch.randn(B, V, generator=torch.Generator().manual_seed(seed))
    return legal_log_softmax(logits, legal)


def plain(**changes) -> ActingConfig:
    """A rule without support mask and cut."""
    return ActingConfig(**{"support": 0.0, "min_p": 0.0} | changes)


def close(found, scores, legal):
    torch.testing.assert_close(found.exp(), legal_log_softmax(scores, legal).exp())


def test_k_1_is_the_value_policy_alone(legal, log_phi, log_policy):
    close(act(plain(k=1.0), legal, log_phi, log_policy), log_policy, legal)
    close(act(plain(k=1.0), legal, None, log_policy), log_policy, legal)


def test_k_0_is_the_behavior(legal, log_phi, log_policy):
    behavior = act(plain(rule="behavior"), legal, log_phi)
    close(behavior, log_phi, legal)
    close(act(plain(k=0.0), legal, log_phi, log_policy), log_phi, legal)


def test_power_goes_on_in_the_direction_from_the_behavior_to_the_value_policy(
    legal, log_phi, log_policy
):
    """pi ~ pi_phi (p~ / pi_phi)^3."""
    weight = log_phi.exp() * (log_policy.exp() / log_phi.exp()) ** 3
    weight = weight.masked_fill(~legal, 0.0)
    found = act(plain(k=3.0), legal, log_phi, log_policy)
    torch.testing.assert_close(found.exp(), weight / weight.sum(-1, keepdim=True))


def test_ratio_is_the_behavior_times_exp_beta_q(legal, log_phi, log_policy, value):
    q = (value[:, None] * log_policy.exp() / log_phi.exp()).clamp(max=1.0)
    weight = (log_phi.exp() * (5 * q).exp()).masked_fill(~legal, 0.0)
    found = act(plain(rule="ratio", beta=5.0), legal, log_phi, log_policy, value)
    torch.testing.assert_close(found.exp(), weight / weight.sum(-1, keepdim=True))


def test_the_papers_rule_is_the_behavior_times_exp_beta_p_theta(legal, log_phi, log_policy, value):
    """p_theta = V p~; without a void outcome V is 1."""
    found = act(plain(rule="paper", beta=5.0), legal, log_phi, log_policy, value)
    close(found, log_phi + 5 * value[:, None] * log_policy.exp(), legal)
    ones = torch.ones(B)
    found = act(plain(rule="paper", beta=5.0), legal, log_phi, log_policy, ones)
    close(found, log_phi + 5 * log_policy.exp(), legal)


def test_advantage_is_the_behavior_times_exp_beta_advantage(legal, log_phi):
    advantage = torch.randn(B, V, generator=torch.Generator().manual_seed(2))
    found = act(plain(rule="advantage", beta=2.0), legal, log_phi, log_phi, advantage=advantage)
    close(found, log_phi + 2 * advantage, legal)


@pytest.mark.parametrize(
    "config",
    [
        plain(k=4.0, support=0.3),
        plain(rule="ratio", beta=50.0, support=0.3),
        plain(rule="paper", beta=50.0, support=0.3),
        plain(rule="advantage", beta=50.0, support=0.3),
        plain(rule="behavior", support=0.3),
    ],
    ids=lambda config: config.rule,
)
def test_no_rule_leaves_the_support_of_the_behavior(config, legal, log_phi, log_policy, value):
    advantage = 3 * torch.randn(B, V, generator=torch.Generator().manual_seed(2))
    found = act(config, legal, log_phi, log_policy, value, advantage).exp()
    likeliest = log_phi.exp().amax(-1, keepdim=True)
    supported = legal & (log_phi.exp() >= 0.3 * likeliest)
    assert (~supported & legal).any()
    assert not found[~supported].any()
    assert (found[supported] > 0).any()
    torch.testing.assert_close(found.sum(-1), torch.ones(B))


def test_the_cut_drops_what_is_unlikely_and_renormalizes():
    log_probs = torch.tensor([[0.5, 0.3, 0.16, 0.04]]).log()
    torch.testing.assert_close(
        cut(log_probs, 0.3).exp(), torch.tensor([[0.5, 0.3, 0.16, 0.0]]) / 0.96
    )
    torch.testing.assert_close(cut(log_probs, 0.5).exp(), torch.tensor([[0.625, 0.375, 0, 0]]))
    torch.testing.assert_close(cut(log_probs, 1.0).exp(), torch.tensor([[1.0, 0, 0, 0]]))
    assert cut(log_probs, 0.0) is log_probs


def test_the_cut_keeps_illegal_tokens_illegal():
    log_probs = torch.tensor([[math.log(0.6), ILLEGAL, math.log(0.4)]])
    for min_p in (1e-30, 0.3, 1.0):
        assert float(cut(log_probs, min_p).exp()[0, 1]) == 0


@pytest.mark.parametrize("temperature", [0.0, 0.1, 1.0, 100.0])
def test_an_illegal_token_is_never_chosen(temperature, legal, log_policy):
    tempting = log_policy.masked_fill(~legal, 0.0)  # a network may like it
    generator = torch.Generator().manual_seed(0)
    log_probs = act(plain(), legal, None, tempting)
    for _ in range(500):
        noise = -(-torch.rand(B, V, generator=generator).log()).log()
        ids = choose(log_probs, temperature, noise)
        assert legal.gather(1, ids[:, None]).all()


def test_temperature_0_takes_the_likeliest_token_whatever_the_noise(log_policy):
    noise = 100 * torch.randn(B, V, generator=torch.Generator().manual_seed(0))
    assert torch.equal(choose(log_policy, 0.0, noise), log_policy.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_have_the_tempered_distribution(temperature):
    log_probs = torch.tensor([0.6, 0.3, 0.1]).log()
    count = 20_000
    uniform = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    ids = choose(log_probs.expand(count, 3), temperature, -(-uniform.log()).log())
    share = torch.bincount(ids, minlength=3) / count
    expected = (log_probs / temperature).softmax(-1)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.015)


def test_the_median_is_the_bin_in_which_half_of_the_draws_lie_at_or_below():
    # Noise around .3 that the limits of the arm cut off: the mode stands at a limit.
    noisy = (0.3 + 1.5 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))).clip(
        -1, 1
    )
    bins = torch.linspace(-1, 1, 33)
    counts = torch.bincount(torch.bucketize(noisy, bins[1:-1]), minlength=32)
    log_probs = (counts / counts.sum()).log()[None]
    for exported in (1.0, torch.tensor(1.0)):
        (token,) = median(log_probs, exported)
        assert bins[token] <= noisy.median() <= bins[token + 1]
    assert log_probs.argmax() in (0, 31)
    for exported in (0.0, torch.tensor(0.0)):
        assert torch.equal(median(log_probs, exported), log_probs.argmax(-1))


def test_the_median_is_never_illegal_and_turns_with_the_order(legal, log_policy):
    log_probs = act(plain(), legal, None, log_policy)
    ids = median(log_probs, 1.0)
    assert legal.gather(1, ids[:, None]).all()
    # From the other end the same token, where no edge of one lies at the half.
    assert torch.equal(V - 1 - median(log_probs.flip(-1), 1.0), ids)
    even = torch.full((1, 4), 0.25).log()
    assert median(even, 1.0).tolist() == [1]
