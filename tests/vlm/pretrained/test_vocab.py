"""Action ids: single, not special, in no prompt; too few of them is an error with the counts."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from vlm.pretrained.vocab import added_ids, added_tokens, is_single, least_used_ids
from vlm.tiny.tokenizers import sentences, train_tokenizer

SPECIAL = ["<pad>", "<end>"]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(sentences(), 500, SPECIAL, pad_token="<pad>", eos_token="<end>")
    tokenizer.add_tokens(["<added>"])
    return tokenizer


def test_the_least_used_ids_are_the_last_merges_and_each_is_one_token(tokenizer):
    ids = least_used_ids(tokenizer, 64, 10_000, taken=())
    assert ids == sorted(set(ids))
    assert len(ids) == 64
    for i in ids:
        text = tokenizer.decode([i])
        assert tokenizer.encode(text, add_special_tokens=False) == [i]
    left = set(range(min(ids), len(tokenizer))) - set(ids)
    assert all(i in tokenizer.added_tokens_decoder or not is_single(tokenizer, i) for i in left)


def test_special_added_and_taken_ids_and_ids_without_a_row_are_left_out(tokenizer):
    free = least_used_ids(tokenizer, 32, 10_000, taken=())
    assert tokenizer.convert_tokens_to_ids("<added>") not in free
    again = least_used_ids(tokenizer, 32, 10_000, taken=free[-5:])
    assert not set(again) & set(free[-5:])
    assert max(least_used_ids(tokenizer, 32, 400, taken=())) < 400
    everything = least_used_ids(tokenizer, 200, 10_000, taken=())
    assert not set(everything) & set(tokenizer.all_special_ids)


def test_too_few_free_ids_is_an_error_with_the_counts(tokenizer):
    with pytest.raises(ValueError, match=r"5000 action tokens .* 501 has \d+ free ids \(3 special"):
        least_used_ids(tokenizer, 5000, 10_000, taken=())


def test_added_tokens_stand_behind_the_vocabulary_and_are_found_again(tokenizer):
    import copy

    ids = added_ids(tokenizer, 8)
    assert ids == list(range(len(tokenizer), len(tokenizer) + 8))
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(added_tokens(8))
    assert added_ids(grown, 8) == ids
    assert grown.encode("<action_3>", add_special_tokens=False) == [ids[3]]
    with pytest.raises(ValueError, match="8 of 16 action tokens already"):
        added_ids(grown, 16)
