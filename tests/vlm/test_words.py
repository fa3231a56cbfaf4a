"""Word ids: stable, padded, blind to case and punctuation, never longer than the model reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm.blocks import InstructionEncoder
from vlm.rt.config import RTConfig
from vlm.rt.model import RTModel
from vlm.word_embedding import WordEmbedding
from vlm.words import ASCII_WORDS, UNICODE_WORDS, alike, hash_text, hash_words, split_words

# Pairs of everyday words that share a row of one table of 4,096.
_SAME_ROW = [("above", "screw"), ("black", "door"), ("bread", "switch"), ("cloth", "mouse")]


def test_ids_are_the_same_on_every_machine():
    # The closed form, so that a checkpoint keeps its words.
    import zlib

    ids = hash_words("red cube", length=4, buckets=4096)
    assert ids.dtype == np.int64
    assert ids.tolist() == [1 + zlib.crc32(b"red") % 4095, 1 + zlib.crc32(b"cube") % 4095, 0, 0]


def test_case_and_punctuation_do_not_matter_but_order_does():
    assert (hash_words("Pick the RED cube!") == hash_words("pick  the red-cube")).all()
    assert not (hash_words("red blue") == hash_words("blue red")).all()
    assert not hash_words("").any()


def test_an_instruction_that_is_too_long_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="3 words and the model reads 2"):
        hash_words("open the drawer", length=2)


def test_padding_has_no_effect_on_the_vector_of_an_instruction():
    torch.manual_seed(0)
    short = InstructionEncoder(4, 64, 32, 16)
    long = InstructionEncoder(9, 64, 32, 16)
    state = short.state_dict()
    state["positions"] = torch.cat([short.positions, torch.randn(5, 32)])
    long.load_state_dict(state)
    texts = ["open the drawer", "", "put it here now"]
    one = torch.from_numpy(np.stack([hash_words(t, 4, 64) for t in texts]))
    two = torch.from_numpy(np.stack([hash_words(t, 9, 64) for t in texts]))
    torch.testing.assert_close(short(one), long(two), atol=1e-6, rtol=0)


def test_equal_instructions_in_a_batch_get_equal_vectors_and_shared_gradients():
    torch.manual_seed(0)
    encoder = InstructionEncoder(4, 64, 32, 16)
    ids = torch.from_numpy(np.stack([hash_words(t, 4, 64) for t in ("a b", "c", "a b")]))
    vectors = encoder(ids)
    assert torch.equal(vectors[0], vectors[2])
    torch.testing.assert_close(vectors, encoder._encode(ids), atol=1e-6, rtol=0)
    weight = encoder.out.weight
    once = torch.autograd.grad(vectors.square().sum(), weight)[0]
    each = torch.autograd.grad(encoder._encode(ids).square().sum(), weight)[0]
    torch.testing.assert_close(once, each, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("把杯子放在盘子上", "打开抽屉"),
        ("打开抽屉", "关上抽屉"),
        ("カップを置く", "コップを置く"),
        ("컵을 접시에 놓아", "서랍을 열어"),
        ("положи чашку", "открой ящик"),
        ("दराज़ खोलो", "दराज़ खिलो"),
        ("เปิดลิ้นชัก", "ปิดลิ้นชัก"),
        ("افتح الدرج", "أغلق الدرج"),
        ("près du thé", "pr s du th"),
        ("turn 5 degrees", "turn -5 degrees"),
        ("take the 🍎", "take the 🍌"),
    ],
)
def test_instructions_of_every_script_are_read(one, other):
    ids, others = (hash_words(text, scheme=UNICODE_WORDS) for text in (one, other))
    assert ids.any()
    assert others.any()
    assert (ids != others).any()
    assert not alike(one, other)


def test_case_width_and_punctuation_make_no_difference():
    pairs = [
        ("ÖFFNE die Schublade!", "öffne die schublade"),
        ("ＯＰＥＮ ｉｔ", "open it"),
        ("l’assiette", "l'assiette"),
        ("cafe\u0301", "café"),
        ("pick up the red-cube.", "Pick up the red cube"),
    ]
    for one, other in pairs:
        assert split_words(one) == split_words(other)
        assert alike(one, other)
    assert not alike("!!!", "???")


def test_the_fast_way_through_ascii_finds_the_same_words():
    rng = np.random.default_rng(0)
    letters = list("ab1 '-_$+.%\n")
    for _ in range(300):
        text = "".join(rng.choice(letters, 12))
        assert split_words(f"{text} é")[:-1] == split_words(text)
        plain = [word for word in split_words(text) if word[0].isalnum() or word[0] == "'"]
        assert plain == split_words(text, ASCII_WORDS)


def test_words_that_share_a_row_of_one_table_have_vectors_of_their_own():
    torch.manual_seed(0)
    embedding = WordEmbedding(4096, 8, UNICODE_WORDS)
    for one, other in _SAME_ROW:
        narrow = [hash_words(w, 1) for w in (one, other)]
        wide = [hash_words(w, 1, scheme=UNICODE_WORDS) for w in (one, other)]
        assert narrow[0] == narrow[1]
        assert wide[0] != wide[1]
        vectors = [embedding(torch.from_numpy(ids))[0] for ids in wide]
        assert (vectors[0] - vectors[1]).abs().max() > 0.1
        first = (embedding._rows(torch.from_numpy(ids))[0].item() for ids in wide)
        assert [*first] == [ids.item() for ids in narrow]


@pytest.mark.parametrize("scheme", [ASCII_WORDS, UNICODE_WORDS])
def test_a_bag_is_the_sum_of_its_words_without_padding(scheme):
    torch.manual_seed(0)
    embedding = WordEmbedding(64, 8, scheme)
    texts = ["put the mug there", "open it", ""]
    ids = torch.from_numpy(np.stack([hash_text(t, 5, 64, scheme) for t in texts]))
    summed = (embedding(ids) * (ids != 0)[..., None]).sum(1)
    torch.testing.assert_close(embedding.bag(ids), summed)


def test_a_model_that_names_no_scheme_reads_as_it_was_trained():
    old = RTModel(RTConfig(vocab_size=9, n_tokens=3, state_dim=2))
    assert not [name for name in old.state_dict() if name.endswith("second")]
    assert (old.encode_words("Pick it, 打开") == hash_words("pick it")).all()
    with pytest.raises(ValueError, match="word_scheme is 3"):
        RTConfig(vocab_size=9, n_tokens=3, state_dim=2, word_scheme=3)
