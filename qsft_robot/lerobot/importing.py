"""A LeRobot v3 data set (Parquet and MP4) to demonstrations in HDF5, one episode at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.lerobot.columns import finite, place, whole
from qsft_robot.lerobot.format import (
    ACTION,
    COUNTERS,
    EXTRAS,
    FRAME_INDEX,
    INFO,
    REWARD,
    STATE,
    SUCCESS,
    TASKS,
    TIMESTAMP,
    TRUNCATED,
    DataSet,
    Feature,
    log_key,
    named_by,
    read_data_set,
    require_lerobot_files,
)
from qsft_robot.lerobot.outcomes import Outcomes, SuccessRule
from qsft_robot.lerobot.parquet import episode_columns
from qsft_robot.lerobot.timing import check_video_ranges, odd_times
from qsft_robot.lerobot.video import decode_images, read_frames
from qsft_robot.logs.ends import OUTCOME, LogEnd
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.names import no_such
from qsft_robot.types import Episode

# Episodes with odd times that are told one by one.
_TOLD = 5


@dataclass
class ImportReport:
    """Report of an import: what was read and what was left out."""

    path: Path
    control_hz: float
    episodes: int = 0
    steps: int = 0
    successes: int = 0
    instructions: set[str] = field(default_factory=set)
    # feature of the data set -> observation key of the file
    keys: dict[str, str] = field(default_factory=dict)
    # feature -> why it was left out
    left_out: dict[str, str] = field(default_factory=dict)
    # episode -> what is odd about the times of its frames, in words
    odd_times: dict[int, str] = field(default_factory=dict)
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.episodes} logs, {self.steps} steps at {self.control_hz:g} Hz, "
            f"{self.successes} successful, {len(self.instructions)} instructions",
            "observations: " + ", ".join(f"{new} ({old})" for old, new in self.keys.items()),
        ]
        if self.left_out:
            lines.append("left out: " + ", ".join(f"{k} ({w})" for k, w in self.left_out.items()))
        for number, words in [*self.odd_times.items()][:_TOLD]:
            lines.append(f"timestamps of episode {number}: {words}")
        if len(self.odd_times) > _TOLD:
            lines.append(f"timestamps of {len(self.odd_times) - _TOLD} more episodes are odd")
        if self.action_low is not None and self.action_high is not None:
            low, high = (
                " ".join(f"{x:.5g}" for x in _outwards(bound, sign))
                for bound, sign in ((self.action_low, -1), (self.action_high, 1))
            )
            if max(-self.action_low.min(), self.action_high.max()) > 1:
                lines.append(
                    "actions leave [-1, 1]; train with their own scale: "
                    f"--data.action-low {low} --data.action-high {high}"
                )
        return "\n".join(lines)

    def note_times(self, number: int, timestamps: np.ndarray | None, fps: float) -> None:
        """Note what is odd about the times [t, 1] of an episode's frames, one `fps`-th apart."""
        if timestamps is not None and (words := odd_times(timestamps[:, 0], fps)):
            self.odd_times[number] = "; ".join(words)


def _outwards(bound: np.ndarray, sign: int) -> np.ndarray:
    """The bound with room for the five digits it is printed with."""
    return bound + sign * np.maximum(np.abs(bound), 1e-3) * 1e-4


def import_lerobot(
    folder: str | Path,
    out: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    task: str | None = None,
    success: SuccessRule = "next.success",
    successful: Sequence[int] | None = None,
    failure_end: LogEnd = "terminal",
    control_hz: float | None = None,
    max_episodes: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Write the episodes of the data set in `folder` to the HDF5 file `out`.

    observation.images.<cam> becomes <cam>_image, observation.<x> becomes <x>, dots underscores; the
    task becomes the instruction, fps the control rate. `cameras`: LeRobot's names or ours of those
    to keep; all when None. `image_size`: (height, width) to resize to. `task`: the instruction of
    every log. `success`: what marks one, where next.success is missing: a positive next.reward,
    all, or none; `successful`: the numbers of the episodes that succeeded, instead. Without
    next.reward a success gets 1 on its last step. `failure_end`: what the end of the others means,
    where next.truncated is missing. LeRobot records no observation after the last action: the last
    one stands in twice. `tell(done, of)` is called after each episode. Memory: one episode.
    FileNotFoundError and ValueError name file, episode and feature; nothing is left half written.
    """
    require_lerobot_files()
    with named_by(Path(folder)):
        data = read_data_set(folder)
        hz = _control_hz(data, control_hz)
        _check_tasks(data, task)
        kept, report = _choose(data, cameras, ImportReport(Path(out), hz))
        outcome = Outcomes.of(data, success, successful, failure_end)
        numbers = [f.name for f in data.features.values() if f.name in report.keys and f.numeric]
        images = [f.name for f in kept if f.dtype == "image"]
        columns = [ACTION, *numbers, *images, *outcome.columns]
        if task is None:
            columns.append("task_index")
        columns += [name for name in (TIMESTAMP, FRAME_INDEX) if name in data.features]
        episodes = data.episodes[:max_episodes]
        videos = [f.name for f in kept if f.dtype == "video"]
        check_video_ranges(data, videos, float(data.info.get("fps") or hz))
        with DemonstrationWriter(out, env_args_of(data, hz)) as writer:
            for row, found in episode_columns(data, columns, episodes):
                number = row["episode_index"]
                observations = _state(data, numbers, found, number)
                for camera in kept:
                    frames = _frames(data, camera, row, found, image_size, hz)
                    observations[report.keys[camera.name]] = frames
                actions = finite(place(data.folder, ACTION, number), found[ACTION])
                report.note_times(number, found.get(TIMESTAMP), float(data.info.get("fps") or hz))
                rewards, succeeded, truncated = outcome(number, found)
                attributes = dict(_extra(data, "episodes", {}).get(str(number), {}))
                if outcome.said:
                    attributes.pop(OUTCOME, None)
                episode = Episode(
                    name=f"demo_{report.episodes}",
                    # What was seen after the last action is not recorded.
                    observations={k: np.concatenate([x, x[-1:]]) for k, x in observations.items()},
                    actions=actions,
                    rewards=rewards,
                    terminated=not truncated,
                    truncated=truncated,
                    success=succeeded,
                    instruction=task if task is not None else _instruction(data, number, found),
                    attributes=attributes,
                )
                writer.append(episode, _masks(data, number))
                _count(report, episode)
                if tell is not None:
                    tell(report.episodes, len(episodes))
        return report


def env_args_of(data: DataSet, control_hz: float) -> dict[str, Any]:
    """env_args of an imported file: those that an export kept, else the robot and its motors."""
    kept = _extra(data, "env_args", None)
    if kept is not None:
        return {**kept, "control_hz": control_hz}
    state = data.features.get(STATE)
    return {
        "env_name": f"lerobot:{data.info.get('robot_type') or 'unknown'}",
        "env_kwargs": {
            "motors": list(state.names) if state is not None else [],
            "actions": list(data.features[ACTION].names),
        },
        "control_hz": control_hz,
    }


def _extra(data: DataSet, key: str, missing: Any) -> Any:
    return data.extras.get(key, missing)


def _control_hz(data: DataSet, given: float | None) -> float:
    hz = given if given is not None else data.info.get("fps")
    if isinstance(hz, bool) or not isinstance(hz, int | float) or not 0 < hz < np.inf:
        raise ValueError(
            f"{data.folder / INFO}: fps is {hz!r}, so the rate of the logs is unknown; give it "
            "(--control-hz)."
        )
    return hz


def _check_tasks(data: DataSet, task: str | None) -> None:
    if task is None and not any(word.strip() for word in data.tasks.values()):
        raise ValueError(
            f"{data.folder / TASKS}: {'no task has words' if data.tasks else 'no tasks'}, so the "
            'logs have no instruction; give one for all of them (--task "...").'
        )


def _instruction(data: DataSet, number: int, found: Mapping[str, Any]) -> str:
    where = place(data.folder, "task_index", number)
    indices = whole(where, found["task_index"])
    index = int(indices[0])
    if (indices != index).any():
        step = int((indices != index).argmax())
        warnings.warn(
            f"{where}: the task changes at frame {step} ({index} to {indices[step]}); the whole "
            "log gets the first one's words.",
            stacklevel=3,
        )
    if index not in data.tasks:
        raise ValueError(
            f"{data.folder / TASKS}: no task {index}, which episode {number} has; there are "
            f"{sorted(data.tasks)}."
        )
    return data.tasks[index]


def _choose(
    data: DataSet, cameras: Sequence[str] | None, report: ImportReport
) -> tuple[list[Feature], ImportReport]:
    """The cameras to read; the report gets the keys and what is left out."""
    there = {f.name: f for f in data.features.values() if f.camera}
    called = {name: log_key(name) for name in data.features} | _extra(data, "cameras", {})
    names = {called[name]: name for name in there} | {name: name for name in there}
    for camera in cameras or ():
        if camera not in names:
            raise ValueError(f"{data.folder / INFO}: {no_such('camera', camera, names)}")
    chosen = set(there) if cameras is None else {names[camera] for camera in cameras}
    told = {ACTION, REWARD, SUCCESS, TRUNCATED, "next.done", *COUNTERS}
    for feature in data.features.values():
        if feature.name in told:
            continue
        if feature.name in there:
            reason = "" if feature.name in chosen else "not asked for"
        elif feature.depth:
            reason = "depth"
        elif not feature.name.startswith("observation."):
            reason = "no observation"
        else:
            reason = "" if feature.numeric else f"{feature.dtype} {list(feature.shape)}"
        if reason:
            report.left_out[feature.name] = reason
            continue
        parts = _extra(data, "state", {}) if feature.name == STATE else {}
        key = " + ".join(parts) or called[feature.name]
        if key in report.keys.values():
            raise ValueError(
                f"{data.folder / INFO}: two features would be called {key}; rename one of them."
            )
        report.keys[feature.name] = key
    if not report.keys:
        raise ValueError(
            f"{data.folder / INFO}: no observation that can be read; features: "
            f"{', '.join(data.features)}."
        )
    return [f for f in there.values() if f.name in chosen], report


def _state(
    data: DataSet, numbers: Sequence[str], found: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """State keys of one episode: key -> float32 [t, s]; a joined state is cut again."""
    observations: dict[str, Any] = {}
    for name in numbers:
        rows = finite(place(data.folder, name, number), found[name])
        parts = _extra(data, "state", None) if name == STATE else None
        if parts is None:
            observations[log_key(name)] = rows
            continue
        at = 0
        if min(parts.values(), default=1) < 1 or sum(parts.values()) != rows.shape[1]:
            raise ValueError(
                f"{data.folder / EXTRAS}: state is {parts}, but {STATE} has {rows.shape[1]}."
            )
        for key, size in parts.items():
            observations[key] = rows[:, at : at + size]
            at += size
    return observations


def _frames(
    data: DataSet,
    camera: Feature,
    row: Mapping[str, Any],
    found: Mapping[str, Any],
    size: tuple[int, int] | None,
    control_hz: float,
) -> np.ndarray:
    if camera.dtype == "image":
        where = f"{data.folder}: {camera.name} of episode {row['episode_index']}"
        return decode_images(found[camera.name], size, where)
    path = data.file("video", row, camera.name)
    start = row[f"videos/{camera.name}/from_timestamp"]
    # A caller may name another rate than the data set's; the video keeps its own time.
    fps = float(data.info.get("fps") or control_hz)
    return read_frames(path, start, fps, row["length"], size, row["episode_index"])


def _masks(data: DataSet, number: int) -> list[str]:
    masks: Mapping[str, Sequence[int]] = _extra(data, "masks", {})
    return [mask for mask, members in masks.items() if number in members]


def _count(report: ImportReport, episode: Episode) -> None:
    report.episodes += 1
    report.steps += len(episode)
    report.successes += episode.success
    report.instructions.add(episode.instruction)
    low, high = episode.actions.min(axis=0), episode.actions.max(axis=0)
    if report.action_low is not None and report.action_high is not None:
        low, high = np.minimum(low, report.action_low), np.maximum(high, report.action_high)
    report.action_low, report.action_high = low, high
