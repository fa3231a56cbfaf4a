"""What is particular to bins; what they share with other tokenizers is in test_protocol.py."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import BINS, legal_ids, quantile_bins

from tokenizers_action.bins import QuantileBinTokenizer, UniformBinTokenizer
from tokenizers_action.protocol import legal_along


@pytest.fixture(params=BINS.values(), ids=BINS.keys())
def tokenizer(request):
    return request.param


def test_masked_random_ids_always_decode_within_the_action_range(tokenizer):
    actions = tokenizer.decode(legal_ids(tokenizer, np.random.default_rng(0), 500))
    assert actions.shape == (500, tokenizer.horizon, tokenizer.action_dim)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.01, -3.0])
def test_actions_that_are_not_within_minus_one_and_one_are_refused(tokenizer, bad):
    actions = np.zeros((2, tokenizer.horizon, tokenizer.action_dim))
    actions[1, 0, 0] = bad
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        tokenizer.encode(actions)


def test_a_wrong_shape_is_refused_and_an_empty_batch_is_not(tokenizer):
    with pytest.raises(ValueError, match="shape"):
        tokenizer.encode(np.zeros((2, tokenizer.horizon, tokenizer.action_dim + 1)))
    assert tokenizer.encode(np.zeros((0, tokenizer.horizon, tokenizer.action_dim))).shape == (
        0,
        tokenizer.n_tokens,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 999)
)
def test_uniform_bins_round_trip_within_half_a_bin(n_bins, horizon, seed):
    tokenizer = UniformBinTokenizer(len(n_bins), horizon, n_bins)
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (64, horizon, len(n_bins))).astype(np.float32)
    actions[0], actions[1], actions[2] = -1, 0, 1
    error = np.abs(tokenizer.decode(tokenizer.encode(actions)) - actions)
    assert (error <= tokenizer.bin_width / 2 + 2e-7).all()
    assert tokenizer.vocab_size == max(n_bins)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-7, 1.0), st.floats(-1, 1), st.integers(2, 300), st.integers(0, 999))
def test_quantile_bins_round_trip_within_half_a_bin_between_q01_and_q99(spread, mid, n_bins, seed):
    rng = np.random.default_rng(seed)
    actions = np.clip(mid + spread * rng.normal(size=(400, 1)), -1, 1).astype(np.float32)
    tokenizer = QuantileBinTokenizer.fit(actions, n_bins=n_bins)
    edges = tokenizer.edges(0)
    assert len(edges) == tokenizer.n_bins[0] + 1
    inside = actions[(actions >= edges[0]) & (actions <= edges[-1])].reshape(-1, 1, 1)
    error = np.abs(tokenizer.decode(tokenizer.encode(inside)) - inside)
    assert (error <= tokenizer.bin_width / 2 + 1.1e-6).all()
    ids = legal_ids(tokenizer, rng, 300)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_quantile_bins_span_q01_to_q99_and_clip_what_lies_beyond():
    actions = np.linspace(-1, 1, 2001)[:, None]
    tokenizer = QuantileBinTokenizer.fit(actions)
    np.testing.assert_allclose(tokenizer.edges(0)[[0, -1]], [-0.98, 0.98], atol=1e-9)
    assert tokenizer.encode(np.array([[[-1.0]], [[1.0]]])).ravel().tolist() == [0, 255]


def test_a_constant_dimension_has_one_legal_token_that_decodes_to_the_constant():
    tokenizer = quantile_bins(2)
    assert tokenizer.n_bins[1] == 1
    legal = legal_along(tokenizer, np.zeros((1, 6), np.int64))[0]
    assert legal.sum(1).tolist() == [256, 1, 256] * 2
    assert (tokenizer.decode(np.zeros((1, 6), np.int64))[:, :, 1] == 0.25).all()


def test_a_gripper_that_rarely_opens_keeps_both_commands():
    actions = np.ones((1000, 1))
    actions[:3] = -1
    tokenizer = QuantileBinTokenizer.fit(actions)
    decoded = tokenizer.decode(tokenizer.encode(np.array([[[-1.0]], [[1.0]]])))
    np.testing.assert_allclose(decoded.ravel(), [-1, 1], atol=1 / 256)


def test_ids_run_time_major():
    tokenizer = UniformBinTokenizer(2, horizon=2, n_bins=4)
    ids = tokenizer.encode(np.array([[[-0.9, -0.3], [0.3, 0.9]]]))
    assert ids.tolist() == [[0, 1, 2, 3]]


def test_a_million_actions_encode_and_decode_in_about_a_second():
    tokenizer = UniformBinTokenizer(7)
    actions = np.random.default_rng(0).uniform(-1, 1, (1_000_000, 1, 7)).astype(np.float32)
    start = time.process_time()
    ids = tokenizer.encode(actions)
    tokenizer.decode(ids)
    assert time.process_time() - start < 3  # about 0.5 s on one idle core


@pytest.mark.parametrize("n_bins", [0, [4, 0], [4, 4, 4]])
def test_impossible_bin_counts_are_refused(n_bins):
    with pytest.raises(ValueError, match="bin"):
        UniformBinTokenizer(2, n_bins=n_bins)
