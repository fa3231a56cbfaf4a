"""GGUF files: unpacked once, to the bit what transformers reads, trained on and refused clearly."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("gguf")

import gguf
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from qsft_robot.cli import main
from qsft_robot.parts.models import load_model
from vlm.pretrained import gguf_files
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.files import find_base
from vlm.pretrained.model import PretrainedModel

_BLOCK = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(folder: Path, out: Path, architecture: str = "llama", quantized: bool = False):
    """A Hugging Face Llama as a GGUF file, its matrices in Q8_0 where `quantized`."""
    settings = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    heads = settings["num_attention_heads"]
    key_heads = settings.get("num_key_value_heads", heads)
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_vocab_size(settings["vocab_size"])
    tokens = sorted(tokenizer["model"]["vocab"].items(), key=lambda pair: pair[1])
    special = {x["content"] for x in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t, _ in tokens]
    )
    merges = [x if isinstance(x, str) else " ".join(x) for x in tokenizer["model"]["merges"]]
    writer.add_token_merges(merges)
    ids = dict(tokens)
    writer.add_bos_token_id(ids["<s>"])
    writer.add_eos_token_id(ids["</s>"])
    writer.add_unk_token_id(ids["<unk>"])
    for name, array in load_file(folder / "model.safetensors").items():
        plain = name.removeprefix("model.").removesuffix(".weight")
        renamed = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
        if plain.startswith("layers."):
            _, number, inner = plain.split(".", 2)
            plain = f"blk.{number}.{_BLOCK[inner]}"
            if inner in ("self_attn.q_proj", "self_attn.k_proj"):
                parts = heads if inner.endswith("q_proj") else key_heads
                halves = array.reshape(parts, 2, -1, array.shape[-1])
                array = halves.swapaxes(1, 2).reshape(array.shape)  # noqa: PLW2901
        plain = renamed.get(plain, plain)
        kind = None
        if quantized and array.ndim == 2 and array.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            array = gguf.quants.quantize(array, kind)  # noqa: PLW2901
        writer.add_tensor(f"{plain}.weight", np.ascontiguousarray(array), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.fixture
def llama(tiny_folder, tmp_path, monkeypatch) -> Path:
    """The Hugging Face folder; what is unpacked goes into a cache of the test's own."""
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path / "cache"))
    return tiny_folder("llama")


@pytest.mark.parametrize("quantized", [False, True])
def test_the_unpacked_model_computes_to_the_bit_what_transformers_reads(llama, tmp_path, quantized):
    file = write_gguf(llama, tmp_path / "tiny.gguf", quantized=quantized)
    folder = gguf_files.unpacked(file)
    settings = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in settings
    ids = torch.arange(12)[None]
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    ours, original = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
        for path in (folder, llama)
    )
    with torch.no_grad():
        logits = [model(ids).logits for model in (read, ours, original)]
    assert torch.equal(logits[0], logits[1])
    assert torch.allclose(logits[1], logits[2], atol=0.05 if quantized else 1e-5)
    text = "put the red cube in the blue bowl"
    said = [
        AutoTokenizer.from_pretrained(path).encode(text, add_special_tokens=False)
        for path in (folder, llama)
    ]
    assert said[0] == said[1]


def test_a_file_is_unpacked_once_and_again_where_it_changed(llama, tmp_path, monkeypatch):
    file = write_gguf(llama, tmp_path / "tiny.gguf")
    folder = gguf_files.unpacked(file)
    monkeypatch.setattr(gguf_files, "_unpack", None)  # not asked again
    assert gguf_files.unpacked(file) == folder
    assert find_base(PretrainedConfig(str(file), 8, 2, 3))[0] == folder
    assert find_base(PretrainedConfig(str(file.parent), 8, 2, 3))[0] == folder
    monkeypatch.undo()
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path / "cache"))
    changed = bytearray(file.read_bytes())
    changed[-8] ^= 1
    file.write_bytes(changed)
    assert gguf_files.unpacked(file) != folder
    assert len(list((tmp_path / "cache" / "gguf").iterdir())) == 2


def test_what_can_not_be_read_is_refused_in_one_line_and_leaves_nothing(llama, tmp_path):
    whole = write_gguf(llama, tmp_path / "whole.gguf").read_bytes()
    strange = write_gguf(llama, tmp_path / "strange.gguf", "gptj").read_bytes()
    for content, said in (
        (b"GGML" + whole[4:], "no GGUF file"),
        (b"", "no GGUF file"),
        (whole[:2000], "cut off, or damaged"),
        (whole[: len(whole) // 2], "cut off, or damaged"),
        (strange, "can't read it"),
    ):
        file = tmp_path / "bad.gguf"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            PretrainedModel(PretrainedConfig(str(file), 8, 2, 3))
        assert "\n" not in str(error.value)
        assert str(file) in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not list((tmp_path / "cache").rglob(".unpacking*"))
    with pytest.raises(FileNotFoundError, match="no such GGUF file"):
        PretrainedModel(PretrainedConfig("nowhere.gguf", 8, 2, 3))
    with pytest.raises(ValueError, match="name one of these files"):
        PretrainedModel(PretrainedConfig(str(tmp_path), 8, 2, 3))


def test_too_little_memory_and_a_missing_package_are_said(llama, tmp_path, monkeypatch):
    file = write_gguf(llama, tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "free_memory", lambda: 1000)
        with pytest.raises(RuntimeError, match="GiB to be unpacked"):
            gguf_files.unpacked(file)
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"qsft-robot\[vlm\]"):
            gguf_files.unpacked(file)


def test_a_game_is_learned_on_a_gguf_model_and_played(llama, tmp_path):
    file = write_gguf(llama, tmp_path / "tiny.gguf")
    logs, run = tmp_path / "logs.hdf5", tmp_path / "run"
    collect = ("collect", "games/wordle", "--out", logs, "--episodes", 6, "--workers", 1)
    assert main([str(x) for x in collect]) == 0
    train = (
        "train", "--preset", "games/wordle_text", "--tokenizer.closed", "--data.path", logs,
        "--out", run,
        "--model.pretrained", file, "--model.action-tokens", "added",
        "--model.text-length", 400, "--model.text-history", 3, "--optim.behavior-steps", 1,
        "--optim.value-steps", 1, "--optim.batch-size", 2, "--device", "cpu",
    )  # fmt: skip
    assert main([str(x) for x in train]) == 0
    evaluate = ("evaluate", run, "--episodes", 2, "--workers", 1, "--envs-per-worker", 2)
    assert main([str(x) for x in evaluate]) == 0
    summary = json.loads((run / "evaluation/policy/summary.json").read_text())
    assert summary["broken"] == summary["refused_commands"]["count"] == 0


def test_a_policy_folder_unpacks_nothing(llama, tmp_path):
    base = tmp_path / "policy" / "base"
    base.mkdir(parents=True)
    write_gguf(llama, base / "tiny.gguf")
    config = asdict(PretrainedConfig("base", 8, 2, 3))
    with pytest.raises(ValueError, match=r"a folder with a config\.json"):
        load_model({"kind": "pretrained", "config": config, "inside": "base"}, base.parent)
    assert not (tmp_path / "cache").exists()
