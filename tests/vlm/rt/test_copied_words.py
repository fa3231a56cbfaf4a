"""Copied words: whole and token by token alike, the same for every word, from where they may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm.rt.config import RTConfig
from vlm.rt.copied_words import CopiedWords
from vlm.rt.sizes import rt_tiny
from vlm.words import hash_text, hash_words

BUCKETS, LENGTH = 512, 12
WORDS = ("go", "to", "mug", "drawer", "1", "2", "take", "from", "open")
IDS = [0, *(int(hash_text(word, 1, BUCKETS)[0]) for word in WORDS)]
TOKEN = {word: i + 1 for i, word in enumerate(WORDS)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = rt_tiny(
        len(IDS), 6, 0, text_history=3, command_length=5, frame_text_length=8,
        text_buckets=BUCKETS, text_length=LENGTH, action_words=IDS, width=32, depth=2,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(model.copied.gates.weight)
    torch.nn.init.normal_(model.copied.gates.bias)
    return model


def told(model, *steps):
    """Words of the last three steps, [1, 3, w]."""
    rows = [model.encode_frame(command, [text]) for command, text in steps]
    empty = [np.zeros_like(rows[0])] * (3 - len(rows))
    return torch.from_numpy(np.stack([*empty, *rows]))[None]


def goal(text):
    return torch.from_numpy(hash_words(text, LENGTH, BUCKETS))[None]


def test_the_words_are_those_of_the_goal_and_what_followed_the_last_one(model):
    words = told(model, ("go to drawer 1", "nothing"), ("open drawer 1", "a mug 2"))
    source = model.copied.read(goal("put mug in drawer"), words)
    assert {WORDS[i - 1] for i in source.asked[0].nonzero()[:, 0].tolist()} == {"mug", "drawer"}
    gates = model.copied.gates
    torch.nn.init.zeros_(gates.weight)
    for gate, word, following in ((1, "drawer", {"1"}), (1, "mug", set()), (2, "mug", {"2"})):
        with torch.no_grad():
            gates.bias.copy_(torch.nn.functional.one_hot(torch.tensor(gate), 3))
        previous = torch.tensor([[TOKEN[word]]])
        more = model.copied(torch.zeros(1, 1, 32), previous, source)[0, 0]
        assert {WORDS[i - 1] for i in more.nonzero()[:, 0].tolist()} == following


@torch.no_grad()
def test_a_decision_token_by_token_has_the_logits_of_the_whole(model):
    steps = ("go to drawer 1", "a mug 2"), ("open drawer 1", "")
    words = torch.cat([told(model, *steps), told(model, ("", "mug"))])
    text = torch.cat([goal("put mug in drawer"), goal("take 2")])
    mask, state = torch.ones(2, 1).bool(), torch.zeros(2, 1, 0)
    ids = torch.randint(0, len(IDS), (2, 6), generator=torch.Generator().manual_seed(0))
    whole = model(None, state, mask, text, ids, words=words).logits
    output, cache = model.prefill(None, state, mask, text, words=words)
    parts = [output, *(cache.decode(ids[:, i]) for i in range(5))]
    torch.testing.assert_close(torch.cat([part.logits for part in parts], 1), whole)


def test_at_the_start_nothing_is_copied():
    copied = CopiedWords(IDS, 5, 16)
    source = copied.read(goal("put mug in drawer"), torch.ones(1, 3, 13).long())
    assert not copied(torch.randn(1, 2, 16), torch.tensor([[-1, 3]]), source).any()


def test_one_word_a_token_and_a_command_to_read_are_asked_for():
    with pytest.raises(ValueError, match="9 action_words for 10 tokens"):
        RTConfig(10, 6, 0, text_history=3, command_length=5, action_words=tuple(IDS[1:]))
