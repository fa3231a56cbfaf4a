"""Demonstrations in HDF5 to a LeRobot v3 data set (Parquet and MP4) that LeRobot itself reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qsft_robot.files import atomic_folder
from qsft_robot.lerobot.format import (
    ACTION,
    COUNTERS,
    DATA,
    DATA_MB,
    DONE,
    EPISODES,
    EXTRAS,
    FILES_OF_A_CHUNK,
    INFO,
    REWARD,
    STATE,
    STATS,
    SUCCESS,
    TASKS,
    TRUNCATED,
    VERSION,
    VIDEO_MB,
    VIDEOS,
    camera_feature,
    json_text,
    number_feature,
    require_lerobot_files,
)
from qsft_robot.lerobot.parquet import ParquetFiles, write_tasks
from qsft_robot.lerobot.stats import JoinedStatistics, image_statistics, row_statistics
from qsft_robot.lerobot.video import CameraVideos, encode_png
from qsft_robot.logs.checks import (
    ANY_SCALE,
    demo_group,
    env_args_of,
    open_demonstrations,
    select_demos,
)
from qsft_robot.logs.ends import OUTCOME, UNTOLD, untold_note
from qsft_robot.logs.hdf5_members import arrays
from qsft_robot.logs.image_convention import ENTRY, image_convention, upside_down_note
from qsft_robot.logs.images import is_camera
from qsft_robot.logs.reader import iter_episodes, read_masks
from qsft_robot.names import no_such
from qsft_robot.types import Episode, is_image

Codec = Literal["h264", "libsvtav1", "png"]
_OUTCOMES = {REWARD: "float32", DONE: "bool", SUCCESS: "bool", TRUNCATED: "bool"}


def export_lerobot(
    path: str | Path,
    out: str | Path,
    *,
    filter_key: str | None = None,
    state_keys: Sequence[str] | None = None,
    task: str | None = None,
    fps: float | None = None,
    robot_type: str | None = None,
    codec: Codec = "h264",
    crf: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the logs of the HDF5 file `path` as a data set in the new folder `out`; return `out`.

    <cam>_image becomes observation.images.<cam>; `state_keys` (all that are no images, when None)
    are joined to observation.state in this order, other keys become observation.<key>; rewards,
    ends and success become next.reward, next.done, next.success, next.truncated. `task`: the words
    of every log; `fps`: frames a second, where the file tells no control rate. `codec`: h264 or
    libsvtav1 (LeRobot's own) for MP4, png for lossless images in the Parquet files; `crf`: their
    constant rate factor. What LeRobot has no place for (env_args, masks, attributes of the logs)
    goes to meta/qsft_robot.json, which an import reads. What was seen after the last action has
    no place either and is lost. `tell(done, of)` is called after each log. Memory: one log.
    ValueError names file, log and key; the folder appears whole or not at all.
    """
    require_lerobot_files()
    path, out = Path(path), Path(out)
    if out.exists():
        raise ValueError(f"{out}: is already there; give a new folder (--out), or remove it.")
    env_args, names = _look_at(path, filter_key)
    rate = fps if fps is not None else _rate(path, env_args)
    with atomic_folder(out) as folder, ExitStack() as stack:
        data = _Writer(folder, rate, codec, crf, state_keys, stack)
        episodes = iter_episodes(
            path, filter_key=filter_key, instruction=task, action_scale=ANY_SCALE
        )
        untold = 0
        for i, episode in enumerate(episodes):
            if not episode.instruction.strip():
                raise ValueError(
                    f"{path}: {episode.name} has no instruction, and LeRobot wants a task for each "
                    'frame; give one for all of them (--task "...").'
                )
            data.append(path, episode)
            untold += episode.attributes.get(OUTCOME) == UNTOLD
            if tell is not None:
                tell(i + 1, len(names))
        numbers = {name: i for i, name in enumerate(names)}
        masks = {
            mask: [numbers[name] for name in members if name in numbers]
            for mask, members in read_masks(path).items()
        }
        if untold:
            warnings.warn(f"{path}: {untold_note(untold, len(names))}", stacklevel=2)
        data.finish(robot_type or _robot(env_args), env_args, masks)
    return out


def _look_at(path: Path, filter_key: str | None) -> tuple[dict[str, Any], list[str]]:
    with open_demonstrations(path) as file:
        env_args, names = env_args_of(file), select_demos(file, filter_key)
        convention = image_convention(file, env_args)
        with_images = any(map(is_camera, arrays(demo_group(file, names[0]), "obs").values()))
    if convention is None or not with_images:
        return env_args, names
    if note := upside_down_note(convention):
        warnings.warn(f"{path}: {note}", stacklevel=3)
    return {**env_args, ENTRY: convention}, names


def _rate(path: Path, env_args: Mapping[str, Any]) -> float:
    hz = env_args.get("env_kwargs", {}).get("control_freq", env_args.get("control_hz"))
    if hz is None:
        raise ValueError(
            f"{path}: env_args tell no control_hz, so the frame rate is unknown; give it (--fps)."
        )
    return float(hz)


def _robot(env_args: Mapping[str, Any]) -> str:
    return str(env_args.get("env_name", "unknown")).removeprefix("lerobot:")


class _Writer:
    """Appends logs to a data set in `folder`."""

    def __init__(
        self,
        folder: Path,
        fps: float,
        codec: Codec,
        crf: int | None,
        state_keys: Sequence[str] | None,
        stack: ExitStack,
    ) -> None:
        self._folder, self._fps, self._codec, self._crf = folder, fps, codec, crf
        self._state_keys, self._stack = state_keys, stack
        self._rows = stack.enter_context(ParquetFiles(folder, DATA))
        self._episodes = stack.enter_context(ParquetFiles(folder, EPISODES))
        self._videos: dict[str, CameraVideos] = {}
        self._statistics = JoinedStatistics()
        self._tasks: dict[str, int] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._state: dict[str, int] = {}
        self._cameras: dict[str, str] = {}  # LeRobot's name -> ours
        self._numbers: dict[str, str] = {}
        self._attributes: dict[str, Any] = {}
        self._count = self._frames = 0

    def append(self, path: Path, episode: Episode) -> None:
        """Write one log; its last observation row is left away."""
        if episode.has_commands or episode.texts:
            what = (
                "actions" if episode.has_commands else f"observation {sorted(episode.texts)[0]!r}"
            )
            raise ValueError(
                f"{path}: {episode.name}: the {what} hold text, and LeRobot's format has a place "
                "for numbers and images only, so these logs can't be exported."
            )
        steps = len(episode)
        rows = {key: x[:steps] for key, x in episode.observations.items()}
        images = {camera_feature(k): x for k, x in rows.items() if is_image(x[0])}
        if not self._features:
            self._lay_out(path, rows, episode.actions.shape[1])
        columns = self._columns(rows, episode)
        last = np.arange(steps) == steps - 1
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        frame = np.arange(steps)
        columns |= {
            REWARD: episode.rewards[:, None],
            DONE: last[:, None],
            SUCCESS: (last & episode.success)[:, None],
            TRUNCATED: (last & episode.truncated)[:, None],
            "timestamp": (frame / self._fps)[:, None],
            "frame_index": frame[:, None],
            "episode_index": np.full((steps, 1), self._count),
            "index": (self._frames + frame)[:, None],
            "task_index": np.full((steps, 1), task),
        }
        found = {name: row_statistics(x) for name, x in columns.items()}
        found |= {name: image_statistics(x) for name, x in images.items()}
        place = self._rows.place()
        self._rows.write(self._table(columns, images))
        row: dict[str, Any] = {
            "episode_index": self._count,
            "tasks": [episode.instruction],
            "length": steps,
            **{f"data/{key}": value for key, value in place.items()},
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + steps,
        }
        for name, video in self._videos.items():
            row |= video.append(images[name])
        self._note(row, found)
        if episode.attributes:
            self._attributes[str(self._count)] = dict(episode.attributes)
        self._count += 1
        self._frames += steps

    def _lay_out(self, path: Path, rows: Mapping[str, np.ndarray], action_dim: int) -> None:
        """Features from the first log."""
        numbers = {key: x.shape[1] for key, x in rows.items() if not is_image(x[0])}
        for key in self._state_keys or ():
            if key not in numbers:
                raise ValueError(f"{path}: {no_such('state key', key, numbers)}")
        joined = list(numbers) if self._state_keys is None else list(self._state_keys)
        self._state = {key: numbers[key] for key in joined}
        sizes = {STATE: self._state} if self._state else {}
        self._numbers = {number_feature(key): key for key in numbers if key not in joined}
        sizes |= {feature: {key: numbers[key]} for feature, key in self._numbers.items()}
        if "state" in numbers and "state" not in joined:
            raise ValueError(
                f"{path}: the key 'state' and those of --state-keys would both become {STATE}: "
                "name 'state' among --state-keys, or leave the flag out."
            )
        features = [number_feature(key) for key in numbers if key not in joined]
        features += [camera_feature(key) for key, x in rows.items() if is_image(x[0])]
        for feature in features:
            if features.count(feature) > 1:
                raise ValueError(f"{path}: two observation keys would become {feature}.")
        for feature, parts in sizes.items():
            names = [f"{key}_{i}" for key, size in parts.items() for i in range(size)]
            self._features[feature] = _entry("float32", [len(names)], names)
        names = [f"action_{i}" for i in range(action_dim)]
        self._features[ACTION] = _entry("float32", [action_dim], names)
        for key, x in rows.items():
            if not is_image(x[0]):
                continue
            feature = camera_feature(key)
            self._cameras[feature] = key
            kind = "image" if self._codec == "png" else "video"
            axes = ["height", "width", "channels"]
            self._features[feature] = _entry(kind, list(x.shape[1:]), axes)
            if kind == "video":
                self._videos[feature] = self._stack.enter_context(
                    CameraVideos(self._folder, feature, self._fps, self._codec, self._crf)
                )
        for name, dtype in {**_OUTCOMES, **COUNTERS}.items():
            self._features[name] = _entry(dtype, [1], None)

    def _columns(self, rows: Mapping[str, np.ndarray], episode: Episode) -> dict[str, np.ndarray]:
        columns = {}
        if self._state:
            columns[STATE] = np.concatenate([rows[key] for key in self._state], axis=1)
        columns |= {feature: rows[key] for feature, key in self._numbers.items()}
        return columns | {ACTION: episode.actions}

    def _table(self, columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]) -> Any:
        import pyarrow as pa

        arrays: dict[str, Any] = {}
        for name, entry in self._features.items():
            if entry["dtype"] == "video":
                continue
            if entry["dtype"] == "image":
                arrays[name] = pa.array(
                    [
                        {"bytes": encode_png(x), "path": f"frame-{i:06d}.png"}
                        for i, x in enumerate(images[name])
                    ],
                    type=pa.struct({"bytes": pa.binary(), "path": pa.string()}),
                )
                continue
            values = columns[name].astype(entry["dtype"])
            flat = pa.array(values.ravel())
            size = entry["shape"][0]
            # One number a frame is a plain column.
            arrays[name] = flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)
        return pa.table(arrays)

    def _note(self, row: dict[str, Any], found: Mapping[str, Any]) -> None:
        """Write the description of one episode, with its statistics."""
        import pyarrow as pa

        for feature in self._features:
            for name, value in found[feature].items():
                row[f"stats/{feature}/{name}"] = value.tolist()
        row |= {f"meta/episodes/{key}": x for key, x in self._episodes.place().items()}
        self._episodes.write(pa.Table.from_pylist([row]))
        self._statistics.add(found)

    def finish(
        self, robot_type: str, env_args: Mapping[str, Any], masks: Mapping[str, list[int]]
    ) -> None:
        """Write what is known only now: info.json, stats.json, the tasks and our own extras."""
        for name, video in self._videos.items():
            self._features[name]["info"] = video.info()
        info = {
            "codebase_version": VERSION,
            "robot_type": robot_type,
            "total_episodes": self._count,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_OF_A_CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": int(self._fps) if float(self._fps).is_integer() else self._fps,
            "splits": {"train": f"0:{self._count}"},
            "data_path": DATA,
            "video_path": VIDEOS if self._videos else None,
            "features": self._features,
        }
        extras = {
            "env_args": dict(env_args),
            "state": self._state,
            "cameras": self._cameras,
            "masks": dict(masks),
            "episodes": self._attributes,
        }
        for name, value in ((INFO, info), (STATS, self._statistics.to_json()), (EXTRAS, extras)):
            (self._folder / name).write_text(json_text(value) + "\n")
        write_tasks(self._folder / TASKS, list(self._tasks))


def _entry(dtype: str, shape: list[int], names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "names": names}
