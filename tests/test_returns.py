"""The affine map of returns agrees with discounted sums, and refuses what lies outside."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_robot.returns import ReturnRange


def discounted(rewards, gamma, bootstrap=0.0):
    t = np.arange(len(rewards))
    return [
        float((gamma ** (t[i:] - i) * rewards[i:]).sum() + gamma ** (len(t) - i) * bootstrap)
        for i in t
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=20),
    st.floats(0.3, 1.0),
    st.booleans(),
    st.floats(0.45, 0.55),  # a log of 20 steps and what follows stay within +-25
)
def test_targets_are_the_mapped_discounted_returns(rewards, gamma, terminated, bootstrap):
    rewards = np.array(rewards)
    returns = ReturnRange(gamma, -25.0, 25.0)
    last = 0.0 if terminated else returns.to_return(bootstrap)
    expected = (np.array(discounted(rewards, gamma, last)) + 25) / 50
    w = returns.monte_carlo(rewards, terminated, bootstrap)
    np.testing.assert_allclose(w, expected, atol=1e-9)
    np.testing.assert_allclose([returns.to_return(x) for x in w], expected * 50 - 25, atol=1e-7)


def test_a_sparse_success_discounts_back_from_one():
    w = ReturnRange(0.5).monte_carlo(np.array([0, 0, 1.0]), terminated=True)
    np.testing.assert_allclose(w, [0.25, 0.5, 1.0])
    w = ReturnRange(0.5).monte_carlo(np.zeros(3), terminated=False, bootstrap=0.8)
    np.testing.assert_allclose(w, [0.1, 0.2, 0.4])


def test_terms_of_a_chunk_sum_to_the_same_target():
    returns = ReturnRange(0.9, -3.0, 5.0)
    rewards = np.array([0.1, -0.2, 0.3, 0.0, 1.0, 0.2])
    terms = returns.reward_terms(rewards, terminated=False)
    w = returns.monte_carlo(rewards, terminated=False, bootstrap=0.4)
    chunk = sum(0.9**j * terms[1 + j] for j in range(3))
    assert chunk + 0.9**3 * w[4] == pytest.approx(w[1])


def test_the_default_range_leaves_rewards_as_they_are():
    rewards = np.array([0.0, 0.0, 1.0], np.float32)
    for terminated in (True, False):
        np.testing.assert_array_equal(ReturnRange(0.9).reward_terms(rewards, terminated), rewards)


@pytest.mark.parametrize(
    ("rewards", "terminated"),
    [([0, 1, 1], True), ([0, 0, -1], True), ([0, 3, 0], False), ([0, -3, 0], False)],
)
def test_a_return_outside_the_range_is_an_error_not_a_clip(rewards, terminated):
    returns = ReturnRange(0.9)
    with pytest.raises(ValueError, match=r"demo_3: .*outside the declared range \[0, 1\]"):
        returns.check(np.array(rewards), terminated, "demo_3")
    with pytest.raises(ValueError, match=r"--data\.return-low"):
        returns.monte_carlo(np.array(rewards), terminated)


def test_a_truncated_log_is_refused_only_when_no_bootstrap_could_help():
    costs = np.full(5, -0.1)
    returns = ReturnRange(0.9, -1.0, 0.0)
    returns.check(costs, terminated=False)
    with pytest.raises(ValueError, match="outside"):
        returns.check(np.full(5, -0.5), terminated=False)


@pytest.mark.parametrize("bad", [(0.0, 0, 1), (1.1, 0, 1), (0.9, 1, 1), (0.9, 0, np.inf)])
def test_impossible_ranges_are_refused(bad):
    with pytest.raises(ValueError, match=r"discount|low < high"):
        ReturnRange(*bad)


def test_json_gives_back_the_same_range():
    returns = ReturnRange(0.97, -2.0, 3.5)
    assert ReturnRange.from_json(json.loads(json.dumps(returns.to_json()))) == returns
