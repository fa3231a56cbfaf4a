"""Layout of a LeRobot v3 data set: files, features, and our names for them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsft_robot.files import contained, inside, read_json, regular_file
from qsft_robot.json_kinds import check_kinds
from qsft_robot.logs.checks import checked_env_args, truth
from qsft_robot.printed_text import one_line

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
# Ours, unknown to LeRobot: what a file of logs says beyond a LeRobot data set.
EXTRAS = "meta/qsft_robot.json"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_OF_A_CHUNK = 1000
DATA_MB, VIDEO_MB = 100, 200

STATE, ACTION = "observation.state", "action"
IMAGES = "observation.images."
TIMESTAMP, FRAME_INDEX = "timestamp", "frame_index"
REWARD, DONE, SUCCESS, TRUNCATED = "next.reward", "next.done", "next.success", "next.truncated"
# Columns of every data set, each one number a frame.
COUNTERS = {
    TIMESTAMP: "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
# Kinds as `check_kinds` takes them.
_INFO = {
    "codebase_version?": str,
    "robot_type?": (str, None),
    "fps?": (float, None),
    "data_path?": (str, None),
    "video_path?": (str, None),
    "features": {
        "": {
            "dtype": str,
            "shape": [int],
            "info?": ({"": object}, None),
            "video_info?": ({"": object}, None),
        }
    },
}
_EXTRAS = {
    "env_args?": ({"": object}, None),
    "state?": {"": int},
    "cameras?": {"": str},
    "masks?": {"": [int]},
    "episodes?": {"": {"": object}},
}
CONVERTER = "lerobot/datasets/v30/convert_dataset_v21_to_v30.py"


def require_lerobot_files() -> None:
    """ImportError with the install line where Parquet or MP4 can't be read."""
    for name in ("pyarrow", "av"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(
                f"LeRobot data sets need pyarrow and av ({' '.join(str(error).split())}). "
                "Install them with: pip install 'qsft-robot[lerobot]'"
            ) from error


@contextmanager
def named_by(path: Path) -> Iterator[None]:
    """Turn whatever is raised inside, by pyarrow, av or by entries that contradict each other, into
    a ValueError that names the file or folder, unless it does already."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        if str(path) in str(error):
            raise
        raise ValueError(
            f"{path}: can't be read as a part of a LeRobot data set ({type(error).__name__}: "
            f"{one_line(error)}); download it again."
        ) from error


@dataclass(frozen=True)
class Feature:
    """One column of a data set, or one camera."""

    name: str
    dtype: str  # "video", "image", "string", or numpy's name of a number
    shape: tuple[int, ...]
    names: tuple[str, ...]  # of the entries, where the data set has them
    depth: bool

    @property
    def camera(self) -> bool:
        """Whether it holds color images."""
        return self.dtype in ("video", "image") and not self.depth

    @property
    def numeric(self) -> bool:
        """Whether it holds a number or a row of numbers each frame."""
        return self.dtype not in ("video", "image", "string") and len(self.shape) <= 1


def log_key(feature: str) -> str:
    """Our observation key for a feature of LeRobot.

    observation.images.front -> front_image; observation.state -> state; dots become underscores.
    """
    if feature.startswith(IMAGES):
        name = feature.removeprefix(IMAGES).replace(".", "_")
        return name if re.search(r"(^|_)image$", name) else f"{name}_image"
    return feature.removeprefix("observation.").replace(".", "_")


def camera_feature(key: str) -> str:
    """LeRobot's name for one of our cameras: front_image -> observation.images.front."""
    name = key.removesuffix("_image").replace("/", ".")
    return "observation.image" if key == "image" else f"{IMAGES}{name}"


def number_feature(key: str) -> str:
    """LeRobot's name for one of our keys of numbers, without slashes: a/b -> observation.a.b."""
    return f"observation.{key.replace('/', '.')}"


@dataclass(frozen=True)
class DataSet:
    """The description of a LeRobot data set on disk."""

    folder: Path
    info: Mapping[str, Any]
    features: dict[str, Feature]
    tasks: dict[int, str]
    # One dictionary an episode, in order, without the statistics.
    episodes: list[dict[str, Any]]
    # EXTRAS, where we wrote the data set.
    extras: Mapping[str, Any]

    def file(self, kind: str, episode: Mapping[str, Any], camera: str = "") -> Path:
        """Path of the data file of an episode (kind "data") or of one camera's video ("video").

        FileNotFoundError when it is not there."""
        at = f"videos/{camera}/" if kind == "video" else "data/"
        pattern = self.info.get(f"{kind}_path") or (VIDEOS if kind == "video" else DATA)
        numbers = {}
        for name in ("chunk_index", "file_index"):
            if not isinstance(number := episode.get(f"{at}{name}"), int):
                raise ValueError(
                    f"{self.folder / 'meta/episodes'}: {at}{name} of episode "
                    f"{episode['episode_index']} is {number!r}, no number of a file."
                )
            numbers[name] = number
        where = f"{self.folder / INFO}: {kind}_path"
        named = filled(pattern, where, video_key=camera, **numbers)
        path = inside(self.folder, named, where)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file, but {self.folder / 'meta/episodes'} places episode "
                f"{episode['episode_index']} there. Download the data set again, whole"
                + (" (videos are left out by download_videos=False)." if kind == "video" else ".")
            )
        return path


# A field of a path: its name, and the width of its number.
_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")


def filled(pattern: Any, where: str, **values: Any) -> str:
    """A path with its fields filled in, e.g. "chunk-{chunk_index:03d}"; ValueError, beginning with
    `where`, on any other field, because str.format would look into objects for a stranger."""

    def value(found: re.Match[str]) -> str:
        name, width = found.groups()
        if name not in values:
            raise ValueError(f"{where}: no field {name!r}; there are: {', '.join(values)}.")
        number = values[name]
        if width is None:
            return str(number)
        if not isinstance(number, int):
            raise ValueError(f"{where}: {name} is {number!r}, no whole number.")
        return f"{number:0{width}d}"

    path = _FIELD.sub(value, str(pattern))
    if "{" in path or "}" in path:
        raise ValueError(
            f"{where} is {str(pattern)[:200]!r}; its fields are written {{name}} or {{name:03d}} "
            f"and named {', '.join(values)}."
        )
    return path


def read_data_set(folder: str | Path) -> DataSet:
    """Read the description of a data set.

    FileNotFoundError when there is none in `folder`; ValueError on another version than v3, and on
    a description that lacks something.
    """
    folder = Path(folder)
    if not (folder / INFO).is_file():
        holds = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        raise FileNotFoundError(
            f"{folder / INFO}: no such file, so {folder} is no LeRobot data set. It holds: "
            f"{', '.join(holds[:20]) or 'nothing'}. Give the folder that has meta, data and videos."
        )
    info = read_json(contained(folder, folder / INFO))
    check_kinds(info, _INFO, str(folder / INFO))
    _check_version(folder, str(info.get("codebase_version", "none")))
    features = {name: _feature(name, entry) for name, entry in info.get("features", {}).items()}
    if ACTION not in features:
        raise ValueError(
            f"{folder / INFO}: no feature 'action', so there is nothing to imitate. Features: "
            f"{', '.join(features) or 'none'}."
        )
    extras: Mapping[str, Any] = {}
    if (folder / EXTRAS).is_file():
        extras = read_json(contained(folder, folder / EXTRAS))
    check_kinds(extras, _EXTRAS, str(folder / EXTRAS))
    checked_env_args(extras.get("env_args"), f"{folder / EXTRAS}: env_args")
    episodes, told = _read_episodes(folder), info.get("total_episodes")
    if isinstance(told, int) and told != len(episodes):
        warnings.warn(
            f"{folder}: {INFO} tells {told} episodes and meta/episodes describes {len(episodes)}; "
            "those that are described are read.",
            stacklevel=2,
        )
    return DataSet(folder, info, features, _read_tasks(folder), episodes, extras)


def _check_version(folder: Path, version: str) -> None:
    if re.match(r"v?3\.", version):
        return
    if re.match(r"v?[12]\.", version):
        first = "" if version.endswith("2.1") else " (bring it to v2.1 first, with lerobot 0.3)"
        raise ValueError(
            f"{folder}: a LeRobot data set of version {version}; this reads {VERSION}. Convert it "
            f"with LeRobot's own {CONVERTER} --repo-id NAME --root {folder} "
            f"--push-to-hub=false{first}."
        )
    raise ValueError(f"{folder / INFO}: codebase_version is {version}; this reads {VERSION}.")


def _feature(name: str, entry: Mapping[str, Any]) -> Feature:
    names = entry.get("names")
    if isinstance(names, Mapping):  # {"motors": [...]}
        inside = list(names.values())
        names = inside[0] if len(inside) == 1 and isinstance(inside[0], list) else list(names)
    shape = tuple(int(x) for x in entry["shape"])
    told = {**(entry.get("info") or {}), **(entry.get("video_info") or {})}
    depth = truth(f"{INFO}: video.is_depth_map of {name}", told.get("video.is_depth_map", False))
    depth = depth or (entry["dtype"] in ("video", "image") and 3 not in shape)
    return Feature(name, str(entry["dtype"]), shape, tuple(map(str, names or ())), depth)


def _read_tasks(folder: Path) -> dict[int, str]:
    import pyarrow.parquet as pq

    if not (folder / TASKS).is_file():
        return {}
    with named_by(folder / TASKS):
        table = pq.read_table(contained(folder, folder / TASKS))
    # The words are pandas' index, whose column has one name or another.
    columns = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or not columns:
        raise ValueError(
            f"{folder / TASKS}: expected task_index and a column of words, got "
            f"{', '.join(table.column_names)}."
        )
    words = table.column("task" if "task" in columns else columns[-1]).to_pylist()
    if wrong := [word for word in words if not isinstance(word, str | None)]:
        raise ValueError(f"{folder / TASKS}: a task is {wrong[0]!r}, where words are expected.")
    numbers = table.column("task_index").to_pylist()
    if bad := [x for x in numbers if not isinstance(x, int)]:
        raise ValueError(f"{folder / TASKS}: task_index {bad[0]!r} is no whole number.")
    tasks: dict[int, str] = {}
    for number, word in zip(numbers, words, strict=True):
        if tasks.setdefault(number, word or "") != (word or ""):
            raise ValueError(
                f"{folder / TASKS}: task_index {number} stands for {tasks[number]!r} and for "
                f"{word!r}; give each its own number."
            )
    return tasks


def _read_episodes(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    files = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{folder / 'meta/episodes'}: no Parquet files, so no episode can be found. A "
            "recording that was not finalized has none yet: call finalize() of its dataset."
        )
    rows: list[dict[str, Any]] = []
    for file in files:
        with named_by(file):
            parquet = pq.ParquetFile(regular_file(contained(folder, file)))
            columns = [n for n in parquet.schema_arrow.names if not n.startswith("stats/")]
            found = parquet.read(columns=columns).to_pylist()
        for row in found:
            for name in ("episode_index", "length"):
                value = row.get(name)
                if not isinstance(value, int) or value < (name == "length"):
                    raise ValueError(f"{file}: {name} of an episode is {value!r}.")
        rows += found
    numbers = [row["episode_index"] for row in rows]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{folder / 'meta/episodes'}: an episode is described twice.")
    return sorted(rows, key=lambda row: row["episode_index"])


def json_text(value: Any) -> str:
    """JSON as LeRobot writes it."""
    return json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False)
