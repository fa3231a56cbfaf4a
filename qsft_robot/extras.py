"""Optional packages: the extra that brings each, and the line that names it where one is missing.

This file is read without any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# Extra -> the modules that its packages bring (as pyproject.toml lists them).
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": (
        "einops", "gymnasium", "imageio", "imageio_ffmpeg", "jaxtyping", "matplotlib", "mujoco",
        "PIL", "safetensors", "tensorboard", "timm", "tokenizers", "torch", "torchvision",
    ),
    "onnx": ("onnx", "onnxscript"),
    "vlm": ("accelerate", "gguf", "num2words", "open_clip", "peft", "tokenizers", "transformers"),
    "lerobot": ("av", "pyarrow"),
    "hub": ("huggingface_hub",),
    "robosuite": ("robosuite",),
    "alfworld": ("alfworld", "textworld"),
    "ogbench": ("ogbench", "dm_control"),
    "view": ("rerun",),
    "webshop": ("bm25s",),
    "harness": ("vla_eval",),
    "ray": ("ray",),
}  # fmt: skip


def is_installed(module: str) -> bool:
    """Whether a module can be found; nothing is imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def install_line(module: str) -> str | None:
    """How to install a module of an extra; None for any other module."""
    package = module.split(".", maxsplit=1)[0]
    for extra, modules in EXTRAS.items():
        if package in modules:
            return f"{package} is not installed: pip install 'qsft-robot[{extra}]' brings it"
    return None


def explained(error: ImportError) -> str:
    """The message of an ImportError, with the extra that brings what is missing."""
    line = install_line(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    return str(error) if line is None else line


def require_packages(what: str, *modules: str) -> None:
    """ImportError with the extras to install, before anything is begun, unless all are there."""
    absent = [module for module in modules if not is_installed(module)]
    if absent:
        # The first extra of each: one of several is enough.
        bring = [[e for e, mods in EXTRAS.items() if x in mods] for x in absent]
        extras = dict.fromkeys(each[0] for each in bring if each)
        raise ImportError(
            f"{what} needs {', '.join(absent)}: pip install 'qsft-robot[{','.join(extras)}]'"
        )


@contextmanager
def naming_extras(what: str) -> Iterator[None]:
    """Turn a missing package inside the block into an ImportError that names its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        line = install_line(error.name or "")
        if line is None:
            raise
        raise ImportError(f"{what}: {line}") from error
