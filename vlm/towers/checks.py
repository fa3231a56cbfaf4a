"""Descriptions of towers that stand in a policy's file: names and numbers, never files or code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

# What a description may tell of how words are cut; the libraries take much else by the same door,
# paths and "run the code of that repository" among it.
_TOKENIZER_WORDS = {"clean": str, "strip_sep_token": bool}

# What of a text half may lie in a folder: entries of the description, and files that are read.
TOKENIZER, MODEL = "tokenizer", "hf_model_name"
_READ = (".json", ".txt", ".model", ".jinja")


def check_timm(timm: Any, description: Mapping[str, Any]) -> None:
    """ValueError unless a description builds one of timm's own models by numbers alone."""
    name, arguments = description["architecture"], description["arguments"]
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        raise ValueError(f"the policy's image tower is {name!r}, which is no model of timm's own.")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of the image tower {name} are {arguments!r}, no table.")
    # Weights, and where to get them: files in pickle's format among it.
    factory = set(signature(timm.create_model).parameters) - {"kwargs"}
    for key in arguments:
        if key in factory or str(key).startswith(("pretrained", "checkpoint")):
            raise ValueError(
                f"the policy's description of the image tower {name} says {key}: where weights "
                "come from is no part of it, because the folder carries its own."
            )


def check_open_clip(description: Mapping[str, Any], half: str) -> dict[str, Any]:
    """One half's settings, weights never fetched; ValueError on what is no number or name."""
    settings = description[f"{half}_cfg"]
    if not isinstance(settings, Mapping):
        raise ValueError(f"the {half}_cfg of open_clip:{description['name']} is no table.")
    backbone = str(settings.get("timm_model_name") or "")
    if ":" in backbone:
        raise ValueError(
            f"the policy's {half} tower stands on {backbone!r}, which is no model of timm's own."
        )
    return {key: x for key, x in settings.items() if not key.endswith("_pretrained")}


def tokenizer_words(description: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a text half's tokenizer; ValueError on any but those known here."""
    words = description["text_cfg"].get("tokenizer_kwargs") or {}
    for key, value in words.items():
        if not isinstance(value, _TOKENIZER_WORDS.get(key, ())):
            raise ValueError(
                f"the tokenizer of open_clip:{description['name']} is to be made with {key} "
                f"{value!r}; a description may say {' and '.join(_TOKENIZER_WORDS)}."
            )
    return dict(words)


def digest_of_files(name: str | None) -> str | None:
    """SHA-256 over the files of a local tokenizer or configuration, None for a name of the hub: a
    description that says it reads no folder but the one that it was written with."""
    folder = Path(name or "")
    if not name or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ and file.is_file():
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def check_files(description: Mapping[str, Any], key: str, name: str) -> None:
    """ValueError where a description names a folder of this machine that is not the one, to the
    byte, that it was written with: which files are read is not for a stranger to say."""
    folder, known = Path(name), description.get(f"{key}_sha256")
    if folder.is_dir() and (known is None or digest_of_files(name) != known):
        raise ValueError(
            f"the policy's description of open_clip:{description['name']} names the folder {name} "
            f"as its {key}, whose files are not those that it was trained with; a folder is read "
            "only where its checksum stands in the description. Train it again with the files of "
            "today, or put back those of then."
        )
    if not folder.is_dir() and (folder.is_absolute() or ".." in folder.parts):
        raise FileNotFoundError(
            f"{name}: no such folder, but the policy's description of open_clip:"
            f"{description['name']} names it as its {key}; put it back there."
        )


def cached_config(description: Mapping[str, Any], name: str) -> str:
    """The folder in the hub's cache that holds the config.json of a model; nothing is fetched.

    OSError where it is not there, ValueError where it would have code of its own run, or is another
    folder than the description was written with.
    """
    from huggingface_hub import snapshot_download

    check_files(description, MODEL, name)
    folder = Path(name)
    if not folder.is_dir():
        try:
            found = snapshot_download(name, allow_patterns=["config.json"], local_files_only=True)
            folder = Path(found)
        except Exception as error:  # the hub's errors are many
            raise OSError(
                f"the text encoder open_clip:{description['name']} is built from the config of "
                f"{name}, which is not in the hub's cache, and opening a policy fetches nothing: "
                f"fetch it once yourself (hf download {name} config.json)."
            ) from error
    if "auto_map" in json.loads((folder / "config.json").read_text()):
        raise ValueError(f"{name}: its config.json asks to run code of its own (auto_map).")
    return str(folder)
