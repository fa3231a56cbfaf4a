"""Logs take no row from a file outside of their own folder, and never wait for a pipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.relabel import relabel

STEPS = 5


def write(path: Path, edit: Callable[[h5py.File, h5py.Group], object] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = '{"env_name": "tabletop"}'
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.linspace(0, 0.5, STEPS * 4, dtype=np.float32).reshape(STEPS, 4)
        demo["rewards"] = np.eye(1, STEPS, STEPS - 1, dtype=np.float32)[0]
        demo["dones"] = np.eye(1, STEPS, STEPS - 1, dtype=np.int64)[0]
        demo["obs/proprio"] = np.arange(STEPS * 3, dtype=np.float32).reshape(STEPS, 3)
        if edit is not None:
            edit(file, demo)
    return path


def external(name: str) -> Callable[[h5py.File, h5py.Group], object]:
    return lambda file, demo: demo["obs"].create_dataset(
        "leak", (STEPS, 4), np.uint8, external=[(name, 0, 4 * STEPS)]
    )


def virtual(name: str) -> Callable[[h5py.File, h5py.Group], object]:
    def edit(file: h5py.File, demo: h5py.Group) -> None:
        layout = h5py.VirtualLayout((STEPS, 3), np.float32)
        layout[:] = h5py.VirtualSource(name, "data/demo_0/obs/proprio", shape=(STEPS, 3))
        demo["obs"].create_virtual_dataset("leak", layout)

    return edit


def link(name: str) -> Callable[[h5py.File, h5py.Group], object]:
    return lambda file, demo: demo["obs"].__setitem__(
        "leak", h5py.ExternalLink(name, "data/demo_0/obs/proprio")
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret" / "key.txt"
    path.parent.mkdir()
    path.write_text("TOP SECRET " * 10)
    write(tmp_path / "secret" / "other.hdf5")
    return path


@pytest.mark.parametrize("kind", [external, virtual, link])
def test_no_local_file_gets_into_a_merged_log(tmp_path, secret, kind, capsys):
    name = str(secret if kind is external else secret.with_name("other.hdf5"))
    logs, out = write(tmp_path / "logs" / "a.hdf5", kind(name)), tmp_path / "out.hdf5"
    with pytest.raises(ValueError, match=r"outside of .*merge FILE --out WHOLE"):
        read_episodes(logs)
    for verb in (["inspect", logs], ["merge", logs, "--out", out]):
        assert main([str(word) for word in verb]) == 2
        assert "outside of" in capsys.readouterr().err
    assert not out.exists()
    assert main(["merge", str(logs), "--out", str(out), "--files-from-anywhere"]) == 0


@pytest.mark.parametrize("kind", [external, link])
@pytest.mark.timeout(60)
def test_a_pipe_is_refused_at_once(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    logs = write(tmp_path / "a.hdf5", kind(str(tmp_path / "pipe")))
    with pytest.raises(ValueError, match="no file that can be read"):
        read_episodes(logs)


@pytest.mark.parametrize("kind", [virtual, link])
def test_files_below_the_folder_of_the_logs_are_read(tmp_path, kind):
    write(tmp_path / "logs" / "parts" / "b.hdf5")
    logs = write(tmp_path / "logs" / "a.hdf5", kind("parts/b.hdf5"))
    (episode,) = read_episodes(logs)
    np.testing.assert_array_equal(episode.observations["leak"], episode.observations["proprio"])


def test_a_source_beside_the_logs_does_not_lead_on_to_elsewhere(tmp_path, secret):
    folder = tmp_path / "logs"
    write(folder / "b.hdf5", external(str(secret)))

    def edit(file: h5py.File, demo: h5py.Group) -> None:
        layout = h5py.VirtualLayout((STEPS, 4), np.uint8)
        layout[:] = h5py.VirtualSource("b.hdf5", "data/demo_0/obs/leak", shape=(STEPS, 4))
        demo["obs"].create_virtual_dataset("leak", layout)

    with pytest.raises(ValueError, match="outside of"):
        read_episodes(write(folder / "a.hdf5", edit))


def test_hidden_folders_hold_nobodys_recording(tmp_path):
    write(tmp_path / ".keys" / "b.hdf5")
    with pytest.raises(ValueError, match="outside of"):
        read_episodes(write(tmp_path / "a.hdf5", link(".keys/b.hdf5")))


def test_relabeling_changes_no_other_file(tmp_path):
    other = write(tmp_path / "b.hdf5")
    before = shutil.copy(other, tmp_path / "before")
    logs = write(
        tmp_path / "a.hdf5",
        lambda file, demo: file["data"].__setitem__(
            "demo_1", h5py.ExternalLink("b.hdf5", "data/demo_0")
        ),
    )
    with pytest.raises(ValueError, match="data/demo_1 is a link"):
        relabel(logs, tmp_path / "out.hdf5", failure=["demo_1"])
    assert other.read_bytes() == Path(before).read_bytes()
