"""A share of scripts/fuzz_files.py: strange files and folders are answered, never a traceback."""

from __future__ import annotations

import random
import shutil
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

from strange_files import write_logs
from strange_inputs import Bases, Failure, call, try_input

pytest.importorskip("pyarrow")
pytest.importorskip("av")


def fuzz(inputs):
    return settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Sound files, and a run and a policy of an earlier version, made without training."""
    folder = tmp_path_factory.mktemp("bases")
    write_logs(folder / "sound.hdf5", random.Random(0), images=False)
    write_logs(folder / "images.hdf5", random.Random(1), images=True)
    old = Path(__file__).resolve().parents[1] / "data" / "format_e03bdf4"
    for name in ("policies", "runs"):
        with tarfile.open(old / f"{name}.tar.xz") as archive:
            archive.extractall(folder / "old", filter="data")
    shutil.move(folder / "old" / "run_value", folder / "run")
    shutil.move(folder / "old" / "policy", folder / "run" / "policy")
    for codec, out in (("png", "png"), ("h264", "mp4")):
        words = ("export-lerobot", folder / "images.hdf5", "--out", folder / out, "--codec", codec)
        assert call(words).status == 0
    return Bases(folder)


def tried(bases, number, kind, *verbs):
    with TemporaryDirectory() as name:
        try:
            return try_input(kind, bases, Path(name), random.Random(number), *verbs)
        except Failure as failure:
            pytest.fail(str(failure.told))


@fuzz(150)
@given(st.integers(0, 2**32 - 1))
def test_files_of_logs(bases, number):
    tried(bases, number, "logs", ("inspect", "inspect", "merge", "relabel", "export-lerobot"))


@fuzz(40)
@given(st.integers(0, 2**32 - 1))
def test_lerobot_data_sets(bases, number):
    tried(bases, number, "lerobot")


@fuzz(60)
@given(st.integers(0, 2**32 - 1))
def test_policy_folders(bases, number):
    tried(bases, number, "policy", ("info",))


@fuzz(30)
@given(st.integers(0, 2**32 - 1))
def test_any_file_in_the_place_of_any_other(bases, number):
    tried(bases, number, "bytes")


def test_the_sound_ones_are_read(bases):
    """What the changes start from gives exit status 0, so that a refusal comes of the change."""
    for words in (
        ("inspect", bases.folder / "sound.hdf5"),
        ("info", bases.run / "policy"),
        ("report", bases.run),
    ):
        assert call(words).status == 0
