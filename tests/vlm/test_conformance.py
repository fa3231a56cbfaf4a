"""The promises of ActionModel, over every kind of model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vlm.model import ActionModel, Context
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.model import PretrainedModel
from vlm.rt.sizes import decision_transformer, perceptron, rt_tiny, whole_commands

V, N, B = 12, 4, 3
MODELS = (
    "rt",
    "perceptron",
    "whole_commands",
    "decision_transformer",
    "gpt2",
    "llama",
    "qwen3",
    "gemma2",
)


@pytest.fixture(params=MODELS)
def model(request, tiny_folder) -> ActionModel:
    torch.manual_seed(0)
    if request.param == "rt":
        return rt_tiny(V, N, 5, history=2, width=32).eval()
    if request.param == "perceptron":
        return perceptron(V, N, 5, history=2, width=32).eval()
    if request.param == "whole_commands":
        commands = tuple(itertools.product(range(V), repeat=N))[::7]
        return whole_commands(V, N, 5, history=2, width=32, commands=commands).eval()
    if request.param == "decision_transformer":
        return decision_transformer(
            V, N, 5, history=2, width=32, decision={"past_dim": 2, "reads_instruction": True}
        ).eval()
    base = str(tiny_folder(request.param))
    config = PretrainedConfig(base=base, vocab_size=V, n_tokens=N, state_dim=5, history=2)
    return PretrainedModel(config).eval()


@pytest.fixture
def context(model: ActionModel) -> Context:
    words = np.stack([model.encode_words(text) for text in ("lift the cube", "open it", "")])
    frame_mask = torch.ones(B, 2, dtype=torch.bool)
    frame_mask[1, 0] = False
    return Context(None, torch.randn(B, 2, 5), frame_mask, torch.from_numpy(words))


def read(model: ActionModel, context: Context, ids: torch.Tensor) -> torch.Tensor:
    seen = (context.features, context.state, context.frame_mask, context.text_ids)
    with torch.no_grad():
        return model(*seen, ids).logits


def test_reading_token_by_token_equals_reading_the_whole(model, context) -> None:
    ids = torch.randint(0, V, (B, N))
    output, cache = model.prefill(*context)
    found = [output.logits]
    with torch.no_grad():
        for i in range(N - 1):
            found.append(cache.decode(ids[:, i]).logits)
    torch.testing.assert_close(torch.cat(found, 1), read(model, context, ids), atol=2e-5, rtol=0)


def test_a_later_token_changes_no_earlier_output_and_an_unseen_frame_none(model, context) -> None:
    ids = torch.randint(0, V, (B, N))
    whole = read(model, context, ids)
    for i in range(N):
        other = ids.clone()
        other[:, i:] = (other[:, i:] + 1) % V
        assert torch.equal(read(model, context, other)[:, : i + 1], whole[:, : i + 1])
    state = context.state.clone()
    state[1, 0] = 99.0
    changed = read(model, context._replace(state=state), ids)
    torch.testing.assert_close(changed[1], whole[1], atol=1e-5, rtol=0)


def test_its_parameters_are_divided_and_its_sizes_are_told(model) -> None:
    image, decoder = list(model.image_parameters()), list(model.decoder_parameters())
    assert decoder
    assert not {id(p) for p in image} & {id(p) for p in decoder}
    shape = model.config
    assert (shape.vocab_size, shape.n_tokens, shape.state_dim, shape.history) == (V, N, 5, 2)
    assert model.encode_words("lift the cube").dtype == np.int64
    assert model.reads_frames == (type(model).encode_frame is not ActionModel.encode_frame)
