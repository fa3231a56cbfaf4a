"""Bases that do not serve are refused, each with one message that says what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file

from vlm.pretrained import files
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.model import PretrainedModel


def config(base: Path | str, **changes) -> PretrainedConfig:
    settings = {"vocab_size": 16, "n_tokens": 3, "state_dim": 2, "lora_rank": 2}
    return PretrainedConfig(str(base), **(settings | changes))


@pytest.fixture
def gpt2(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder("gpt2"), tmp_path / "gpt2"))


@pytest.fixture
def smolvlm(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder("smolvlm"), tmp_path / "smolvlm"))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        PretrainedModel(config(tmp_path / "gone"))
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ValueError, match=r"no Hugging Face model: it has no config\.json.*notes"):
        PretrainedModel(config(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no \*\.safetensors weights"):
        PretrainedModel(config(tmp_path))


def test_a_hub_id_that_can_not_be_fetched_says_so(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="neither a local folder nor a model that the hub"):
        PretrainedModel(config("nobody/no-such-model"))


def test_pickled_weights_are_refused_with_the_way_to_convert_them(gpt2):
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only \['pytorch_model\.bin'\].*safe_serialization=True"):
        PretrainedModel(config(gpt2))


def test_a_family_without_a_described_prompt_is_refused_by_name(gpt2):
    kind = json.loads((gpt2 / "config.json").read_text()) | {"model_type": "bert"}
    (gpt2 / "config.json").write_text(json.dumps(kind))
    with pytest.raises(ValueError, match=r"'bert' model.*There are: paligemma, idefics3"):
        PretrainedModel(config(gpt2))


def test_a_text_model_is_refused_where_there_are_cameras(gpt2):
    with pytest.raises(ValueError, match=r"reads text alone and the cameras \['front_image'\]"):
        PretrainedModel(config(gpt2, cameras=("front_image",)))


def test_too_few_free_ids_and_too_long_a_context_are_refused(gpt2):
    with pytest.raises(ValueError, match=r"4000 action tokens are needed .* free ids"):
        PretrainedModel(config(gpt2, vocab_size=4000))
    with pytest.raises(ValueError, match=r"reads 1024 tokens and a decision may have 1\d\d\d"):
        PretrainedModel(config(gpt2, text_length=1024))


def test_a_processor_of_another_model_is_refused(smolvlm, tiny_folder):
    given = config(smolvlm, cameras=("front_image",))
    (smolvlm / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="processor"):
        PretrainedModel(given)
    text = tiny_folder("smolvlm") / "processor_config.json"
    settings = json.loads(text.read_text())
    settings["image_seq_len"] = 9
    (smolvlm / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"marks an image with 9 tokens .* makes 4 .* not match"):
        PretrainedModel(given)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(smolvlm):
    given = config(smolvlm, cameras=("front_image",))
    settings = json.loads((smolvlm / "config.json").read_text())
    settings["image_token_id"] = 3
    (smolvlm / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"marks images with id \d+ and its model with 3"):
        PretrainedModel(given)


def test_incomplete_weights_are_refused(gpt2):
    weights = load_file(gpt2 / "model.safetensors")
    name = next(n for n in weights if "attn" in n)
    del weights[name]
    save_file(weights, gpt2 / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights are missing"):
        PretrainedModel(config(gpt2))
    (gpt2 / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        PretrainedModel(config(gpt2))


def test_a_base_is_told_apart_by_one_changed_weight_or_prompt(gpt2):
    model = PretrainedModel(config(gpt2))
    saved = vars(model.config)
    assert model.config.fingerprint == files.base_fingerprint(gpt2)
    PretrainedModel(PretrainedConfig(**saved))
    weights = load_file(gpt2 / "model.safetensors")
    name = next(n for n in weights if "attn" in n)
    weights[name] = weights[name] + 1e-3
    save_file(weights, gpt2 / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not the base that the checkpoint was trained on"):
        PretrainedModel(PretrainedConfig(**saved))


def test_memory_is_estimated_from_the_headers_and_checked_before_loading(gpt2, monkeypatch, capsys):
    model = PretrainedModel(config(gpt2))
    count = sum(x.numel() for x in load_file(gpt2 / "model.safetensors").values())
    estimate = files.estimate_memory(config(gpt2))
    assert estimate.parameters == count
    assert count == sum(p.numel() for n, p in model.base.named_parameters() if "lora_" not in n)
    assert estimate.total_bytes == 4 * count
    assert files.estimate_memory(config(gpt2, dtype="bfloat16")).total_bytes == 2 * count
    assert capsys.readouterr().err.count("loading") == 0
    monkeypatch.setattr(files, "GIB", 1000)
    PretrainedModel(config(gpt2))
    assert "M parameters x 4 bytes" in capsys.readouterr().err
    monkeypatch.setattr(files, "free_memory", lambda: 100_000)
    with pytest.raises(RuntimeError, match=r"needs about .* are free: use dtype bfloat16, or"):
        PretrainedModel(config(gpt2))
    assert torch.get_default_dtype() == torch.float32


def test_a_config_refuses_contradictions():
    for changes, message in (
        ({"state_dim": 0}, "see nothing"),
        ({"cameras": ("a", "a")}, "twice"),
        ({"state_as": "smell"}, "state_as is 'smell'; it is one of token, text"),
        ({"n_tokens": 0}, "n_tokens is 0"),
        ({"lora_rank": 0, "dtype": "bfloat16"}, "small steps are rounded away"),
        ({"random_weights": True}, "can't carry an adapter"),
        ({"lora_dropout": 1.0}, "lora_dropout 1.0 in"),
    ):
        with pytest.raises(ValueError, match=message):
            config("some/model", **changes)
    with pytest.raises(ValueError, match="base is empty"):
        config("")
