"""A pretrained model's files: found, checked, identified and weighed before they are loaded."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.gguf_files import SUFFIX, gguf_of, unpacked
from vlm.pretrained.memory import GIB, free_memory

BYTES = {"float32": 4, "bfloat16": 2}
# Bits of one number, by safetensors' name of its type.
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
    "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
# Of every tensor this much is read at its beginning, middle and end: any fine-tuning changes it,
# and a model of 8 B parameters is told apart in seconds instead of minutes.
SAMPLE = 4096
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# The same weights a second time, in other layouts.
_NOT_FETCHED = ["*/*", "consolidated*"]
# Files beside the weights that decide what the model sees.
_DECIDING = (
    "config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    "merges.txt", "preprocessor_config.json", "processor_config.json", "chat_template.jinja",
)  # fmt: skip


# Tables of many megabytes, in which no library looks for settings.
_TABLES = ("tokenizer.json", "vocab.json", "added_tokens.json", "model.safetensors.index.json")


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of a base's weights."""

    parameters: int
    bytes_per_parameter: int

    @property
    def total_bytes(self) -> int:
        """parameters x bytes_per_parameter."""
        return self.parameters * self.bytes_per_parameter

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:,.0f} M parameters x {self.bytes_per_parameter} bytes = "
            f"{self.total_bytes / GIB:.2f} GiB"
        )


def find_base(config: PretrainedConfig, fetch: bool = True) -> tuple[Path, str | None]:
    """The folder that holds the base, and the commit it was resolved to (None for a local folder);
    of a GGUF file the folder that it was unpacked to.

    A hub id is fetched into the hub's own cache (or found there, without `fetch` or with
    HF_HUB_OFFLINE=1), never its pickled weights. FileNotFoundError where there is no such folder
    or repository, ValueError where the folder is no model or its weights are pickled.
    """
    folder, revision = Path(config.base).expanduser(), None
    if (file := gguf_of(folder)) is not None:
        return unpacked(file), None
    if not folder.is_dir():
        if folder.suffix.lower() == SUFFIX:
            raise FileNotFoundError(f"{config.base}: no such GGUF file.")
        if folder.is_absolute() or config.base.startswith((".", "~")) or config.base.count("/") > 1:
            raise FileNotFoundError(f"{config.base}: no such folder to take a pretrained model of.")
        folder = _fetch(config, fetch)
        revision = folder.name
    if not (folder / "config.json").is_file():
        inside = sorted(f.name for f in folder.iterdir())[:8]
        raise ValueError(
            f"{config.base} is no Hugging Face model: it has no config.json. It holds: {inside}"
        )
    if not weight_files(folder):
        pickled = sorted(f.name for pattern in _PICKLED for f in folder.glob(pattern))
        if pickled or revision is not None:
            raise ValueError(
                f"{config.base} has no safetensors weights{f', only {pickled}' if pickled else ''}."
                " Pickled weights can run code and are not read: load the model once where you "
                "trust it and write it with model.save_pretrained(folder, safe_serialization=True)."
            )
        raise ValueError(f"{config.base} has a config.json but no *.safetensors weights beside it.")
    return folder, revision


def copy_base(config: PretrainedConfig, folder: Path) -> str:
    """Copy the files of a base, pickled weights aside; returns the copy's fingerprint."""
    source, _ = find_base(config)
    patterns = [*_FETCHED, "*.py"] if config.trust_remote_code else _FETCHED
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted({file for pattern in patterns for file in source.glob(pattern)}):
        shutil.copyfile(file, folder / file.name)
    if not config.trust_remote_code:
        ask_for_no_code(folder)
    return base_fingerprint(folder)


def asks_for_code(folder: Path) -> str | None:
    """The entry of a model's folder, in words, that would run code from outside the installed
    libraries; None without one."""
    for file in sorted({*folder.glob("*.json")} - {folder / name for name in _TABLES}):
        found = asking(_json(file))
        if found is not None:
            return f"{file.name} ({found})"
    return None


def leads_elsewhere(folder: Path) -> str | None:
    """What of a model's folder, in words, would have transformers load something beside the model:
    weights by another name or an adapter over them; None without such."""
    if (folder / "adapter_config.json").exists():
        return "adapter_config.json (an adapter over its weights)"
    for name, key in (
        ("config.json", "transformers_weights"),
        ("processor_config.json", "audio_tokenizer"),
    ):
        content = _json(folder / name) if (folder / name).is_file() else None
        if isinstance(content, dict) and content.get(key):
            return f"{name} ({key})"
    return None


def ask_for_no_code(folder: Path) -> None:
    """Take out of a copy what asks for code that its model was built without."""
    for file in folder.glob("*.json"):
        content = _json(file)
        if isinstance(content, dict) and content.pop("auto_map", None) is not None:
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def asking(value: Any) -> str | None:
    """The key at which a configuration, or a part of it, asks for code."""
    if isinstance(value, list):
        return next((found for x in value if (found := asking(x))), None)
    if not isinstance(value, dict):
        return None
    for key, x in value.items():
        # transformers fetches the "implementation" publisher/name from the hub and runs it.
        kernel = str(key).endswith("_implementation") and "/" in json.dumps(x)
        if (key in ("auto_map", "trust_remote_code", "custom_generate") and x) or kernel:
            return str(key)
        if found := asking(x):
            return found
    return None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error}).") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those of its index, or all in it."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted({str(name) for name in _json(index)["weight_map"].values()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{index}: no weight_map that names files.") from error
        if outside := [name for name in names if Path(name).name != name]:
            raise ValueError(f"{index}: {outside[0]!r} is not a file beside it; fetch again.")
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ValueError(
                f"{folder}: its index names {missing}, which are missing; fetch again."
            )
        return files
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(folder.glob("*.safetensors"))


def estimate_memory(config: PretrainedConfig) -> MemoryEstimate:
    """The memory that loading the base will need, from the headers of its files alone."""
    folder, _ = find_base(config)
    return _estimate(folder, config.dtype)


def check_memory(config: PretrainedConfig, folder: Path) -> None:
    """Print the estimate of a load above 1 GiB; RuntimeError where less memory is free."""
    estimate = _estimate(folder, config.dtype)
    if estimate.total_bytes > GIB:
        print(f"loading {config.base}: {estimate}", file=sys.stderr)
    free = free_memory()
    if free is not None and estimate.total_bytes > free:
        fix = "use dtype bfloat16, or " if config.dtype == "float32" else ""
        raise RuntimeError(
            f"{config.base} needs about {estimate.total_bytes / GIB:.1f} GiB ({estimate}) and "
            f"{free / GIB:.1f} GiB are free: {fix}take a smaller model or a larger machine."
        )


def base_fingerprint(folder: str | Path) -> str:
    """The identity of a base: SHA-256 over the files that decide prompt and preprocessing, the
    names, types and shapes of all weights, and the beginning, middle and end of every tensor."""
    folder, digest = Path(folder), hashlib.sha256()
    for name in _DECIDING:
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    for file in weight_files(folder):
        header, start = _header(file)
        digest.update(json.dumps(header, sort_keys=True).encode())
        with file.open("rb") as opened:
            for _, entry in sorted(header.items()):
                first, last = entry["data_offsets"]
                for at in sorted({first, (first + last) // 2, max(first, last - SAMPLE)}):
                    opened.seek(start + at)
                    digest.update(opened.read(min(SAMPLE, last - at)))
    return digest.hexdigest()


def _estimate(folder: Path, dtype: str) -> MemoryEstimate:
    parameters = sum(math.prod(entry["shape"]) for entry in _entries(folder))
    return MemoryEstimate(parameters, BYTES[dtype])


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    for file in weight_files(folder):
        yield from _header(file)[0].values()


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Name -> dtype, shape and data_offsets of a safetensors file, and where its data begins.

    ValueError where it says more than the file holds: sizes are believed before the data is read.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > min(size - 8, 100_000_000):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(opened.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            if not 0 <= first <= last <= size - 8 - length:
                raise ValueError(f"{name} lies at {first} to {last}, beyond its end")
            bits = _BITS.get(entry["dtype"], 0)
            if min(entry["shape"], default=0) < 0 or (
                bits and math.prod(entry["shape"]) * bits != 8 * (last - first)
            ):
                raise ValueError(f"{name} has {last - first} bytes for {entry['shape']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise ValueError(f"{file}: not a readable safetensors file ({error}).") from error
    return header, 8 + length


def _fetch(config: PretrainedConfig, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_FETCHED, "*.py"] if config.trust_remote_code else _FETCHED
    try:
        found = snapshot_download(
            config.base,
            revision=config.revision,
            allow_patterns=patterns,
            ignore_patterns=_NOT_FETCHED,
            local_files_only=not fetch,
        )
    except Exception as error:
        at = f" at revision {config.revision}" if config.revision else ""
        if not fetch:
            raise FileNotFoundError(
                f"{config.base}{at}: neither a local folder nor in the hub's cache. A folder that "
                "is opened has nothing fetched unless whoever opens it says so: --allow-downloads "
                "(open_policy(..., allow_downloads=True))."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"{config.base}{at}: neither a local folder nor a model that the hub gave ({reason})."
        ) from error
    return Path(found)
