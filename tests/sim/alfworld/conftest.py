"""A handful of generated ALFWorld games, made once for all tests and all test processes."""

from __future__ import annotations

import fcntl
from importlib.util import find_spec
from pathlib import Path

import pytest

from sim.alfworld.games import generate_games

FEW = {"train": 6, "valid_unseen": 6}


@pytest.fixture(scope="session")
def alfworld_games(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A data root (ALFWORLD_DATA) with one game of each type in train and in valid_unseen."""
    if find_spec("alfworld") is None:
        pytest.skip("ALFWorld is not installed: make alfworld")
    base = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder in the run's own.
    root = (base if worker_id == "master" else base.parent) / "alfworld"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        generate_games(root / "generated", FEW, workers=2)
    return root


@pytest.fixture
def alfworld_data(alfworld_games: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with the environment variable set."""
    monkeypatch.setenv("ALFWORLD_DATA", str(alfworld_games))
    return alfworld_games
