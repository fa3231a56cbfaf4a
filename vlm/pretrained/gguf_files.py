"""GGUF files as Hugging Face folders: de-quantized to float32 once, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlm.pretrained.memory import GIB, free_memory

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
# Of a file this much is read at its beginning, where all settings stand, and at each of so many
# places after it: any fine-tuning changes it.
_HEAD, _SAMPLE, _PLACES = 2**23, 4096, 64
# A folder of another layout is made anew.
_LAYOUT = "1"


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that a path is, or that a folder without a config.json holds; None where there
    is none. ValueError where it holds several."""
    if path.suffix.lower() == SUFFIX and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(found) > 1:
        raise ValueError(f"{path} holds {[file.name for file in found]}: name one of these files.")
    return found[0] if found else None


def unpacked(file: Path) -> Path:
    """The Hugging Face folder of a GGUF file (config, tokenizer, float32 safetensors), made where
    the cache ($QSFT_CACHE, else ~/.cache/qsft-robot) does not have it.

    ImportError without the package gguf; ValueError where the file is none, cut off, or of an
    architecture that transformers can't read; RuntimeError where memory or disk is short.
    """
    with file.open("rb") as opened:
        if opened.read(4) != _MAGIC:
            raise ValueError(f"{file}: no GGUF file (it doesn't begin with {_MAGIC.decode()}).")
    cache = Path(os.environ.get("QSFT_CACHE", Path.home() / ".cache" / "qsft-robot")) / "gguf"
    folder = cache / f"{file.stem}-{_identity(file)[:16]}"
    if folder.is_dir():
        return folder
    if find_spec("gguf") is None:
        raise ImportError(f"reading {file} needs: pip install 'qsft-robot[vlm]'")
    numbers = _numbers(file)
    cache.mkdir(parents=True, exist_ok=True)
    _check_room(file, numbers, cache)
    print(
        f"{file}: {numbers / 1e6:,.0f} M weights become float32 once, in {folder}", file=sys.stderr
    )
    temporary = Path(tempfile.mkdtemp(dir=cache, prefix=".unpacking-"))
    try:
        _unpack(file, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _identity(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(f"{_LAYOUT} {size}".encode())
    with file.open("rb") as opened:
        digest.update(opened.read(_HEAD))
        for i in range(_PLACES):
            opened.seek(max(0, (size - _SAMPLE) * (i + 1) // _PLACES))
            digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()


def _numbers(file: Path) -> int:
    """How many weights a GGUF file has, of its header, which is checked against its size."""
    import gguf

    try:
        tensors = gguf.GGUFReader(file).tensors
    except Exception as error:  # whatever numpy raises at the end of the file
        raise ValueError(
            f"{file}: its header or tensors can't be read ({_line(error)}): cut off, or damaged."
        ) from error
    return sum(int(tensor.n_elements) for tensor in tensors)


def _check_room(file: Path, numbers: int, cache: Path) -> None:
    needed = 4 * numbers
    free = free_memory()
    # As read, and once more in the model that is written.
    if free is not None and 2 * needed > free:
        raise RuntimeError(
            f"{file} needs about {2 * needed / GIB:.1f} GiB to be unpacked and {free / GIB:.1f} "
            "GiB are free: take a smaller model or a larger machine."
        )
    room = shutil.disk_usage(cache).free
    if needed > room:
        raise RuntimeError(
            f"{cache}: {needed / GIB:.1f} GiB are needed for {file.name} and {room / GIB:.1f} GiB "
            "are free; QSFT_CACHE names another folder."
        )


def _unpack(file: Path, folder: Path) -> None:
    """Write what a GGUF file holds to a folder. Its model is built anew: one that was loaded from
    GGUF counts as quantized and can't be saved."""
    import torch
    import transformers

    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    auto = transformers.AutoModelForCausalLM
    with without_bars():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
            loaded = auto.from_pretrained(file.parent, dtype=torch.float32, **source)
        except Exception as error:  # KeyError, struct.error, ... of a file that lacks something
            raise ValueError(
                f"{file}: transformers {transformers.__version__} can't read it ({_line(error)})."
            ) from error
        settings = loaded.config.to_dict()
        for name in ("quantization_config", "_name_or_path", "dtype"):
            settings.pop(name, None)
        config = type(loaded.config).from_dict(settings)
        fresh = auto.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def without_bars() -> Any:
    """Inside, transformers draws no progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
