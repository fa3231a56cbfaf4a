"""Checks our LeRobot data sets with LeRobot itself, which runs in an environment of its own.

    python -m venv ENV
    ENV/bin/pip install 'lerobot>=0.4,<0.5'
    python scripts/check_lerobot.py ENV/bin/python

LeRobot's video reader, torchcodec, looks for FFmpeg's shared libraries (Debian: ffmpeg).
LeRobot reads what `export-lerobot` wrote, and `import-lerobot` reads what LeRobot recorded: frames,
actions, states, tasks, rate and statistics have to agree. The result goes to OUT/check.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.files import read_json, write_json
from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.lerobot.importing import import_lerobot
from qsft_robot.lerobot.stats import JoinedStatistics, image_statistics, row_statistics
from qsft_robot.logs.reader import read_env_args, read_episodes
from qsft_robot.normalize import NormStats
from qsft_robot.rollouts.collect import CollectPart, collect

# Runs under LeRobot's interpreter: reads the data set in argv[1] into the npz file argv[2].
READ = """
import json, sys
import numpy as np
import lerobot
from lerobot.datasets.lerobot_dataset import LeRobotDataset

data = LeRobotDataset("local/check", root=sys.argv[1])
rows = [data[i] for i in range(len(data))]
columns = {
    key: np.stack([np.asarray(row[key]) for row in rows])
    for key in rows[0] if not isinstance(rows[0][key], str)
}
told = {
    "version": lerobot.__version__,
    "fps": data.fps,
    "episodes": data.num_episodes,
    "tasks": [row["task"] for row in rows],
    "stats": {k: {n: np.asarray(x).tolist() for n, x in s.items()}
              for k, s in data.meta.stats.items()},
}
np.savez(sys.argv[2], told=json.dumps(told), **columns)
"""
# Records the episodes of the npz file argv[1] with LeRobot into the new folder argv[2].
RECORD = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

source = np.load(sys.argv[1])
told = json.loads(str(source["told"]))
size = source["image_0"].shape[1:]
number = lambda n, names=None: {"dtype": "float32", "shape": (n,), "names": names}
features = {
    "observation.state": number(told["state"], [f"motor_{i}.pos" for i in range(told["state"])]),
    "observation.images.front": {
        "dtype": told["kind"], "shape": size, "names": ["height", "width", "channels"]},
    "action": number(told["action"], [f"motor_{i}.pos" for i in range(told["action"])]),
    "next.reward": number(1),
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
data = LeRobotDataset.create(
    "local/recorded", fps=told["fps"], features=features, root=sys.argv[2], robot_type="so101",
    use_videos=told["kind"] == "video", vcodec=told["codec"])
for i, task in enumerate(told["tasks"]):
    for t in range(len(source[f"action_{i}"])):
        data.add_frame({
            "observation.state": source[f"state_{i}"][t],
            "observation.images.front": source[f"image_{i}"][t],
            "action": source[f"action_{i}"][t],
            "next.reward": source[f"reward_{i}"][t:t + 1],
            "next.success": source[f"reward_{i}"][t:t + 1] > 0,
            "task": task,
        })
    data.save_episode()
data.finalize()
"""


def run(python: Path, code: str, *arguments: Path) -> None:
    """Run `code` under LeRobot's interpreter, offline, away from this repository's `datasets`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "SVT_LOG": "1"}
    # The hub's cache and the like stay out of the user's home.
    with tempfile.TemporaryDirectory() as folder:
        environment["HF_HOME"] = folder
        words = [str(python), "-c", code, *(str(path.resolve()) for path in arguments)]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"LeRobot failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def check_export(python: Path, logs: Path, out: Path, codec: str) -> dict[str, Any]:
    """LeRobot reads our export; the largest difference of each kind of column."""
    folder = export_lerobot(logs, out / f"export-{codec}", codec=codec, state_keys=["proprio"])  # type: ignore[arg-type]
    run(python, READ, folder, out / f"export-{codec}.npz")
    read = np.load(out / f"export-{codec}.npz")
    told = json.loads(str(read["told"]))
    episodes = read_episodes(logs)
    assert told["episodes"] == len(episodes)
    assert told["fps"] == read_env_args(logs)["control_hz"]
    assert told["tasks"] == [e.instruction for e in episodes for _ in range(len(e))]

    def joined(key: str) -> np.ndarray:
        return np.concatenate([e.observations[key][:-1] for e in episodes])

    result: dict[str, Any] = {
        "lerobot": told["version"],
        "episodes": len(episodes),
        "frames": len(told["tasks"]),
        "tasks": len(set(told["tasks"])),
        "fps": told["fps"],
    }
    truth = {
        "action": np.concatenate([e.actions for e in episodes]),
        "next.reward": np.concatenate([e.rewards for e in episodes]),
        "observation.state": joined("proprio"),
        "observation.target": joined("target"),
    }
    for key, values in truth.items():
        result[f"{key}, largest difference"] = float(np.abs(read[key] - values).max())
        found, expected = told["stats"][key], expected_statistics(values)
        for name, value in expected.items():
            at = np.abs(np.asarray(found[name]) - value).max()
            assert at < 1e-4 * max(1.0, np.abs(value).max()), (key, name, at)
    for camera in ("front", "wrist"):
        seen = np.round(read[f"observation.images.{camera}"] * 255).transpose(0, 2, 3, 1)
        truth_frames = joined(f"{camera}_image")
        result[f"{camera}, mean difference of 255"] = float(np.abs(seen - truth_frames).mean())
        means = np.ravel(told["stats"][f"observation.images.{camera}"]["mean"])
        assert np.abs(means - truth_frames.mean(axis=(0, 1, 2)) / 255).max() < 0.01
    return result


def expected_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """min, max, mean, std and count over all frames, which LeRobot's join of episodes keeps."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)]),
    }


def check_import(python: Path, logs: Path, out: Path, kind: str, codec: str) -> dict[str, Any]:
    """Our import reads what LeRobot recorded; the largest difference of each kind."""
    episodes = read_episodes(logs)
    arrays: dict[str, np.ndarray] = {}
    for i, e in enumerate(episodes):
        arrays |= {
            f"state_{i}": e.observations["proprio"][:-1],
            f"image_{i}": e.observations["front_image"][:-1],
            f"action_{i}": e.actions,
            f"reward_{i}": e.rewards,
        }
    told = {
        "fps": 10,
        "kind": kind,
        "codec": codec,
        "tasks": [e.instruction for e in episodes],
        "state": arrays["state_0"].shape[1],
        "action": arrays["action_0"].shape[1],
    }
    name = f"recorded-{kind}-{codec}"
    np.savez(out / f"{name}.npz", told=json.dumps(told), **arrays)  # type: ignore[arg-type]
    run(python, RECORD, out / f"{name}.npz", out / name)
    report = import_lerobot(out / name, out / f"{name}.hdf5")
    imported = read_episodes(out / f"{name}.hdf5")
    env_args = read_env_args(out / f"{name}.hdf5")
    assert (env_args["env_name"], env_args["control_hz"]) == ("lerobot:so101", 10)
    assert env_args["env_kwargs"]["actions"][0] == "motor_0.pos"
    assert report.keys == {"observation.state": "state", "observation.images.front": "front_image"}
    difference = 0.0
    for old, new in zip(episodes, imported, strict=True):
        assert (old.instruction, old.success) == (new.instruction, new.success)
        assert np.array_equal(old.actions, new.actions)
        assert np.array_equal(old.rewards, new.rewards)
        assert np.array_equal(old.observations["proprio"][:-1], new.observations["state"][:-1])
        recorded = old.observations["front_image"][:-1].astype(int)
        off = np.abs(recorded - new.observations["front_image"][:-1])
        difference += float(off.mean()) / len(episodes)
    stats = read_json(out / name / "meta" / "stats.json")
    check_statistics(imported, stats)
    return {
        "episodes": len(imported),
        "frames": sum(map(len, imported)),
        "front, mean difference of 255": difference,
        "statistics, largest difference of the range": compare_statistics(episodes, stats),
    }


def compare_statistics(episodes: list[Any], stats: Mapping[str, Any]) -> dict[str, float]:
    """Our statistics of the recorded logs against LeRobot's own; the largest difference, as a share
    of the range of the feature."""
    ours = JoinedStatistics()
    for e in episodes:
        rows = {"action": e.actions, "observation.state": e.observations["proprio"][:-1]}
        found = {key: row_statistics(x) for key, x in rows.items()}
        found["observation.images.front"] = image_statistics(e.observations["front_image"][:-1])
        ours.add(found)
    worst: dict[str, float] = {}
    for feature, found in ours.to_json().items():
        span = np.ptp(np.array([found["min"], found["max"]]), axis=0).max()
        for name, value in found.items():
            if name == "std" and "images" in feature:
                # LeRobot 0.4.4 squares uint8 pixels as uint8, so its spread of images is not one.
                continue
            off = np.abs(np.asarray(value) - np.asarray(stats[feature][name])).max() / span
            # LeRobot looks quantiles up in 5,000 bins of each episode's range.
            assert off < (1e-3 if name.startswith("q") else 1e-5), (feature, name, off)
            worst[feature] = max(worst.get(feature, 0.0), float(off))
    return worst


def check_statistics(episodes: list[Any], stats: Mapping[str, Any]) -> None:
    """The mean and spread of actions that training computes are those that LeRobot noted."""
    norm = NormStats.fit(episodes, ["state"]).to_json()
    actions = np.concatenate([e.actions for e in episodes])
    assert np.allclose(actions.mean(axis=0), stats["action"]["mean"], atol=1e-5)
    assert np.allclose(actions.std(axis=0), stats["action"]["std"], atol=1e-5)
    seen = np.concatenate([e.observations["state"][:-1] for e in episodes])
    assert np.allclose(seen.mean(axis=0), stats["observation.state"]["mean"], atol=1e-5)
    # Training counts the last observation of a log once more; logs are about 30 steps long.
    mean = np.asarray(norm["state"]["state"]["mean"])
    assert np.allclose(mean, stats["observation.state"]["mean"], atol=0.1)


def main() -> None:
    """Run every check and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path, help="interpreter of an environment with lerobot")
    parser.add_argument("--out", type=Path, help="folder to keep; a temporary one when not given")
    parser.add_argument("--episodes", type=int, default=8)
    options = parser.parse_args()
    # A symlink of a virtual environment must not be resolved: it finds its packages by its place.
    python = Path(os.path.abspath(options.python))
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        logs = out / "logs.hdf5"
        kwargs = {"task": "place", "cameras": ["front", "wrist"], "image_size": 64}
        parts = [CollectPart(options.episodes, {"expert": 0.5, "sloppy": 0.5}, noise=0.1)]
        collect({"env_name": "tabletop", "env_kwargs": kwargs}, logs, parts, progress=False)
        results = {}
        for codec in ("h264", "libsvtav1", "png"):
            results[f"export {codec}"] = check_export(python, logs, out, codec)
            print(f"export {codec}: {results[f'export {codec}']}", flush=True)
        for kind, codec in (("video", "libsvtav1"), ("video", "h264"), ("image", "libsvtav1")):
            name = f"import {kind} {codec}" if kind == "video" else "import image"
            results[name] = check_import(python, logs, out, kind, codec)
            print(f"{name}: {results[name]}", flush=True)
        write_json(out / "check.json", results)
        print(f"LeRobot reads ours and we read LeRobot's{f'; {out}' if options.out else ''}")


if __name__ == "__main__":
    main()
