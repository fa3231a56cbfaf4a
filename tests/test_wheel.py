"""The wheel ships exactly the four packages and their data."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = {"qsft_robot", "vlm", "tokenizers_action", "sim"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the working tree; needs no network."""
    root = Path(__file__).resolve().parents[1]
    copy = tmp_path_factory.mktemp("source")
    left_out = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", "*.hdf5", ".*_cache")
    shutil.copytree(root, copy / "tree", ignore=left_out)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy)]
    done = subprocess.run(
        command, cwd=copy / "tree", capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = copy.glob("*.whl")
    return path


def test_ships_exactly_the_four_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_ships_every_source_and_asset_of_them(wheel: Path, repository: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(repository).as_posix()
        for package in PACKAGES
        for path in (repository / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    studies = {name for name in wanted if "/captions/" in name or name.endswith("study_rows.py")}
    assert studies
    assert wanted - studies <= shipped
    assert not studies & shipped


def test_carries_the_license_and_one_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (license,) = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    assert archive.read(license).startswith(b"MIT License")
    (scripts,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    assert archive.read(scripts).decode().split() == [
        "[console_scripts]",
        "qsft-robot",
        "=",
        "qsft_robot.cli:main",
    ]
