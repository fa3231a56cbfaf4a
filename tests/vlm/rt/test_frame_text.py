"""Texts of steps as tokens: bags of words, and of pairs where there are any."""

from __future__ import annotations

import torch

from vlm.rt.frame_text import FrameText


def test_a_part_of_one_word_has_no_pairs_and_still_tells_words_apart():
    torch.manual_seed(0)
    text = FrameText(command_length=1, text_length=0, buckets=64, width=16)
    words = torch.tensor([[[3]], [[7]]])
    token = text(words, torch.zeros(2, 1, dtype=torch.int64))
    assert token.shape == (2, 1, 16)
    assert not torch.allclose(token[0], token[1])
    token.sum().backward()  # learns too
