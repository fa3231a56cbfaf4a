"""Towers described in a policy from somebody else: names and numbers, no file of the reader's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vlm.tiny.towers import write_open_clip, write_timm
from vlm.towers.tower import ImageTower, TextTower


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    write_open_clip(folder / "clip")
    write_timm(folder / "vit.safetensors")
    write_words(folder / "words")
    return folder


def write_words(folder: Path) -> None:
    """A tokenizer of the Hugging Face kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<pad>": 0, "open": 1}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<pad>")
    words.save_pretrained(folder)


def image_tower(files: Path, **changes: Any) -> ImageTower:
    """The tower of a description with some entries changed, as a policy's file would have it."""
    encoder = f"timm:local-dir:{files}" if not changes else "timm:test_vit"
    built = ImageTower("timm:test_vit", None, True, (64, 64)).description
    return ImageTower(encoder, None, False, (64, 64), {**built, **changes})


@pytest.mark.parametrize(
    "key",
    ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained", "cache_dir"],
)
def test_a_timm_description_says_nothing_of_where_weights_come_from(files, tmp_path, key):
    pickled = tmp_path / "weights.pth"
    pickled.write_bytes(b"no pickle is opened")
    value = {"file": str(pickled)} if key.startswith("pretrained_cfg") else str(pickled)
    with pytest.raises(ValueError, match=rf"says {key}: where weights come from"):
        image_tower(files, arguments={key: value})


@pytest.mark.parametrize("name", ["local-dir:{files}", "hf-hub:some/model"])
def test_a_timm_description_names_no_folder_and_no_repository(files, name):
    with pytest.raises(ValueError, match="no model of timm's own"):
        image_tower(files, architecture=name.format(files=files))


def text_tower(files: Path, text_cfg: dict[str, Any] | None = None, **changes: Any) -> TextTower:
    name = f"open_clip:local-dir:{files}/clip"
    built = TextTower(name, None, True).description
    cfg = {**built["text_cfg"], **(text_cfg or {})}
    return TextTower(name, None, False, {**built, "text_cfg": cfg, **changes})


def test_a_tokenizer_in_a_folder_that_the_description_was_not_written_with_is_not_read(
    files, tmp_path, monkeypatch
):
    for name in (str(files / "words"), "some/words"):
        tower = text_tower(files, tokenizer=name)
        shutil.copytree(files / "words", tmp_path / "some" / "words", dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)  # a name of the hub that is a folder here
        with pytest.raises(ValueError, match=r"words as its tokenizer, whose files are not those"):
            tower.encode_words("open")
    with pytest.raises(FileNotFoundError, match=r"/nowhere: no such folder.*as its tokenizer"):
        text_tower(files, tokenizer="/nowhere").encode_words("open")


@pytest.mark.parametrize("words", [{"cache_dir": "/tmp"}, {"trust_remote_code": True}])
def test_a_description_tells_the_tokenizer_nothing_else(files, words):
    tower = text_tower(files, {"tokenizer_kwargs": words}, tokenizer="some/words")
    with pytest.raises(ValueError, match=f"is to be made with {next(iter(words))}"):
        tower.encode_words("open")


def test_the_config_of_a_text_encoder_comes_from_no_folder_of_the_readers(files, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(ValueError, match=r"as its hf_model_name, whose files are not those"):
        text_tower(files, {"hf_model_name": str(tmp_path)})
    with pytest.raises(OSError, match="fetches nothing"):
        text_tower(files, {"hf_model_name": "some/model"})


def test_ones_own_tokenizer_is_read_until_its_files_change(files, tmp_path):
    folder = Path(shutil.copytree(files / "clip", tmp_path / "clip"))
    shutil.copytree(files / "words", folder, dirs_exist_ok=True)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "some/words"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    name = f"open_clip:local-dir:{folder}"
    described = TextTower(name, None, True).description
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")  # weights are no words
    again = TextTower(name, None, False, described)
    assert again.encode_words("open").tolist() == [1] + 11 * [0]
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="put back those of then"):
        TextTower(name, None, False, described).encode_words("open")
