"""Logs of a LeRobot v3 data set for the checks of `inspect`, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.lerobot.format import (
    ACTION,
    DONE,
    FRAME_INDEX,
    INFO,
    REWARD,
    SUCCESS,
    TIMESTAMP,
    TRUNCATED,
    DataSet,
    Feature,
    log_key,
    read_data_set,
    require_lerobot_files,
)
from qsft_robot.lerobot.outcomes import Outcomes, SuccessRule
from qsft_robot.lerobot.parquet import episode_columns
from qsft_robot.lerobot.timing import check_video_ranges
from qsft_robot.lerobot.video import iter_images, iter_video
from qsft_robot.logs.checks import check_finite
from qsft_robot.logs.doctor.frames import FrameDigests, digest_frames
from qsft_robot.logs.doctor.log import Log, LogSource
from qsft_robot.types import Episode

_TOLD = {REWARD, SUCCESS, TRUNCATED, DONE, TIMESTAMP, FRAME_INDEX, "task_index"}


def lerobot_source(folder: str | Path) -> LogSource:
    """The logs of a data set; FileNotFoundError and ValueError as `read_data_set`."""
    require_lerobot_files()
    data = read_data_set(folder)
    fps = data.info.get("fps")
    return LogSource(
        path=str(folder),
        environment=f"lerobot:{data.info.get('robot_type') or 'unknown'}",
        logs=iter_lerobot_logs(data),
        control_hz=float(fps) if isinstance(fps, int | float) and fps > 0 else None,
        lerobot=True,
        tells_success=success_rule(data) != "none",
    )


def iter_lerobot_logs(data: DataSet) -> Iterator[tuple[Episode | None, Log]]:
    """Each log as an `Episode` without images and as the checks see it; None where a number of it
    is none, which the import refuses. ValueError where files and description don't agree."""
    numbers = [f for f in data.features.values() if f.numeric and f.name.startswith("observation")]
    cameras = [f for f in data.features.values() if f.camera]
    columns = [
        ACTION,
        *(f.name for f in numbers),
        *(f.name for f in cameras if f.dtype == "image"),
        *(name for name in data.features if name in _TOLD),
    ]
    outcome = Outcomes.of(data, success_rule(data), None, "terminal")
    if videos := [f.name for f in cameras if f.dtype == "video"]:
        check_video_ranges(data, videos, _fps(data))
    for row, found in episode_columns(data, columns, data.episodes):
        number = row["episode_index"]
        name = f"episode_{number}"
        try:
            for key in (ACTION, *(f.name for f in numbers), *({REWARD} & data.features.keys())):
                with np.errstate(over="ignore"):  # what float32 can't hold becomes Inf
                    rows = np.asarray(found[key], np.float32)
                check_finite(f"{data.folder}: {key} of {name}", rows)
        except ValueError as error:
            yield None, Log(name, refusal=str(error))
            continue
        rewards, succeeded, truncated = outcome(number, found)
        state = {
            log_key(f.name): np.asarray(found[f.name], np.float32).reshape(row["length"], -1)
            for f in numbers
        }
        actions = np.asarray(found[ACTION], np.float32).reshape(row["length"], -1)
        words = _instruction(data, found)
        frames = {log_key(f.name): _digests(data, f, row, found) for f in cameras}
        log = Log(
            name=name,
            instruction=words,
            state=state,
            actions=actions,
            frames={key: x for key, x in frames.items() if x is not None},
            rewards=rewards,
            success=succeeded if SUCCESS in data.features else None,
            marks=_marks(found),
            timestamps=found["timestamp"][:, 0].astype(float) if "timestamp" in found else None,
        )
        episode = Episode(
            name=name,
            observations={key: np.concatenate([x, x[-1:]]) for key, x in state.items()},
            actions=actions,
            rewards=rewards,
            terminated=not truncated,
            truncated=truncated,
            success=succeeded,
            instruction=words,
        )
        yield episode, log


def success_rule(data: DataSet) -> SuccessRule:
    """The feature that tells success: next.success, else next.reward, else nothing."""
    if SUCCESS in data.features:
        return "next.success"
    return "reward" if REWARD in data.features else "none"


def _instruction(data: DataSet, found: Mapping[str, Any]) -> str:
    if "task_index" not in found:
        return ""
    return data.tasks.get(int(found["task_index"][0, 0]), "")


def _marks(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Marks of each step that stand in the data set; bool [t] each."""
    there = {
        name: np.asarray(found[column])[:, 0] > 0
        for name, column in (("dones", DONE), ("success", SUCCESS), ("truncated", TRUNCATED))
        if column in found
    }
    if "dones" in there and "truncated" in there:
        there["terminated"] = there["dones"] & ~there["truncated"]
    return there


def _digests(
    data: DataSet, camera: Feature, row: Mapping[str, Any], found: Mapping[str, Any]
) -> FrameDigests | None:
    episode = row["episode_index"]
    if camera.dtype == "image":
        where = f"{data.folder}: {camera.name} of episode {episode}"
        return digest_frames(iter_images(found[camera.name], None, where))
    path = data.file("video", row, camera.name)
    start = row[f"videos/{camera.name}/from_timestamp"]
    frames = iter_video(path, start, _fps(data), row["length"], None, episode)
    return digest_frames(frames)


def _fps(data: DataSet) -> float:
    fps = data.info.get("fps")
    if not isinstance(fps, int | float) or not 0 < fps < np.inf:
        raise ValueError(f"{data.folder / INFO}: fps is {fps!r}, so no frame can be found.")
    return float(fps)
