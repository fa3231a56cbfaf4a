"""One conformance suite over every tokenizer."""

import json

import numpy as np
import pytest
from tokenizer_cases import TOKENIZERS, legal_ids, random_actions

from tokenizers_action.protocol import ActionTokenizer, ChunkTokenizer, legal_along


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS.keys())
def tokenizer(request):
    return request.param


def test_it_follows_the_protocol(tokenizer):
    assert isinstance(tokenizer, ActionTokenizer)


def test_decoded_actions_encode_to_the_same_ids(tokenizer):
    if isinstance(tokenizer, ChunkTokenizer):
        # Of the many sequences for one chunk encoding takes one, and it clips what none reaches.
        return
    ids = legal_ids(tokenizer, np.random.default_rng(1), 500)
    again = tokenizer.encode(tokenizer.decode(ids))
    assert again.dtype == np.int64
    np.testing.assert_array_equal(again, ids)


def test_encoded_ids_are_legal_at_every_position(tokenizer):
    ids = tokenizer.encode(random_actions(tokenizer, np.random.default_rng(2), 300))
    legal = legal_along(tokenizer, ids)
    assert legal.shape == (300, tokenizer.n_tokens, tokenizer.vocab_size)
    assert np.take_along_axis(legal, ids[..., None], axis=2).all()


def test_json_gives_back_the_same_tokenizer(tokenizer):
    value = json.loads(json.dumps(tokenizer.to_json()))
    again = type(tokenizer).from_json(value)
    assert again.to_json() == tokenizer.to_json()
    actions = random_actions(tokenizer, np.random.default_rng(4), 50)
    np.testing.assert_array_equal(again.encode(actions), tokenizer.encode(actions))
    np.testing.assert_array_equal(
        again.decode(again.encode(actions)), tokenizer.decode(tokenizer.encode(actions))
    )


def test_json_of_another_kind_is_refused(tokenizer):
    with pytest.raises(ValueError, match="fast_bpe"):
        type(tokenizer).from_json({**tokenizer.to_json(), "kind": "fast_bpe"})


def test_ids_that_stand_for_nothing_and_overlong_prefixes_are_refused(tokenizer):
    ids = np.full((1, tokenizer.n_tokens), tokenizer.vocab_size)
    with pytest.raises(ValueError, match="legal"):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match=str(tokenizer.n_tokens)):
        tokenizer.legal_tokens(ids)
