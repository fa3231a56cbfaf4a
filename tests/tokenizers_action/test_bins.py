"""One conformance suite over every tokenizer, and what is particular to bins."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_action.bins import QuantileBinTokenizer, UniformBinTokenizer
from tokenizers_action.protocol import ActionTokenizer, legal_along


def _quantile(horizon, n_bins=256):
    rng = np.random.default_rng(3)
    actions = np.clip(rng.normal(0, [0.1, 0.5, 2.0], (5000, 3)), -1, 1)
    actions[:, 1] = 0.25  # constant
    return QuantileBinTokenizer.fit(actions.astype(np.float32), horizon, n_bins)


TOKENIZERS = {
    "uniform": UniformBinTokenizer(7),
    "uniform, chunks": UniformBinTokenizer(3, horizon=4, n_bins=32),
    "uniform, bins by dimension": UniformBinTokenizer(4, horizon=2, n_bins=[5, 256, 1, 3]),
    "quantile": _quantile(1),
    "quantile, chunks": _quantile(3, 17),
}


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS.keys())
def tokenizer(request):
    return request.param


def _random_legal_ids(tokenizer: ActionTokenizer, rng, batch):
    ids = np.zeros((batch, 0), np.int64)
    for _ in range(tokenizer.n_tokens):
        legal = tokenizer.legal_tokens(ids)
        scores = np.where(legal, rng.random(legal.shape), -1)
        ids = np.concatenate([ids, scores.argmax(1)[:, None]], axis=1)
    return ids


def test_it_follows_the_protocol(tokenizer):
    assert isinstance(tokenizer, ActionTokenizer)


def test_masked_random_ids_always_decode_within_the_action_range(tokenizer):
    ids = _random_legal_ids(tokenizer, np.random.default_rng(0), 500)
    actions = tokenizer.decode(ids)
    assert actions.shape == (500, tokenizer.horizon, tokenizer.action_dim)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1


def test_decoded_actions_encode_to_the_same_ids(tokenizer):
    ids = _random_legal_ids(tokenizer, np.random.default_rng(1), 500)
    again = tokenizer.encode(tokenizer.decode(ids))
    assert again.dtype == np.int64
    np.testing.assert_array_equal(again, ids)


def test_encoded_ids_are_legal_at_every_position(tokenizer):
    rng = np.random.default_rng(2)
    actions = rng.uniform(-1, 1, (300, tokenizer.horizon, tokenizer.action_dim))
    ids = tokenizer.encode(actions)
    legal = legal_along(tokenizer, ids)
    assert legal.shape == (300, tokenizer.n_tokens, tokenizer.vocab_size)
    assert np.take_along_axis(legal, ids[..., None], axis=2).all()


def test_json_gives_back_the_same_tokenizer(tokenizer):
    value = json.loads(json.dumps(tokenizer.to_json()))
    again = type(tokenizer).from_json(value)
    assert again.to_json() == tokenizer.to_json()
    actions = np.random.default_rng(4).uniform(-1, 1, (50, tokenizer.horizon, tokenizer.action_dim))
    np.testing.assert_array_equal(again.encode(actions), tokenizer.encode(actions))
    np.testing.assert_array_equal(
        again.decode(again.encode(actions)), tokenizer.decode(tokenizer.encode(actions))
    )


def test_json_of_another_kind_is_refused(tokenizer):
    with pytest.raises(ValueError, match="fast_bpe"):
        type(tokenizer).from_json({**tokenizer.to_json(), "kind": "fast_bpe"})


def test_ids_without_a_bin_and_overlong_prefixes_are_refused(tokenizer):
    ids = np.full((1, tokenizer.n_tokens), tokenizer.vocab_size)
    with pytest.raises(ValueError, match="legal"):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match=str(tokenizer.n_tokens)):
        tokenizer.legal_tokens(ids)


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
    tokenizer = QuantileBinTokenizer.fit(actions, 1, n_bins)
    edges = tokenizer.edges(0)
    assert len(edges) == tokenizer.n_bins[0] + 1
    inside = actions[(actions >= edges[0]) & (actions <= edges[-1])].reshape(-1, 1, 1)
    error = np.abs(tokenizer.decode(tokenizer.encode(inside)) - inside)
    assert (error <= tokenizer.bin_width / 2 + 1.1e-6).all()
    ids = _random_legal_ids(tokenizer, rng, 300)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_quantile_bins_span_q01_to_q99_and_clip_what_lies_beyond():
    actions = np.linspace(-1, 1, 2001)[:, None]
    tokenizer = QuantileBinTokenizer.fit(actions)
    np.testing.assert_allclose(tokenizer.edges(0)[[0, -1]], [-0.98, 0.98], atol=1e-9)
    assert tokenizer.encode(np.array([[[-1.0]], [[1.0]]])).ravel().tolist() == [0, 255]


def test_a_constant_dimension_has_one_legal_token_that_decodes_to_the_constant():
    tokenizer = _quantile(2)
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
