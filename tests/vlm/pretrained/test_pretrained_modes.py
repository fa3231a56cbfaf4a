"""What a pretrained model can be asked for: all weights, text states, bfloat16, random weights."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")
pytest.importorskip("peft")

from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.model import PretrainedModel

SIZE, N, V = (24, 32), 4, 16
TEXTS = ("open the drawer", "put the red cube in the blue bowl")


@pytest.fixture
def build(tiny_folder):
    def build(family: str = "smolvlm", seed: int = 0, **changes) -> PretrainedModel:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": V, "n_tokens": N, "state_dim": 3, "cameras": ("front_image",),
            "image_size": SIZE, "lora_rank": 4, "text_length": 32, "instructions": TEXTS,
        }  # fmt: skip
        config = PretrainedConfig(str(tiny_folder(family)), **(settings | changes))
        return PretrainedModel(config).eval()

    return build


def inputs(model: PretrainedModel) -> tuple:
    torch.manual_seed(1)
    text_ids = torch.stack([torch.from_numpy(model.encode_words(t)) for t in TEXTS])
    features = None
    if model.config.cameras:
        images = {"front_image": torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)}
        features = model.encode_images(images)[:, None]
    state = torch.randn(2, 1, 3) if model.config.state_dim else None
    ids = torch.randint(0, V, (2, model.config.n_tokens))
    return features, state, torch.ones(2, 1, dtype=torch.bool), text_ids, ids


def step(model: PretrainedModel, given: tuple) -> set[str]:
    """One training step; the names of the parameters that it changed."""
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    for _ in range(2):  # LoRA's first factor moves once the second is not zero
        optimizer.zero_grad()
        F.cross_entropy(model(*given).logits.flatten(0, 1), given[-1].flatten()).backward()
        optimizer.step()
    model.eval()
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_with_rank_zero_the_whole_language_model_is_trained_and_copied(build):
    model = build(lora_rank=0)
    given = inputs(model)
    twin = model.twin()
    saved = {n: x.clone() for n, x in model.state_dict().items()}
    before = model(*given).logits
    changed = step(twin, given)
    assert any("self_attn" in n for n in changed)
    assert torch.equal(model(*given).logits, before)
    tower = {n for n, _ in model.named_parameters() if "vision" in n or "connector" in n}
    assert tower
    assert not tower & (changed | set(saved))
    shared = dict(model.named_parameters())
    assert all(p is shared[n] for n, p in twin.named_parameters() if n in tower)
    assert model.together([twin]) is None
    model.load_state_dict(twin.state_dict())
    torch.testing.assert_close(model(*given).logits, twin(*given).logits, atol=0, rtol=0)


def test_the_image_side_is_trained_only_where_it_is_asked_for(build):
    frozen, trained = build(), build(train_images=True)
    image = {id(p) for p in frozen.image_parameters()}
    assert image
    assert not image & {id(p) for p in frozen.decoder_parameters()}
    assert all(not p.requires_grad for p in frozen.image_parameters())
    features = frozen.encode_images({"front_image": torch.zeros(1, *SIZE, 3, dtype=torch.uint8)})
    assert not features.requires_grad
    features = trained.encode_images({"front_image": torch.zeros(1, *SIZE, 3, dtype=torch.uint8)})
    features.square().mean().backward()
    assert any(p.grad is not None for p in trained.image_parameters())
    names = {n for n, _ in trained.named_parameters() if "vision" in n}
    assert names <= set(trained.state_dict())


def test_a_state_can_be_read_as_text(build):
    model = build(state_as="text")
    assert model.state_token is None
    features, state, seen, text_ids, ids = inputs(model)
    before = model(features, state, seen, text_ids, ids).logits
    # Steps of 6 / 256 deviations, three deviations being the last.
    state = state.clamp(-2.9, 2.9)
    again = model(features, state + 1, seen, text_ids, ids).logits
    assert (again - before).abs().max() > 1e-5
    far = model(features, torch.full_like(state, 3.5), seen, text_ids, ids).logits
    assert torch.equal(
        far, model(features, torch.full_like(state, 99.0), seen, text_ids, ids).logits
    )
    table = model.prompt.state_table
    texts = [model.prompt.tokenizer.decode([i for i in row if i >= 0]) for row in table]
    assert texts == [f" {i}" for i in range(256)]


def test_the_state_token_starts_at_the_scale_of_the_embeddings(build):
    for family in ("gpt2", "paligemma"):
        cameras = () if family == "gpt2" else ("front_image",)
        model = build(family, cameras=cameras, state_dim=20)
        tokens = model.state_token(torch.randn(4000, 20)).detach()
        table = model.base.get_input_embeddings()
        wanted = table(torch.arange(200)).detach().std()
        assert 0.5 < float(tokens.std() / wanted) < 2
        assert tokens.mean().abs() < 0.5 * wanted


def test_random_weights_and_random_action_rows_are_there_to_compare_with(build):
    given = inputs(build())
    pretrained, scratch = build(lora_rank=0), build(lora_rank=0, random_weights=True, seed=5)
    name = "base.model.text_model.layers.0.self_attn.q_proj.weight"
    of = [dict(m.named_parameters())[name] for m in (pretrained, scratch)]
    assert not torch.equal(*of)
    assert all(p.requires_grad for p in scratch.image_parameters())
    assert step(scratch, given)
    rows = build(random_action_rows=True).action_rows
    assert not torch.equal(rows, build().action_rows)
    torch.testing.assert_close(rows.std(), build().action_rows.std(), atol=0.005, rtol=0)


def test_action_rows_can_be_left_as_they_are(build):
    model = build(train_action_rows=False)
    changed = step(model, inputs(model))
    assert "action_rows" not in changed
    assert any("lora_B" in n for n in changed)
    # Saved all the same: they are the decision's ends.
    assert "action_rows" in model.state_dict()


def test_bfloat16_is_near_float32_and_trains_in_float32(build):
    exact, rough = build(), build(dtype="bfloat16")
    features, *rest = inputs(exact)
    rough.load_state_dict(exact.state_dict())
    given = rough(features, *rest).logits
    assert rough.base.get_input_embeddings().weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in rough.parameters() if p.requires_grad)
    torch.testing.assert_close(given.float(), exact(features, *rest).logits, atol=0.02, rtol=0)
    output, cache = rough.prefill(features, *rest[:-1])
    cached = [output.logits] + [rough.decode(rest[-1][:, i], cache).logits for i in range(N - 1)]
    torch.testing.assert_close(torch.cat(cached, 1), given, atol=0.02, rtol=0)


def test_checkpointed_activations_give_the_same_gradients(build):
    plain, thrifty = build(), build()
    thrifty.gradient_checkpointing(True)
    gradients = []
    for model in (plain, thrifty):
        given = inputs(model)
        model.train()
        model(*given).logits.square().mean().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.decoder_parameters() if p.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=1e-5)


def test_decisions_of_one_token_and_models_without_state(build):
    model = build(n_tokens=1, state_dim=0)
    given = inputs(model)
    output, cache = model.prefill(*given[:-1])
    torch.testing.assert_close(output.logits, model(*given).logits, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="complete: it has 1 tokens"):
        model.decode(given[-1][:, 0], cache)


def test_dropout_acts_in_the_adapter_alone(build):
    model = build("gpt2", cameras=(), lora_dropout=0.5)
    given = inputs(model)
    step(model, given)
    model.train()
    assert not torch.equal(model(*given).logits, model(*given).logits)
    quiet = build("gpt2", cameras=()).train()
    assert torch.equal(quiet(*given).logits, quiet(*given).logits)


def test_the_config_survives_json(build):
    model = build()
    saved = json.loads(json.dumps(asdict(model.config)))
    assert PretrainedConfig(**saved) == model.config
    described = json.loads(json.dumps(model.preprocessing))
    assert described["image_processor"]["image_mean"]
    assert len(described["action_ids"]) == V
    assert model.config.width == 48
    assert model.config.frame_image_tokens == 4


def test_wrong_inputs_are_answered_with_what_the_model_expects(build):
    model = build()
    features, state, seen, text_ids, ids = inputs(model)
    with pytest.raises(ValueError, match=r"features of shape None; the model expects \[2, 1, 4"):
        model(None, state, seen, text_ids, ids)
    with pytest.raises(ValueError, match=r"state of shape \[2, 1, 2\]; the model expects"):
        model(features, state[..., :2], seen, text_ids, ids)
    with pytest.raises(ValueError, match="frame_mask has 2 frames; the model reads 1"):
        model(features.repeat(1, 2, 1, 1), state.repeat(1, 2, 1), seen.repeat(1, 2), text_ids, ids)
    with pytest.raises(ValueError, match="encode_words"):
        model(features, state, seen, text_ids[:, :5], ids)
    with pytest.raises(ValueError, match="'front_image' is missing"):
        model.encode_images({"wrist_image": torch.zeros(1, *SIZE, 3, dtype=torch.uint8)})
    with pytest.raises(ValueError, match=r"shape \[1, 9, 9, 3\] .* expects uint8 \[b, 24, 32, 3\]"):
        model.encode_images({"front_image": torch.zeros(1, 9, 9, 3, dtype=torch.uint8)})
    with pytest.raises(ValueError, match="has no cameras"):
        build("gpt2", cameras=()).encode_images({})
    with pytest.raises(ValueError, match=r"prompt with the instruction .* set text_length to"):
        model.encode_words("put the red cube in the blue bowl " * 9)
    token = model.prompt.tokenizer.decode([model.prompt.action_ids[-1]])
    with pytest.raises(ValueError, match="serves as an action token"):
        model.encode_words(f"close the{token}")
