"""FAST and splines: every sequence decodes, every prefix does, and rounding is all that is lost."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import CODES, legal_ids, smooth_chunks

from tokenizers_action.fast import FastTokenizer, cosines
from tokenizers_action.pair_merges import END, apply_merges, expansions, learn_merges
from tokenizers_action.protocol import ChunkTokenizer, CoordinateTokenizer, SequenceTokenizer
from tokenizers_action.spline import SplineTokenizer, smooth_basis, spline_basis


@pytest.fixture(params=CODES.values(), ids=CODES.keys())
def code(request):
    return request.param


def test_they_follow_their_protocols():
    assert all(isinstance(code, ChunkTokenizer) for code in CODES.values())
    assert isinstance(CODES["fast"], SequenceTokenizer)
    assert isinstance(CODES["spline"], CoordinateTokenizer)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), greedy=st.booleans())
def test_every_sequence_and_every_prefix_of_it_decodes_to_a_whole_chunk(seed, greedy):
    rng = np.random.default_rng(seed)
    for code in CODES.values():
        ids = legal_ids(code, rng, 4)
        if greedy:  # the ids that stand for most are what a mask might let through too often
            ids = np.zeros((1, 0), np.int64)
            for _ in range(code.n_tokens):
                last = np.flatnonzero(code.legal_tokens(ids)[0])[-1]
                ids = np.concatenate([ids, [[last]]], 1)
        for length in range(code.n_tokens + 1):
            actions = code.decode_prefix(ids[:, :length])
            assert actions.shape == (len(ids), code.horizon, code.action_dim)
            assert (np.abs(actions) <= 1).all()
        np.testing.assert_array_equal(actions, code.decode(ids))


def test_prefixes_come_ever_nearer(code):
    chunks = smooth_chunks(np.random.default_rng(5), 200)
    ids = code.encode(chunks)
    error = [
        np.square(code.decode_prefix(ids[:, :i]) - chunks).mean() for i in range(code.n_tokens + 1)
    ]
    step = 1 if isinstance(code, SplineTokenizer) else 4
    assert all(b <= a * 1.02 for a, b in zip(error[::step], error[step::step], strict=False))
    assert error[-1] < 0.01 * error[0]


def test_fast_loses_no_more_than_its_rounding():
    code = CODES["fast"]
    chunks = smooth_chunks(np.random.default_rng(6), 300)
    inside = ~code.clipped(chunks).any(1)
    chunks = chunks[inside]
    ids = code.encode(chunks)
    whole = np.array([code.real_tokens(row[None], np.ones(1, int)).sum() for row in ids])
    kept = whole < code.n_tokens  # longer ones lose high frequencies
    # Coefficients are off by at most half a step each, and the transform keeps lengths.
    width = (code._high - code._low) / 2
    most = np.sqrt(code.horizon) * 0.5 / code._scale
    off = np.linalg.norm((code.decode(ids) - chunks)[kept] / width, axis=1)
    assert kept.sum() > 200
    assert (off <= most + 1e-4).all()


def test_a_spline_of_all_points_is_bins_of_another_basis_and_of_few_the_nearest_spline():
    chunks = smooth_chunks(np.random.default_rng(7), 400)
    full = SplineTokenizer.fit_chunks(chunks, points=12, n_bins=4096)
    inside = ~full.clipped(chunks).any(1)
    assert inside.mean() > 0.9
    assert np.abs(full.decode(full.encode(chunks)) - chunks)[inside].max() < 2e-3
    few = SplineTokenizer.fit_chunks(chunks, points=5, n_bins=20_000)
    basis = spline_basis(12, 5, 3).T
    for j in (0, 1):
        control, *_ = np.linalg.lstsq(basis, chunks[:, :, j].T, rcond=None)
        nearest = np.clip((basis @ control).T, -1, 1)
        off = np.abs(few.decode(few.encode(chunks))[:, :, j] - nearest).max(1)
        assert (off < 1e-3)[~few.clipped(chunks)[:, j]].all()


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_spline_bases_are_of_full_rank_orthonormal_and_begin_with_the_mean(degree):
    for horizon in (4, 7, 20, 50):
        for points in range(degree + 1, horizon + 1, 3):
            made = spline_basis(horizon, points, degree)
            np.testing.assert_allclose(made.sum(0), 1)
            assert np.linalg.matrix_rank(made) == points
            basis = smooth_basis(horizon, points, degree)
            np.testing.assert_allclose(basis @ basis.T, np.eye(points), atol=1e-9)
            np.testing.assert_allclose(basis[0], horizon**-0.5, atol=1e-9)


def test_cosines_are_orthonormal():
    np.testing.assert_allclose(cosines(9) @ cosines(9).T, np.eye(9), atol=1e-12)


def test_merges_encode_as_the_library_does_and_are_learned_the_same_twice():
    from tokenizers import Tokenizer, models

    rng = np.random.default_rng(8)
    rows = [rng.choice(6, rng.integers(1, 40), p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.02]) + 1
            for _ in range(300)]  # fmt: skip
    merges = learn_merges(rows, 6, 60, 30)
    assert merges == learn_merges(rows, 6, 60, 30)
    made = expansions(merges, 6, 30)
    spelled = ["".join("_abcdef"[i] for i in ids) for ids in made]
    assert len(set(spelled)) == len(spelled)
    pairs = [(spelled[a], spelled[b]) for a, b in merges]
    vocabulary = {text: i for i, text in enumerate(spelled) if text}
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    for row in [*rows, np.ones(17, int), np.full(4, 6)]:
        ours = apply_merges(np.append(row, END), merges, 6)[:-1]
        theirs = library.encode("".join("_abcdef"[i] for i in row)).ids
        assert ours.tolist() == theirs


def test_a_chunk_that_needs_more_places_keeps_its_low_frequencies():
    chunks = smooth_chunks(np.random.default_rng(9), 400)
    short = FastTokenizer.fit_chunks(chunks, vocabulary=600, scale=40.0, max_tokens=6)
    ids = short.encode(chunks)
    assert ids.shape[1] == 6
    whole = FastTokenizer.fit_chunks(chunks, vocabulary=600, scale=40.0, max_tokens=60)
    np.testing.assert_array_equal(ids, whole.encode(chunks)[:, :6])


def test_constant_and_two_valued_dimensions_come_back():
    rng = np.random.default_rng(10)
    chunks = smooth_chunks(rng, 500)
    chunks[:, :, 1] = 0.37
    chunks = np.concatenate(
        [chunks, np.where(rng.random((500, 1, 1)) < 0.5, -1.0, 1.0) + 0 * chunks[:, :, :1]], 2
    )
    for code in (
        FastTokenizer.fit_chunks(chunks, vocabulary=512),
        SplineTokenizer.fit_chunks(chunks, points=4),
    ):
        back = code.decode(code.encode(chunks))
        assert np.abs(back[:, :, 1] - 0.37).max() < 1e-3
        assert np.abs(back[:, :, 2] - chunks[:, :, 2]).max() < 0.05
        legal = code.legal_tokens(np.zeros((1, 1), np.int64))
        assert isinstance(code, FastTokenizer) or legal.sum() == 1
    assert code.to_json()["degrees"] == [3, 3, 0]


def test_what_can_not_be_fit_is_refused_in_one_line():
    chunks = smooth_chunks(np.random.default_rng(11), 100)
    for kind in (FastTokenizer, SplineTokenizer):
        with pytest.raises(ValueError, match="NaN"):
            kind.fit_chunks(np.where(np.arange(2) == 0, np.nan, chunks))
        with pytest.raises(ValueError, match="N >= 1"):
            kind.fit_chunks(chunks[:0])
        with pytest.raises(ValueError, match=r"\[-1, 1\]"):
            kind.fit_chunks(3 * chunks)
    with pytest.raises(ValueError, match=r"--tokenizer.vocabulary or lower --tokenizer.scale"):
        FastTokenizer.fit_chunks(chunks, vocabulary=64, scale=200.0)
    with pytest.raises(ValueError, match="1 to 12 control points"):
        SplineTokenizer.fit_chunks(chunks, points=13)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("merges", [[1, 10_000]]),
        ("merges", [[1, 1], *([60 + i, 60 + i] for i in range(20))]),
        ("horizon", 10**9),
        ("span", [1, 5]),
        ("scale", float("nan")),
        ("low", [0.0]),
        ("n_tokens", 0),
    ],
)
def test_a_strange_description_of_fast_is_a_value_error(entry, value):
    told = json.loads(json.dumps(CODES["fast"].to_json()))
    told = {**told, "span": [-29, 29], "merges": []}
    with pytest.raises(ValueError, match=r".+"):
        FastTokenizer.from_json({**told, entry: value})


@pytest.mark.parametrize(
    ("entry", "value"),
    [("horizon", 10**9), ("horizon", 3), ("degrees", [3]), ("degrees", [9, 9]), ("n_bins", [1, 2])],
)
def test_a_strange_description_of_a_spline_is_a_value_error(entry, value):
    with pytest.raises(ValueError, match="spline"):
        SplineTokenizer.from_json({**CODES["spline"].to_json(), entry: value})
