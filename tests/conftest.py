"""Shared by every test: one seed, the repository's root, off-screen rendering by EGL."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MUJOCO_GL", "egl")
# Environments that tests and worker processes import by name; last, so that they shadow nothing.
sys.path.append(str(Path(__file__).parent / "shared"))
# Shapes in the signatures of the model are checked here, and in tests only.
install_import_hook(
    [
        *("qsft_robot.algorithms", "qsft_robot.token_data", "tokenizers_action"),
        *("vlm.blocks", "vlm.decision", "vlm.heads", "vlm.model", "vlm.rt.images"),
        *("vlm.rt.context", "vlm.rt.model", "vlm.rt.perceptron"),
        *("vlm.pretrained.cache", "vlm.pretrained.model", "vlm.pretrained.prompt", "vlm.towers"),
    ],
    "beartype.beartype",
)


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message) -> None:
    """Warnings in ASCII: workers report in UTF-8, which names of strange files do not keep to."""
    told = warning_message.message
    if isinstance(told, Warning) and not str(told).isascii():
        told.args = (ascii(str(told)),)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]
