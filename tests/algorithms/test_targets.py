"""The table of targets and the backups: hand calculations, bounds, limits and the draw."""

import itertools
import math

import numpy as np
import pytest
import torch

from qsft_robot.algorithms.log_probs import ILLEGAL, support_mask
from qsft_robot.algorithms.qsft import backup, q_values
from qsft_robot.algorithms.stage import proportional_steps, uniform_steps
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.returns import ReturnRange

GAMMA = 0.9


def table_of(rewards, terminated, backups, **settings):
    """Targets [t, n] of one log; `backups` [t + 1] or [t + 1, n]."""
    backups = torch.as_tensor(backups, dtype=torch.float64)
    backups = backups[:, None] if backups.ndim == 1 else backups
    targets = lambda_returns(
        torch.as_tensor(rewards, dtype=torch.float64)[None],
        torch.tensor([len(rewards)]),
        torch.tensor([terminated]),
        backups[None],
        **{"discount": GAMMA, "lam": 0.5} | settings,
    )
    return targets[0]


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype))


def test_a_terminal_log_is_the_hand_calculation():
    """w_2 = 1; w_1 = .9 (.5 * .4 + .5 * 1); w_0 = .9 (.5 * .2 + .5 w_1)."""
    found = table_of([0.0, 0.0, 1.0], True, [9.0, 0.2, 0.4, 9.0])
    close(found[:, 0], [0.9 * (0.1 + 0.5 * 0.63), 0.63, 1.0])


def test_a_truncated_log_bootstraps_from_its_last_state():
    """w_1 = .9 * .6 whatever lambda is; w_0 = .9 (.5 * .2 + .5 w_1)."""
    for lam in (0.0, 0.5, 1.0):
        found = table_of([0.0, 0.0], False, [9.0, 0.2, 0.6], lam=lam)
        close(found[:, 0], [0.9 * ((1 - lam) * 0.2 + lam * 0.54), 0.54])


def test_lambda_0_is_one_step_targets_and_lambda_1_the_discounted_return():
    backups = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards = [0.1, 0.0, 0.2, 0.0, 0.3]
    one_step = table_of(rewards, True, backups, lam=0.0)[:, 0]
    close(one_step[:4], torch.tensor(rewards[:4]).double() + GAMMA * backups[1:5])
    returns = [sum(GAMMA**j * r for j, r in enumerate(rewards[t:])) for t in range(5)]
    close(table_of(rewards, True, backups, lam=1.0)[:, 0], returns)


def test_logs_of_unequal_length_do_not_touch_each_other():
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    backups = torch.rand(3, 8, 2, generator=generator, dtype=torch.float64)
    steps, terminated = torch.tensor([7, 2, 5]), torch.tensor([True, False, True])
    for horizon in (1, 3):
        settings = {"discount": GAMMA, "lam": 0.3, "horizon": horizon}
        together = lambda_returns(rewards, steps, terminated, backups, **settings)
        for e, t in enumerate(steps.tolist()):
            alone = table_of(rewards[e, :t], bool(terminated[e]), backups[e, : t + 1], **settings)
            close(together[e, :t], alone)
            assert not together[e, t:].any()


def test_chunks_are_the_hand_calculation():
    """Three actions, chunks of two: chunk 2 holds one action and ends; chunk 1 ends with the log,
    after two; chunk 0 goes on at state 2."""
    settings = {"horizon": 2, "lam": 0.5}
    w2 = 0.3
    w1 = 0.2 + 0.9 * 0.3
    w0 = 0.1 + 0.9 * 0.2 + 0.81 * (0.5 * 0.7 + 0.5 * w2)
    found = table_of([0.1, 0.2, 0.3], True, [9.0, 9.0, 0.7, 9.0], **settings)
    close(found[:, 0], [w0, w1, w2])
    w2 = 0.3 + 0.9 * 0.6  # one action was left, so one step of discount
    w1 = 0.2 + 0.9 * 0.3 + 0.81 * 0.6
    w0 = 0.1 + 0.9 * 0.2 + 0.81 * (0.5 * 0.7 + 0.5 * w2)
    found = table_of([0.1, 0.2, 0.3], False, [9.0, 9.0, 0.7, 0.6], **settings)
    close(found[:, 0], [w0, w1, w2])


def test_a_chunk_longer_than_the_log_is_its_discounted_return():
    found = table_of([0.1, 0.2], True, [9.0, 9.0, 9.0], horizon=5)
    close(found[:, 0], [0.1 + 0.9 * 0.2, 0.2])


def test_the_token_level_recursion_is_the_hand_calculation():
    """Two tokens, lambda 0 (the paper): an inner token's target is the backup at the next token,
    without discount; the last token's is r + gamma backup of the next step's first token."""
    backups = [[9.0, 0.5], [0.4, 0.6], [9.0, 9.0]]
    found = table_of([0.0, 1.0], True, backups, lam=0.0, token_level=True)
    close(found, [[0.5, 0.9 * 0.4], [0.6, 1.0]])
    # lambda .5: half of the next token's own target
    found = table_of([0.0, 1.0], True, backups, lam=0.5, token_level=True)
    first = 0.5 * 0.6 + 0.5 * 1.0
    last = 0.9 * (0.5 * 0.4 + 0.5 * first)
    close(found, [[0.5 * 0.5 + 0.5 * last, last], [first, 1.0]])


def test_without_token_level_every_token_has_the_steps_target():
    found = table_of([0.0, 1.0], True, [[0.1, 0.2, 0.3]] * 3)
    assert (found == found[:, :1]).all()


def test_token_level_targets_with_lambda_1_are_the_steps_return_at_every_token():
    backups = torch.full((4, 3), 7.0)
    found = table_of([0.0, 0.0, 1.0], True, backups, lam=1.0, token_level=True)
    close(found, [[0.81] * 3, [0.9] * 3, [1.0] * 3])


def test_the_reward_of_a_cut_chunk_lands_on_its_last_real_token():
    """A chunk of two actions with two tokens each; at the last step one action is left. Its second
    token has the reward; the backups of the two padded tokens are not read."""
    backups = [[9.0, 0.5, 9.0, 9.0], [9.0] * 4]
    real = torch.tensor([[2]])
    found = table_of([1.0], True, backups, lam=0.0, horizon=2, token_level=True, real_tokens=real)
    close(found[0, :2], [0.5, 1.0])


def test_affine_returns_are_reached_by_the_same_recursion():
    """Rewards -1 a step, 0 on success, returns in [-10, 0]: w = (R + 10) / 10."""
    returns = ReturnRange(GAMMA, -10.0, 0.0)
    rewards = np.array([-1.0, -1.0, 0.0])
    terms = returns.reward_terms(rewards, terminated=True)
    discounted = np.array([-1 - 0.9, -1.0, 0.0])
    found = table_of(terms, True, np.full(4, 9.0), lam=1.0)
    close(found[:, 0], (discounted + 10) / 10)
    # A cut log whose last state is worth -5: the map of -1 - .9 - .81 * 5 and so on.
    terms = returns.reward_terms(rewards[:2], terminated=False)
    found = table_of(terms, False, [9.0, 9.0, 0.5], lam=1.0)
    close(found[:, 0], (np.array([-1 - 0.9 - 0.81 * 5, -1 - 0.9 * 5]) + 10) / 10)
    # One-step targets of a constant return: the value of "for ever -1" maps to 0 and stays there.
    terms = returns.reward_terms(np.full(2, -1.0), terminated=False)
    close(table_of(terms, False, np.zeros(3), lam=0.0)[:, 0], [0.0, 0.0])


def test_targets_of_sparse_rewards_stay_in_0_to_1_for_every_setting():
    generator = torch.Generator().manual_seed(2)
    backups = torch.rand(9, 4, generator=generator, dtype=torch.float64)
    for horizon in (1, 2, 4):
        for terminated in (True, False):
            for token_level in (True, False):
                rewards = torch.zeros(8)
                rewards[-1] = float(terminated)
                found = table_of(
                    rewards, terminated, backups, lam=0.4, horizon=horizon,
                    token_level=token_level, discount=1.0,
                )  # fmt: skip
                assert 0 <= float(found.min()) <= float(found.max()) <= 1 + 1e-12


@pytest.fixture
def distributions():
    """V, log p~, log phi and legal of 6 states with 9 tokens, one of which is illegal."""
    generator = torch.Generator().manual_seed(3)
    legal = torch.ones(6, 9, dtype=torch.bool)
    legal[:, 4] = False
    logs = [
        torch.randn(6, 9, generator=generator, dtype=torch.float64)
        .mul(0.5)
        .masked_fill(~legal, -torch.inf)
        .log_softmax(-1)
        .masked_fill(~legal, ILLEGAL)
        for _ in range(2)
    ]
    value = torch.rand(6, generator=generator, dtype=torch.float64) * 0.2
    return value, *logs, legal


def test_the_mean_of_q_under_the_behavior_is_v(distributions):
    value, log_policy, log_phi, _ = distributions
    q = q_values(value, log_policy, log_phi)
    assert float(q.max()) < 1  # nothing was cut
    close((log_phi.exp() * q).sum(-1), value)


def test_backups_are_ordered_from_v_over_soft_to_max(distributions):
    soft = [backup("soft", *distributions, softness=b) for b in (1e-4, 1.0, 8.0, 1e4)]
    value, highest = backup("value", *distributions), backup("max", *distributions)
    ordered = [value - 1e-4, *soft, highest + 1e-9]
    for smaller, larger in itertools.pairwise(ordered):
        assert (smaller <= larger).all()
    torch.testing.assert_close(soft[0], value, rtol=0, atol=1e-4)
    torch.testing.assert_close(soft[-1], highest, rtol=0, atol=2e-3)


def test_the_soft_backup_of_equal_q_is_that_q(distributions):
    """Independent of the number of tokens, unlike log-sum-exp."""
    value, _, log_phi, legal = distributions
    close(backup("soft", value, log_phi, log_phi, legal, softness=5.0), value)


def test_the_soft_backup_is_the_hand_calculation():
    """pi_phi = (1/4, 3/4), p~ = (3/4, 1/4), V = .3: Q = (.9, .1)."""
    log_phi, log_policy = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.75, 0.25]]).log()
    found = backup(
        "soft", torch.tensor([0.3]), log_policy, log_phi, torch.ones(1, 2).bool(), softness=2.0
    )
    expected = 0.5 * math.log(0.25 * math.exp(1.8) + 0.75 * math.exp(0.2))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_backups_are_non_expansions_in_q(distributions):
    """With p~ = phi, Q = V: moving V by d moves each backup by d at most."""
    value, _, log_phi, legal = distributions
    for kind in ("value", "soft", "max"):
        a = backup(kind, value, log_phi, log_phi, legal)
        b = backup(kind, value + 0.05, log_phi, log_phi, legal)
        assert float((b - a).abs().max()) <= 0.05 + 1e-9


def test_an_unsupported_token_is_not_backed_up():
    """The token with the highest Q has a hundredth of the likeliest one's probability."""
    log_phi = torch.tensor([[0.5, 0.495, 0.005]]).log()
    log_policy = torch.tensor([[0.3, 0.3, 0.4]]).log()
    legal, value = torch.ones(1, 3).bool(), torch.tensor([0.2])
    assert support_mask(log_phi, legal, 0.05).tolist() == [[True, True, False]]
    everything = backup("max", value, log_policy, log_phi, legal)
    supported = backup("max", value, log_policy, log_phi, legal, epsilon=0.05)
    assert float(everything) == pytest.approx(1.0)  # 16, kept to 1
    assert float(supported) == pytest.approx(0.2 * 0.3 / 0.495)


def test_an_illegal_token_is_never_backed_up(distributions):
    value, log_policy, log_phi, legal = distributions
    tempting = log_policy.masked_fill(~legal, 0.0)
    for kind in ("soft", "max"):
        close(
            backup(kind, value, tempting, log_phi, legal),
            backup(kind, value, log_policy, log_phi, legal),
        )


def test_an_unknown_backup_is_refused_with_the_list(distributions):
    with pytest.raises(ValueError, match=r"'mean'.*value, soft, max"):
        backup("mean", *distributions)


def test_steps_are_drawn_in_proportion_and_never_where_the_weight_is_0():
    weight = torch.tensor([0.0, 1.0, 0.0, 3.0, 4.0, 0.0], dtype=torch.float64)
    drawn = proportional_steps(weight.cumsum(0), 40_000, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=6) / len(drawn)
    torch.testing.assert_close(share, (weight / 8).float(), rtol=0, atol=0.01)
    assert not share[weight == 0].any()


def test_uniform_draws_reach_every_step_of_the_pool_and_no_other():
    pool = torch.tensor([3, 5, 8])
    drawn = uniform_steps(pool, 3_000, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=9)[pool] / 3_000
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), rtol=0, atol=0.04)
