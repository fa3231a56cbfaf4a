"""A language model's likeliest line is that of all lines' sums; what it keeps changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
from vlm.pretrained.language import LanguageModel
from vlm.tiny.models import build_tiny_model

TEXT = "put the red cube into the bowl\nact:"
LINES = [" put it", " put it away", " take", " the red cube", " red", " put", " bowl and cube"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_model("llama", tmp_path_factory.mktemp("model") / "llama", seed=3)


@pytest.fixture
def model(folder):
    return LanguageModel(str(folder))


def log_prob(model, text, line):
    """The sum over the tokens of a line, by one pass without anything kept."""
    before = model.tokenizer.encode(text, add_special_tokens=False)
    after = model.tokenizer.encode(f"{line}\n", add_special_tokens=False)
    with torch.no_grad():
        logits = model.model(torch.tensor([before + after])).logits[0].double()
    said = torch.log_softmax(logits, -1)[len(before) - 1 : -1]
    return float(said[torch.arange(len(after)), torch.tensor(after)].sum())


def test_the_likeliest_line_has_the_largest_sum(model):
    for text in (TEXT, "take the bowl\nact:", f"{TEXT} red\nact:", TEXT):
        sums = [log_prob(model, text, line) for line in LINES]
        assert model.likeliest(text, LINES) == int(np.argmax(sums))
    with pytest.raises(ValueError, match="no line"):
        model.likeliest(TEXT, [])


def test_what_was_read_before_changes_nothing(model, folder):
    def greedy(reader, text):
        return reader.write(text, 12, 0.0, np.random.default_rng(0))

    texts = [TEXT, f"{TEXT} put\nact:", TEXT[:20], "other", TEXT]
    assert [greedy(model, text) for text in texts] == [
        greedy(LanguageModel(str(folder)), text) for text in texts
    ]


def test_what_is_drawn_goes_by_its_seed_and_is_one_line(model):
    def drawn(seed):
        return model.write(TEXT, 20, 2.0, np.random.default_rng(seed))

    found = [drawn(seed) for seed in range(4)]
    assert found == [drawn(seed) for seed in range(4)]
    assert len(set(found)) > 1
    assert all("\n" not in line for line in found)


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="is no Hugging Face model"):
        LanguageModel(str(tmp_path))
