"""Pretrained models of every family keep the training contract of the RT model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")
pytest.importorskip("peft")

from vlm.decision import decide_together
from vlm.model import ActionModel, Context
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.model import PretrainedModel
from vlm.tiny.models import BUILDERS

TEXT = ("gpt2", "llama", "qwen2", "qwen3", "gemma2")
READS_IMAGES = tuple(name for name in BUILDERS if name not in TEXT)
INSTRUCTIONS = ("put the red cube in the blue bowl", "open the drawer", "")
N, V, S, SIZE = 5, 32, 3, (24, 32)


@pytest.fixture(scope="module")
def models(tiny_folder):
    @cache
    def model(family, **changes) -> PretrainedModel:
        torch.manual_seed(0)
        return PretrainedModel(config_of(tiny_folder(family), family, **changes)).eval()

    return model


def config_of(folder: Path, family: str, **changes) -> PretrainedConfig:
    cameras = ("front_image", "wrist_image") if family in READS_IMAGES else ()
    config = PretrainedConfig(
        str(folder), vocab_size=V, n_tokens=N, state_dim=S, cameras=cameras, image_size=SIZE,
        history=2, lora_rank=4, text_length=40, instructions=INSTRUCTIONS,
    )  # fmt: skip
    return replace(config, **changes)


@dataclass
class Batch:
    images: dict[str, torch.Tensor]
    features: torch.Tensor | None
    state: torch.Tensor
    frame_mask: torch.Tensor
    text_ids: torch.Tensor
    action_ids: torch.Tensor

    @property
    def context(self):
        return self.features, self.state, self.frame_mask, self.text_ids


def batch_of(model: PretrainedModel) -> Batch:
    generator = torch.Generator().manual_seed(1)
    text_ids = torch.from_numpy(np.stack([model.encode_words(t) for t in INSTRUCTIONS]))
    images = {
        camera: torch.randint(0, 256, (3, *SIZE, 3), dtype=torch.uint8, generator=generator)
        for camera in model.config.cameras
    }
    features = None
    if images:
        newest = model.encode_images(images, text_ids)
        older = torch.randn(newest.shape, generator=generator) * newest.std()
        features = torch.stack([older, newest], 1)
    frame_mask = torch.ones(3, 2, dtype=torch.bool)
    frame_mask[1, 0] = False
    return Batch(
        images,
        features,
        torch.randn(3, 2, S, generator=generator),
        frame_mask,
        text_ids,
        torch.randint(0, V, (3, N), generator=generator),
    )


def trained(model: PretrainedModel, steps: int = 2) -> PretrainedModel:
    """The model after a few steps on its own batch; its adapter is no longer zero."""
    model.train()
    batch = batch_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(steps):
        logits = model(*batch.context, batch.action_ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.action_ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def cached_logits(model, context, action_ids):
    output, kept = model.prefill(*context)
    logits = [output.logits]
    for i in range(action_ids.shape[1] - 1):
        logits.append(model.decode(action_ids[:, i], kept).logits)
    return torch.cat(logits, 1)


@pytest.fixture(params=list(BUILDERS))
def family(request) -> str:
    return request.param


@torch.no_grad()
def test_decoding_with_a_cache_equals_the_whole_forward_pass(models, family):
    model = models(family)
    batch = batch_of(model)
    whole = model(*batch.context, batch.action_ids).logits
    cached = cached_logits(model, batch.context, batch.action_ids)
    torch.testing.assert_close(cached, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", READS_IMAGES)
@torch.no_grad()
def test_the_sequence_is_that_of_the_models_own_template_processor_and_forward(models, family):
    model = models(family, history=1, state_dim=0)
    prompt, processor, batch = model.prompt, model.prompt.processor, batch_of(models(family))
    cameras, rows = model.config.cameras, torch.tensor(model.prompt.action_ids)
    # transformers' own way, one row: template, processor, whole model with its whole head.
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": INSTRUCTIONS[0]}]
    text = model.family.placeholder * 2 + INSTRUCTIONS[0]
    if model.family.chat_template:
        message = {"role": "user", "content": content}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
    images = [batch.images[c][0].permute(2, 0, 1) for c in cameras]
    given = processor(
        text=[text],
        images=[images] if model.family.nested_images else images,
        images_kwargs=prompt.image_arguments,
        add_special_tokens=not text.startswith(str(processor.tokenizer.bos_token)),
        return_tensors="pt",
    )
    given = {name: x for name, x in given.items() if name != "labels"}
    ids = batch.action_ids[:1]
    given["input_ids"] = torch.cat([given["input_ids"], rows[ids[:, :-1]]], 1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    for name in {"mm_token_type_ids", "token_type_ids"} & set(given):
        given[name] = F.pad(given[name], (0, N - 1), value=int(name == "token_type_ids"))
    expected = model.base(**given).logits[:, -N:, rows]
    # Ours.
    features = model.encode_images({c: batch.images[c][:1] for c in cameras})[:, None]
    seen = torch.ones(1, 1, dtype=torch.bool)
    logits = model(features, None, seen, batch.text_ids[:1], ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", TEXT)
@torch.no_grad()
def test_a_state_in_words_makes_one_text_that_the_model_reads_by_its_own_forward(models, family):
    model = models(family, history=1, state_as="text")
    prompt, ids = model.prompt, torch.arange(N)[None]
    text_ids = torch.from_numpy(model.encode_words(INSTRUCTIONS[0]))[None]
    state = torch.tensor([[[-3.0, 0.0, 2.99]]])
    numbers = [i for place in (0, 128, 255) for i in prompt.state_table[place] if i >= 0]
    words = [i for i in text_ids[0].tolist() if i >= 0]
    sequence = [*prompt.prefix_ids, *prompt.state_before, *numbers, *prompt.state_after, *words]
    rows = torch.tensor(prompt.action_ids)
    whole = torch.cat([torch.tensor(sequence), rows[ids[0, :-1]]])[None]
    expected = model.base(whole).logits[:, -N:, rows]
    logits = model(None, state, torch.ones(1, 1, dtype=torch.bool), text_ids, ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    read = prompt.tokenizer.decode(sequence)
    assert "State: 0 128 255\n" in read
    assert INSTRUCTIONS[0] in read


@torch.no_grad()
def test_lora_starts_as_the_base_and_the_restricted_head_as_rows_of_the_full_head(models, family):
    model, plain = models(family), models(family, lora_rank=0)
    batch = batch_of(model)
    plain.load_state_dict(model.small_state_dict(), strict=False)  # the same state token
    adapted = model(*batch.context, batch.action_ids)
    untouched = plain(*batch.context, batch.action_ids)
    assert torch.equal(adapted.hidden, untouched.hidden)
    assert torch.equal(adapted.logits, untouched.logits)
    full = model.base.get_output_embeddings()(adapted.hidden)
    cap = getattr(model.base.config.get_text_config(), "final_logit_softcapping", None)
    full = full if cap is None else cap * torch.tanh(full / cap)
    rows = full[..., torch.tensor(model.prompt.action_ids)]
    torch.testing.assert_close(adapted.logits, rows, atol=1e-6, rtol=0)


@torch.no_grad()
def test_it_does_not_matter_on_which_side_a_prompt_is_padded(models, family):
    model = models(family)
    batch = batch_of(model)
    right = model(*batch.context, batch.action_ids).logits
    rows = [torch.cat([row[row < 0], row[row >= 0]]) for row in batch.text_ids]
    batch.text_ids = torch.stack(rows)
    left = model(*batch.context, batch.action_ids).logits
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


@torch.no_grad()
def test_rows_of_a_batch_do_not_influence_each_other(models, family):
    model = models(family)
    batch = batch_of(model)
    whole = model(*batch.context, batch.action_ids).logits
    for i in range(3):
        row = [None if x is None else x[i : i + 1] for x in (*batch.context, batch.action_ids)]
        torch.testing.assert_close(model(*row).logits, whole[i : i + 1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_changing_a_later_token_changes_no_earlier_output(models, family):
    model = models(family)
    batch = batch_of(model)
    before = model(*batch.context, batch.action_ids)
    for i in range(N):
        changed = batch.action_ids.clone()
        changed[:, i] = (changed[:, i] + 1) % V
        after = model(*batch.context, changed)
        assert torch.equal(before.logits[:, : i + 1], after.logits[:, : i + 1])
        if i < N - 1:
            assert not torch.equal(before.logits[:, i + 1], after.logits[:, i + 1])


@torch.no_grad()
def test_a_frame_that_is_not_seen_has_no_effect_even_when_it_holds_nan(models, family):
    model = models(family)
    batch = batch_of(model)
    batch.frame_mask[:, 0] = False
    before = model(*batch.context, batch.action_ids).logits
    if batch.features is not None:
        batch.features[:, 0] = float("nan")
    batch.state[:, 0] = float("nan")
    assert torch.equal(before, model(*batch.context, batch.action_ids).logits)


@torch.no_grad()
def test_every_input_matters(models, family):
    model = models(family)
    batch = batch_of(model)
    features, state, seen, text_ids = batch.context
    ids = batch.action_ids
    before = model(*batch.context, ids).logits
    changed = {
        "state": model(features, state + 1, seen, text_ids, ids),
        "instruction": model(features, state, seen, text_ids.roll(1, 0), ids),
        "return": model(*batch.context, ids, torch.tensor([0.0, 0.5, 1.0])),
        "older frame": model(features, state, ~seen | seen, text_ids, ids),
    }
    if features is not None:
        m = features.shape[2]
        other = torch.cat([features[:, :, : m // 4] + 1, features[:, :, m // 4 :]], 2)
        changed["first camera"] = model(other, state, seen, text_ids, ids)
    for name, output in changed.items():
        assert (output.logits[1] - before[1]).abs().max() > 1e-6, name


def test_a_twin_starts_equal_shares_the_base_and_trains_alone(tiny_folder, family):
    torch.manual_seed(0)
    phi = trained(PretrainedModel(config_of(tiny_folder(family), family)))
    batch = batch_of(phi)
    theta = phi.twin()
    with torch.no_grad():
        before = phi(*batch.context, batch.action_ids)
        assert torch.equal(theta(*batch.context, batch.action_ids).logits, before.logits)
    names = {n for n, p in phi.named_parameters() if p.requires_grad}
    own = {n: p for n, p in theta.named_parameters() if n in names}
    other = dict(phi.named_parameters())
    assert all(p.data_ptr() != other[n].data_ptr() for n, p in own.items())
    assert all(p is other[n] for n, p in theta.named_parameters() if n not in names)
    trained(theta)
    with torch.no_grad():
        after = phi(*batch.context, batch.action_ids)
        assert torch.equal(after.logits, before.logits)
        assert not torch.equal(theta(*batch.context, batch.action_ids).logits, before.logits)


def test_two_twins_decide_in_one_batch_as_they_do_apart(tiny_folder, family):
    torch.manual_seed(0)
    phi = trained(PretrainedModel(config_of(tiny_folder(family), family)))
    theta = phi.twin()
    batch = batch_of(phi)
    assert phi.together([theta]) is phi.together([theta])
    trained(theta, 3)  # after the pair was made: it has to see what is learnt later

    def run(models):
        seen = []

        def choose(outputs, allowed, i):
            seen.append(torch.stack([o.logits for o in outputs]))
            return (2 * outputs[1].logits - outputs[0].logits)[:, 0].argmax(-1)

        def legal(prefix):
            return torch.ones(len(prefix), V, dtype=torch.bool)

        return decide_together(models, [Context(*batch.context)] * 2, legal, choose), torch.cat(
            seen, 2
        )

    together, logits = run([phi, theta])
    apart, expected = run([phi, _Alone(theta)])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert torch.equal(together, apart)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


class _Alone(ActionModel):
    """A model that no other can be joined with."""

    def __init__(self, model):
        super().__init__()
        self.prefill, self.config = model.prefill, model.config


def test_a_state_dict_holds_what_is_trained_and_nothing_of_the_base(tiny_folder, family):
    torch.manual_seed(0)
    config = config_of(tiny_folder(family), family)
    model = trained(PretrainedModel(config))
    saved = model.state_dict()
    named = dict(model.named_parameters())
    assert set(saved) == {n for n, p in named.items() if p.requires_grad}
    assert not [n for n in saved if n.startswith("base.") and "lora_" not in n]
    parent, loaded = torch.nn.Module(), torch.nn.Module()
    parent.behavior = model
    torch.manual_seed(1)
    loaded.behavior = PretrainedModel(PretrainedConfig(**vars(model.config)))
    loaded.load_state_dict(parent.state_dict())
    batch = batch_of(model)
    with torch.no_grad():
        given = loaded.behavior.eval()(*batch.context, batch.action_ids).logits
        assert torch.equal(given, model(*batch.context, batch.action_ids).logits)
    with pytest.raises(RuntimeError, match="action_rows"):
        loaded.load_state_dict({n: x for n, x in parent.state_dict().items() if "rows" not in n})


@pytest.mark.parametrize("tokens", ["least_used", "added"])
def test_a_merged_folder_is_a_plain_model_that_decides_the_same(
    tiny_folder, family, tokens, tmp_path
):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    torch.manual_seed(0)
    config = config_of(tiny_folder(family), family, action_tokens=tokens)
    model = trained(PretrainedModel(config))
    merged = model.merge_to(tmp_path / "merged")
    opened = PretrainedModel(merged).eval()
    assert opened.prompt.action_ids == model.prompt.action_ids
    assert set(opened.state_dict()) == set(model.small_state_dict())
    opened.load_state_dict(model.small_state_dict())
    batch = batch_of(model)
    with torch.no_grad():
        expected = model(*batch.context, batch.action_ids)
        given = opened(*batch.context, batch.action_ids)
        torch.testing.assert_close(given.logits, expected.logits, atol=1e-5, rtol=0)
        auto = AutoModelForImageTextToText if model.family.reads_images else AutoModelForCausalLM
        plain = auto.from_pretrained(tmp_path / "merged")
        full = plain.get_output_embeddings()(given.hidden)
        cap = getattr(plain.config.get_text_config(), "final_logit_softcapping", None)
        full = full if cap is None else cap * torch.tanh(full / cap)
        rows = full[..., torch.tensor(model.prompt.action_ids)]
        torch.testing.assert_close(rows, expected.logits, atol=1e-5, rtol=0)
