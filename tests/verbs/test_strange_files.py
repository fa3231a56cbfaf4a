"""A share of scripts/fuzz_files.py: strange files and folders are answered, never a traceback.

They are tried in a process of their own: what would kill it, hang, or take 2 GiB fails by name."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

from strange_child import Child
from strange_files import write_logs
from strange_inputs import Bases, call

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


@pytest.fixture(scope="module")
def child(bases):
    with Child(bases.folder) as child:
        yield child


def tried(child, number, kind, *verbs):
    outcome = child.try_input(kind, str(number), verbs)
    assert outcome["status"] != "FAILED", ascii(outcome)  # ASCII: workers report in UTF-8


@fuzz(150)
@given(st.integers(0, 2**32 - 1))
def test_files_of_logs(child, number):
    tried(child, number, "logs", "inspect", "inspect", "merge", "relabel", "export-lerobot")


@fuzz(40)
@given(st.integers(0, 2**32 - 1))
def test_lerobot_data_sets(child, number):
    tried(child, number, "lerobot")


@fuzz(60)
@given(st.integers(0, 2**32 - 1))
def test_policy_folders(child, number):
    tried(child, number, "policy", "info")


@fuzz(30)
@given(st.integers(0, 2**32 - 1))
def test_any_file_in_the_place_of_any_other(child, number):
    tried(child, number, "bytes")


def test_the_sound_ones_are_read(bases):
    """What the changes start from gives exit status 0, so that a refusal comes of the change."""
    for words in (
        ("inspect", bases.folder / "sound.hdf5"),
        ("info", bases.run / "policy"),
        ("report", bases.run),
    ):
        assert call(words).status == 0


def test_what_an_input_does_to_its_process_is_told_of_the_input(bases):
    with Child(bases.folder) as child:
        assert child.try_input("bytes", "0")["status"] != "FAILED"
        os.kill(child.process.pid, signal.SIGSEGV)
        told = child.try_input("bytes", "1")
        assert told["status"] == "FAILED"
        assert "died" in told["what"]
        assert child.try_input("bytes", "2")["status"] != "FAILED"
    with Child(bases.folder, seconds=0.01) as child:  # less than its imports take
        assert "hung" in child.try_input("bytes", "0")["what"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_no_input_gets_more_memory_than_its_limit(repository):
    code = "import numpy as np; from strange_child import BYTES, limit_memory; limit_memory(); "
    code += "np.zeros(BYTES // 2, np.uint8); print('half'); np.zeros(2 * BYTES, np.uint8)"
    words = [sys.executable, "-c", code]
    answer = subprocess.run(
        words, cwd=repository / "scripts", capture_output=True, text=True, check=False
    )
    assert answer.stdout == "half\n"
    assert "MemoryError" in answer.stderr
