"""The RT model: causality, cache, padding, the two ways to features, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from vlm.decision import decide_together
from vlm.model import Context
from vlm.rt.config import RTConfig
from vlm.rt.model import RTModel
from vlm.rt.sizes import rt_base, rt_small, rt_tiny


def cached_logits(model, context, action_ids, returns=None):
    output, cache = model.prefill(*context, returns)
    logits = [output.logits]
    for i in range(action_ids.shape[1] - 1):
        logits.append(model.decode(action_ids[:, i], cache).logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("returns", [None, torch.tensor([0.1, 0.5, 1.0])])
def test_decoding_with_a_cache_equals_the_whole_forward_pass(model, batch, padded, returns):
    if padded:
        batch.frame_mask[1, 0] = False
    whole = model(*batch.context, batch.action_ids, returns).logits
    cached = cached_logits(model, batch.context, batch.action_ids, returns)
    torch.testing.assert_close(cached, whole, atol=1e-5, rtol=0)


def test_changing_a_later_token_changes_no_earlier_output(model, batch):
    before = model(*batch.context, batch.action_ids)
    for i in range(4):
        changed = batch.action_ids.clone()
        changed[:, i] = (changed[:, i] + 1) % 32
        after = model(*batch.context, changed)
        assert torch.equal(before.logits[:, : i + 1], after.logits[:, : i + 1])
        assert torch.equal(before.hidden[:, : i + 1], after.hidden[:, : i + 1])
        if i < 3:
            assert not torch.equal(before.logits[:, i + 1], after.logits[:, i + 1])


def test_a_padded_frame_has_no_effect_even_when_it_holds_nan(model, batch):
    batch.frame_mask[:, 0] = False
    before = model(*batch.context, batch.action_ids).logits
    batch.features[:, 0] = float("nan")
    batch.state[:, 0] = float("nan")
    assert torch.equal(before, model(*batch.context, batch.action_ids).logits)


def test_the_causal_kernel_and_the_explicit_mask_give_the_same(model, batch):
    fast = model(*batch.context, batch.action_ids).logits
    # One more row with a padded frame sends the whole batch through the explicit mask.
    longer = [torch.cat([x, x[:1]]) for x in (*batch.context, batch.action_ids)]
    longer[2][-1, 0] = False
    slow = model(*longer).logits[:-1]
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


def test_rows_of_a_batch_do_not_influence_each_other(model, batch):
    whole = model(*batch.context, batch.action_ids).logits
    for i in range(3):
        alone = model(*(x[i : i + 1] for x in (*batch.context, batch.action_ids))).logits
        torch.testing.assert_close(alone, whole[i : i + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cached_features_of_any_dtype_equal_features_made_on_the_spot(model, batch, dtype):
    direct = model.encode_images(batch.images, batch.text_ids)
    cached = direct.to(dtype)  # what a table of features on disk holds
    exact = torch.stack([batch.features[:, 0], direct], 1)
    stored = torch.stack([batch.features[:, 0].to(dtype), cached], 1)
    rest = batch.context[1:]
    expected = model(exact, *rest, batch.action_ids).logits
    given = model(stored, *rest, batch.action_ids).logits
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float32: 0}[dtype]
    torch.testing.assert_close(given, expected, atol=tolerance, rtol=0)


def test_every_input_matters(model, batch):
    before = model(*batch.context, batch.action_ids).logits
    features, state, frame_mask, text_ids = batch.context
    ids = batch.action_ids
    changed = {
        "features": model(features + torch.randn(128 // 2), state, frame_mask, text_ids, ids),
        "state": model(features, state + 0.1, frame_mask, text_ids, ids),
        "instruction": model(features, state, frame_mask, text_ids.flip(1), ids),
        "return": model(*batch.context, ids, torch.tensor([0.0, 0.5, 1.0])),
    }
    for name, output in changed.items():
        assert ((output.logits - before).abs().amax((1, 2)) > 1e-4)[:2].all(), name


def test_state_alone_and_images_alone_decode_as_they_forward():
    torch.manual_seed(0)
    ids, text_ids = torch.randint(0, 9, (2, 3)), torch.ones(2, 16, dtype=torch.int64)
    frame_mask = torch.ones(2, 1, dtype=torch.bool)
    state_only = rt_tiny(9, 3, 5).eval()
    context = (None, torch.randn(2, 1, 5), frame_mask, text_ids)
    torch.testing.assert_close(
        cached_logits(state_only, context, ids), state_only(*context, ids).logits,
        atol=1e-5, rtol=0,
    )  # fmt: skip
    assert list(state_only.image_parameters()) == []
    image_only = rt_tiny(9, 3, 0, cameras=("front_image",)).eval()
    images = {"front_image": torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)}
    features = image_only.encode_images(images, text_ids)[:, None]
    context = (features, None, frame_mask, text_ids)
    torch.testing.assert_close(
        cached_logits(image_only, context, ids), image_only(*context, ids).logits,
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_one_token_decisions_need_no_action_input():
    torch.manual_seed(0)
    model = rt_tiny(9, 1, 5).eval()
    context = (
        None, torch.randn(2, 1, 5), torch.ones(2, 1, dtype=torch.bool),
        torch.ones(2, 16, dtype=torch.int64),
    )  # fmt: skip
    one = model(*context, torch.zeros(2, 1, dtype=torch.int64)).logits
    other = model(*context, torch.full((2, 1), 8)).logits
    assert one.shape == (2, 1, 9)
    assert torch.equal(one, other)


def test_a_decision_holds_only_legal_tokens_and_is_greedy_over_them(model, batch):
    def legal(prefix):
        # As a tokenizer whose legal set depends on the position: 8 ids each.
        allowed = torch.zeros(len(prefix), 32, dtype=torch.bool)
        allowed[:, 8 * prefix.shape[1] : 8 * prefix.shape[1] + 8] = True
        return allowed

    ids = model.decide(*batch.context, legal, lambda logits, i: logits.argmax(-1))
    assert (ids // 8 == torch.arange(4)).all()
    logits = model(*batch.context, ids).logits
    for i in range(4):
        allowed = legal(ids[:, :i])
        expected = logits[:, i].masked_fill(~allowed, float("-inf")).argmax(-1)
        assert torch.equal(ids[:, i], expected)


def test_two_models_that_decide_together_read_the_same_tokens(model, batch):
    def choose(outputs, allowed, i):
        behavior, value = (output.logits[:, 0].log_softmax(-1) for output in outputs)
        return (behavior + (value - behavior)).masked_fill(~allowed, float("-inf")).argmax(-1)

    def legal(prefix):
        return torch.ones(len(prefix), 32, dtype=torch.bool)

    together = decide_together([model, model], [Context(*batch.context)] * 2, legal, choose)
    alone = model.decide(*batch.context, legal, lambda logits, i: logits.argmax(-1))
    assert torch.equal(together, alone)


def test_parameters_divide_into_an_image_side_and_a_decoder_side(model, batch):
    image, decoder = list(model.image_parameters()), list(model.decoder_parameters())
    assert len(image) + len(decoder) == len(list(model.parameters()))
    assert not {id(p) for p in image} & {id(p) for p in decoder}
    model.encode_images(batch.images, batch.text_ids).square().mean().backward()
    assert all(p.grad is None for p in decoder)
    assert all(p.grad is not None for p in image)
    model.zero_grad(set_to_none=True)
    returns = torch.tensor([0.1, 0.5, 1.0])
    model(*batch.context, batch.action_ids, returns).logits.square().mean().backward()
    assert all(p.grad is None for p in image)
    without = {n for n, p in model.named_parameters() if p.grad is None and n[:6] != "images"}
    assert without == {"no_return"}


def test_gradients_reach_the_pixels_side_through_fresh_features(model, batch):
    features = model.encode_images(batch.images, batch.text_ids)
    features = torch.stack([batch.features[:, 0], features], 1)
    model(features, *batch.context[1:], batch.action_ids).logits.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.images.encoder.parameters())


def test_bfloat16_stays_finite_and_near_float32(model, batch):
    expected = model(*batch.context, batch.action_ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        given = model(*batch.context, batch.action_ids).logits
    assert given.isfinite().all()
    torch.testing.assert_close(given.float(), expected, atol=0.1, rtol=0)


def test_the_builders_make_ever_larger_models():
    sizes = [
        sum(p.numel() for p in build(256, 7, 20, cameras=("front_image",)).parameters())
        for build in (rt_tiny, rt_small, rt_base)
    ]
    assert sizes[0] < 2e6 < sizes[1] < 1e7 < sizes[2]


def test_a_configuration_survives_json_and_refuses_contradictions():
    import dataclasses
    import json

    config = RTConfig(32, 4, 7, cameras=("front_image",), image_size=(32, 48))
    assert RTConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(ValueError, match="nothing"):
        RTConfig(32, 4, 0)
    with pytest.raises(ValueError, match="multiple of heads"):
        RTConfig(32, 4, 7, width=10, heads=3)
    with pytest.raises(ValueError, match="twice"):
        RTConfig(32, 4, 7, cameras=("front_image", "front_image"))
    with pytest.raises(ValueError, match="n_tokens is 0"):
        RTConfig(32, 0, 7)


def test_wrong_inputs_are_answered_with_what_the_model_expects(model, batch):
    features, state, frame_mask, text_ids = batch.context
    with pytest.raises(ValueError, match=r"features of shape None; the model expects \[3, 2, 16"):
        model(None, state, frame_mask, text_ids, batch.action_ids)
    with pytest.raises(ValueError, match=r"state of shape \[3, 2, 6\]; the model expects"):
        model(features, state[..., :6], frame_mask, text_ids, batch.action_ids)
    with pytest.raises(ValueError, match="frame_mask has 1 frames; the model reads 2"):
        model(features[:, :1], state[:, :1], frame_mask[:, :1], text_ids, batch.action_ids)
    with pytest.raises(ValueError, match="'wrist_image' is missing"):
        model.encode_images({"front_image": batch.images["front_image"]}, text_ids)
    with pytest.raises(ValueError, match="no cameras"):
        rt_tiny(9, 3, 5).encode_images({}, text_ids)
    with pytest.raises(ValueError, match="hash_words"):
        model(features, state, frame_mask, text_ids[:, :5], batch.action_ids)
    wrong = {camera: image[:, :31] for camera, image in batch.images.items()}
    with pytest.raises(ValueError, match=r"\[3, 31, 48, 3\].*expects \[3, 32, 48, 3\]"):
        model.encode_images(wrong, text_ids)


def test_decoding_past_the_last_token_is_an_error(model, batch):
    _, cache = model.prefill(*batch.context)
    for i in range(3):
        model.decode(batch.action_ids[:, i], cache)
    with pytest.raises(ValueError, match="complete: it has 4 tokens"):
        model.decode(batch.action_ids[:, 3], cache)


def test_shapes_in_signatures_are_checked_while_testing(model, batch):
    with pytest.raises(TypeCheckError):
        model(*batch.context, batch.action_ids.float())


def test_a_model_is_rebuilt_without_reading_its_image_weights(tmp_path):
    config = RTConfig(
        9, 3, 0, cameras=("front_image",), image_encoder="timm:resnet18",
        image_weights=str(tmp_path / "gone.safetensors"),
    )  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        RTModel(config)
    RTModel(config, load_image_weights=False)
