"""A file of demonstrations appears whole or not at all, and holds only sound episodes."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.writer import DemonstrationWriter, write_demonstrations
from qsft_robot.types import Episode

WRITE_LARGE_EPISODES = """
import sys, numpy as np
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode
frames = np.zeros((51, 84, 84, 3), np.uint8)
with DemonstrationWriter(sys.argv[1], {"env_name": "new"}) as writer:
    for i in range(40):
        writer.append(Episode(f"demo_{i}", {"front_image": frames}, np.zeros((50, 2), np.float32),
                              np.ones(50, np.float32), True, False, True))
        print(i, flush=True)
        if len(sys.argv) > 2 and i == 3:
            sys.stdin.read()
"""


def episode(name="demo_0", steps=3):
    return Episode(
        name=name,
        observations={"proprio": np.zeros((steps + 1, 2), np.float32)},
        actions=np.zeros((steps, 2), np.float32),
        rewards=np.ones(steps, np.float32),
        terminated=True,
        truncated=False,
        success=True,
    )


@pytest.fixture
def earlier(tmp_path):
    path = tmp_path / "logs.hdf5"
    write_demonstrations(path, [episode()], {"env_name": "earlier"})
    return path


def test_a_kill_in_the_middle_of_a_write_leaves_the_earlier_file_whole(earlier):
    before = earlier.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_LARGE_EPISODES, str(earlier), "wait"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline().strip() != "3":
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert earlier.read_bytes() == before
    assert len(read_episodes(earlier)) == 1


def test_a_full_disk_leaves_the_earlier_file_whole_and_says_so(earlier):
    before = earlier.read_bytes()
    limit = 10 << 20
    result = subprocess.run(
        [sys.executable, "-c", WRITE_LARGE_EPISODES, str(earlier)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError")
    assert str(earlier) in last
    assert "disk full" in last
    assert earlier.read_bytes() == before
    assert os.listdir(earlier.parent) == [earlier.name]


def test_an_error_between_two_episodes_leaves_the_earlier_file_whole(earlier):
    before = earlier.read_bytes()

    def episodes():
        yield episode()
        raise RuntimeError("the simulator died")

    with pytest.raises(RuntimeError, match="the simulator died"):
        write_demonstrations(earlier, episodes(), {"env_name": "new"})
    assert earlier.read_bytes() == before
    assert os.listdir(earlier.parent) == [earlier.name]


def test_a_clean_exit_replaces_the_earlier_file(earlier):
    write_demonstrations(earlier, [episode("demo_0"), episode("demo_1")], {"env_name": "new"})
    with h5py.File(earlier) as file:
        assert json.loads(file["data"].attrs["env_args"]) == {"env_name": "new"}
        assert len(file["data"]) == 2
    assert os.listdir(earlier.parent) == [earlier.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "first"}, r"demo_<number>"),
        ({"actions": np.zeros((4, 2), np.float32)}, r"rewards \[t\]"),
        ({"rewards": np.zeros((3, 2), np.float32)}, r"rewards \[t\]"),
        ({"observations": {"proprio": np.zeros((3, 2), np.float32)}}, "proprio.*3 rows.*need 4"),
        ({"observations": {}}, "no observations"),
        ({"terminated": False}, "exactly one of terminated and truncated"),
        ({"truncated": True}, "exactly one of terminated and truncated"),
        ({"terminated": False, "truncated": True}, "success"),
    ],
)
def test_an_unsound_episode_is_refused_by_name(tmp_path, change, message):
    bad = dataclasses.replace(episode(), **change)
    with pytest.raises(ValueError, match=message):
        write_demonstrations(tmp_path / "a.hdf5", [bad], {})
    assert not list(tmp_path.iterdir())


def test_a_repeated_name_an_absent_mask_entry_and_an_empty_file_are_refused(tmp_path):
    path = tmp_path / "a.hdf5"
    with pytest.raises(ValueError, match="Two episodes are named 'demo_0'"):
        write_demonstrations(path, [episode(), episode()], {})
    with pytest.raises(ValueError, match=r"demo_7.*not written"):
        write_demonstrations(path, [episode()], {}, {"train": ["demo_7"]})
    with pytest.raises(ValueError, match="no episode"):
        write_demonstrations(path, [], {})
    with pytest.raises(ValueError, match="with"):
        DemonstrationWriter(path, {}).append(episode())
    assert not path.exists()


def test_compressed_images_are_the_same_images_in_a_smaller_file(tmp_path):
    """Flat images with some noise, as simulators draw them; numbers stay as they are."""
    rng = np.random.default_rng(0)
    frames = np.full((21, 32, 32, 3), 90, np.uint8)
    frames[:, 8:12] = rng.integers(256, size=(21, 4, 32, 3), dtype=np.uint8)
    log = dataclasses.replace(
        episode(steps=20),
        observations={"front_image": frames, "proprio": rng.normal(size=(21, 2)).astype("f4")},
    )
    sizes = {}
    for compress in (False, True):
        path = tmp_path / f"{compress}.hdf5"
        with DemonstrationWriter(path, {"env_name": "new"}, compress_images=compress) as writer:
            writer.append(log)
        (read,) = read_episodes(path)
        for key, rows in log.observations.items():
            np.testing.assert_array_equal(read.observations[key], rows)
        sizes[compress] = path.stat().st_size
        with h5py.File(path) as file:
            assert file["data/demo_0/obs/proprio"].compression is None
    assert sizes[True] < sizes[False] / 3
