"""A Decision Transformer against its definition, and against Hugging Face's on the same weights."""

from __future__ import annotations

import pytest
import torch

from vlm.decision_transformer.config import DecisionConfig
from vlm.decision_transformer.model import DecisionTransformer
from vlm.decision_transformer.trunk import load_trunk
from vlm.model import Context
from vlm.rt.config import RTConfig
from vlm.rt.sizes import decision_transformer

STATE, ACTION, K, V, N, B = 5, 3, 4, 12, 3, 3
PLACES = [(-1 + 1 / V, 2 / V)] * N


def build(head="tokens", **changes) -> DecisionTransformer:
    torch.manual_seed(0)
    own = {"past_dim": ACTION + 1, "head": head, **changes}
    if head == "continuous":
        own["places"] = PLACES
    model = decision_transformer(V, N, STATE + ACTION + 1, history=K, width=32, decision=own)
    assert isinstance(model, DecisionTransformer)
    return model.eval()


def context(frame_mask=None) -> Context:
    seen = torch.ones(B, K, dtype=torch.bool) if frame_mask is None else frame_mask
    text = torch.zeros(B, 16, dtype=torch.long)
    return Context(None, torch.randn(B, K, STATE + ACTION + 1), seen, text)


@pytest.mark.parametrize("trunk", ["scratch", "gpt2", "llama", "gemma2"])
def test_no_frame_sees_a_later_one_nor_one_before_the_episode(trunk, tiny_folder) -> None:
    own = {} if trunk == "scratch" else {"base": str(tiny_folder(trunk)), "layers": 1}
    model, given = build(**own), context()
    assert given.state is not None
    seen = model.read(*given[:4])
    for k in range(K):
        later = given.state.clone()
        later[:, k] += 1.0
        changed = model.read(None, later, *given[2:4])
        torch.testing.assert_close(changed[:, :k], seen[:, :k], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(changed[:, k], seen[:, k], atol=1e-3)
    # The window of a young episode is the window that begins with it.
    young = given.frame_mask.clone()
    young[:, 0] = False
    other = given.state.clone()
    other[:, 0] = float("nan")
    one, two = (model.read(None, x, young, given.text_ids)[:, 1:] for x in (given.state, other))
    assert torch.isfinite(two).all()
    torch.testing.assert_close(one, two)


def test_the_actions_before_a_window_are_hidden_and_those_inside_are_not() -> None:
    model, given = build(), context()
    assert given.state is not None
    seen = model.read(*given[:4])[:, -1]
    for k in range(K):
        other = given.state.clone()
        other[:, k, STATE : STATE + ACTION] += 1.0
        changed = model.read(None, other, *given[2:4])[:, -1]
        assert torch.equal(changed, seen) == (k == 0)


@pytest.mark.parametrize("head", ["tokens", "continuous"])
def test_reading_token_by_token_equals_reading_the_whole(head) -> None:
    model, given = build(head), context()
    ids = torch.randint(0, V, (B, N))
    whole = model(*given[:4], ids).logits
    output, cache = model.prefill(*given)
    found = [output.logits, *(cache.decode(ids[:, i]).logits for i in range(N - 1))]
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="the decision is complete"):
        cache.decode(ids[:, -1])


def test_the_likeliest_bin_is_the_nearest_one_to_the_number() -> None:
    model, given = build("continuous"), context()
    hidden = model.read(*given[:4])[:, -1]
    ids = model(*given[:4], torch.zeros(B, N, dtype=torch.long)).logits.argmax(-1)
    centers = -1 + (ids + 0.5) * 2 / V
    assert float((centers - model.means(hidden)).abs().max()) <= 1 / V + 1e-6


def test_it_equals_hugging_faces_on_copied_weights(tmp_path) -> None:
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    torch.manual_seed(1)
    theirs = DecisionTransformerModel(
        DecisionTransformerConfig(
            state_dim=STATE, act_dim=ACTION, hidden_size=32, n_layer=2, n_head=4, max_ep_len=50,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, vocab_size=7,
        )
    ).eval()  # fmt: skip
    folder = tmp_path / "gpt2"
    gpt2_of(theirs).save_pretrained(folder)
    ours = build("continuous", embeddings="linear", base=str(folder))
    with torch.no_grad():
        theirs.embed_timestep.weight.zero_()  # ours has no embedding of the time in the episode
        for mine, name in (
            (ours.state_token, "embed_state"), (ours.return_to_go, "embed_return"),
            (ours.past_actions, "embed_action"), (ours.embedding_norm, "embed_ln"),
            (ours.numbers, "predict_action.0"),
        ):  # fmt: skip
            mine.load_state_dict(theirs.get_submodule(name).state_dict())
        seen = torch.ones(B, K, dtype=torch.bool)
        seen[1, :2] = False
        states, actions = torch.randn(B, K, STATE), torch.randn(B, K, ACTION)
        returns = torch.randn(B, K, 1)
        wanted = theirs(
            states=states, actions=actions, rewards=returns, returns_to_go=returns,
            timesteps=torch.arange(K).expand(B, K), attention_mask=seen.long(),
        ).action_preds  # fmt: skip
        before = torch.cat([torch.zeros(B, 1, ACTION), actions[:, :-1]], 1)
        state = torch.cat([states, before, returns], 2)
        text = torch.zeros(B, 16, dtype=torch.long)
        found = ours.means(ours.read(None, state, seen, text))
    torch.testing.assert_close(found[seen], wanted[seen], atol=1e-5, rtol=1e-5)


def gpt2_of(model):
    """The GPT-2 of a Decision Transformer of Hugging Face, its positions (all the first) off."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 7, "n_positions": 64}
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, activation_function="relu"))
    with torch.no_grad():
        model.encoder.wpe.weight.zero_()
        gpt2.transformer.wpe.weight.zero_()
        own = {k: x for k, x in model.encoder.state_dict().items() if not k.startswith("w")}
        missing = gpt2.transformer.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys
    return gpt2


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_inputs_are_as_large_as_the_embeddings_that_the_trunk_is_used_to(
    family, tiny_folder
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_folder(family)
    trunk, own = load_trunk(DecisionConfig(past_dim=2, base=str(folder)))
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    table = whole.get_input_embeddings()
    ids = torch.arange(6)[None]
    rows = table.weight[ids]
    factor = rows.shape[-1] ** 0.5 if family == "gemma2" else 1.0
    assert trunk.scale == pytest.approx(float(table.weight.std()) * factor, rel=1e-4)
    with torch.no_grad():
        found = trunk.eval()(rows * factor, torch.ones(1, 6, dtype=torch.bool))
        wanted = whole.get_decoder()(ids).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    model = build(base=str(folder))
    torch.testing.assert_close(model.embedding_norm.weight.std() + 1, torch.tensor(1.0))
    assert float(model.embedding_norm.weight.mean()) == pytest.approx(trunk.scale)
    assert own.language_model is not None
    assert own.language_model["vocab_size"] == 1


def test_the_first_layers_are_kept_and_a_checkpoint_needs_no_base(tiny_folder) -> None:
    model = build(base=str(tiny_folder("llama")), layers=1, lora_rank=2)
    assert model.config.depth == 1
    config = RTConfig(**vars(model.config))
    again = DecisionTransformer(config, load_image_weights=False).eval()
    again.load_state_dict(model.state_dict())
    given = context()
    torch.testing.assert_close(again.read(*given[:4]), model.read(*given[:4]))
    trained = {n for n, p in model.trunk.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_a_trunk_that_is_no_causal_language_model_is_refused(tmp_path) -> None:
    from transformers import BertConfig, BertLMHeadModel, T5Config, T5EncoderModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertConfig(**sizes, intermediate_size=16, vocab_size=9)
    BertLMHeadModel(bert).save_pretrained(tmp_path / "bert")
    T5EncoderModel(
        T5Config(d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    for name in ("bert", "t5"):
        with pytest.raises(ValueError, match=f"{name}' model, no causal language model"):
            build(base=str(tmp_path / name))


def test_more_layers_than_there_are_and_code_of_others_are_refused(tiny_folder) -> None:
    base = str(tiny_folder("gpt2"))
    with pytest.raises(ValueError, match="layers, of which 99 can't be kept"):
        build(base=base, layers=99)
    config = vars(build(base=base).config)
    asks = {**config["decision"]["language_model"], "auto_map": {"AutoConfig": "other.py"}}
    decision = {**config["decision"], "language_model": asks}
    with pytest.raises(ValueError, match="asks for code of others"):
        DecisionTransformer(RTConfig(**{**config, "decision": decision}), load_image_weights=False)
