"""LoRA adapters: where they stand, where they start, merged, and two in one pass."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("transformers")

import transformers

from vlm.pretrained.adapters import PairedLinear, add_lora, linear_names, merge_lora, pair_lora


def language_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)
        return transformers.GPT2Model(config).eval()
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    if kind == "qwen2":  # its queries, keys and values have biases
        model = transformers.Qwen2Model(transformers.Qwen2Config(**sizes)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return model
    return transformers.LlamaModel(transformers.LlamaConfig(**sizes)).eval()


def with_lora(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """An adapter that is not zero."""
    torch.manual_seed(seed)
    add_lora(model, rank=3, alpha=6.0, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(params=["gpt2", "llama", "qwen2"])
def model(request) -> torch.nn.Module:
    return language_model(request.param)


IDS = torch.arange(12).view(2, 6)


@torch.no_grad()
def test_an_adapter_starts_at_zero_and_only_it_is_trained(model):
    before = model(IDS).last_hidden_state
    linear = linear_names(model)
    add_lora(model, rank=3, alpha=6.0, dropout=0.0)
    assert torch.equal(model(IDS).last_hidden_state, before)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {n.split(".lora_")[0] for n in trained} == set(linear)
    assert not [n for n in linear if "embed" in n or n in ("wte", "wpe")]


@torch.no_grad()
def test_merging_moves_the_adapter_into_the_weights(model):
    names = [name for name, _ in model.named_parameters()]
    adapted = with_lora(model, 1)
    expected = adapted(IDS).last_hidden_state
    merge_lora(adapted)
    assert [name for name, _ in adapted.named_parameters()] == names
    torch.testing.assert_close(adapted(IDS).last_hidden_state, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ids", [IDS, IDS[:1, :1]], ids=["batch", "one token"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@torch.no_grad()
def test_a_pair_computes_both_adapters_over_one_base(model, ids, dtype, atol):
    first = with_lora(model.to(dtype), 1)
    shared = {id(p): p for n, p in first.named_parameters() if "lora_" not in n}
    second = copy.deepcopy(first, shared)
    for name, parameter in second.named_parameters():
        if "lora_" in name:
            parameter.add_(0.05)
    expected = [m(ids).last_hidden_state for m in (first, second)]
    everything = {id(x): x for x in [*first.parameters(), *first.buffers()]}
    pair = copy.deepcopy(first, everything)
    pair_lora(pair, second)
    assert any(isinstance(m, PairedLinear) for m in pair.modules())
    given = pair(torch.cat([ids, ids])).last_hidden_state.chunk(2)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 10 * atol


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="no linear layers for LoRA: use lora_rank 0"):
        add_lora(torch.nn.Embedding(3, 4), rank=2, alpha=2.0, dropout=0.0)


@torch.no_grad()
def test_adapters_on_bfloat16_weights_are_float32():
    model = language_model("llama").bfloat16()
    add_lora(model, rank=3, alpha=6.0, dropout=0.0)
    kinds = {n.split(".")[-1]: p.dtype for n, p in model.named_parameters() if "lora_" in n}
    assert set(kinds.values()) == {torch.float32}
    assert model(IDS).last_hidden_state.dtype == torch.bfloat16
