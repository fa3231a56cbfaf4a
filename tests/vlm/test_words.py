"""Word ids: stable, padded, blind to case and punctuation, never longer than the model reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm.blocks import InstructionEncoder
from vlm.words import hash_words


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
