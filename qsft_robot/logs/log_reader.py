"""One log of an open HDF5 file to an `Episode`, checked as it is read, with no fills."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import h5py
import numpy as np

from qsft_robot.files import parse_json
from qsft_robot.logs.alike import AlikeLogs
from qsft_robot.logs.checks import (
    ActionScale,
    check_actions,
    check_demo,
    check_finite,
    data_of,
    demo_group,
    env_args_of,
    is_text_dataset,
)
from qsft_robot.logs.ends import (
    MARKS,
    LogEnd,
    ends_by_name,
    ends_terminal,
    first_success,
    marks_of,
    read_steps,
    success_signals,
)
from qsft_robot.logs.hdf5_members import (
    KeptGroup,
    arrays,
    attribute,
    attribute_names,
    place,
)
from qsft_robot.logs.hdf5_rows import kind_of, read_rows, room_for
from qsft_robot.logs.images import images_in, is_camera, next_images, why_no_images
from qsft_robot.logs.words import language_of
from qsft_robot.names import no_such
from qsft_robot.types import Episode, is_text

# Attributes with a meaning of their own, or (model_file) too large to carry along
_NOT_CARRIED = {"num_samples", "model_file", "lang", "success", "ep_meta"}
# Different layouts of logs in one file.
_MOST_LOOKS = 8


class LogReader:
    """Reads logs of one open file; all that it reads agree in their sizes."""

    def __init__(
        self,
        file: h5py.File,
        names: Sequence[str],
        *,
        keys: Sequence[str] | None = None,
        instruction: str | None = None,
        log_end: LogEnd | Mapping[str, LogEnd] | None = None,
        success_reward: bool = False,
        action_scale: ActionScale | None = None,
    ) -> None:
        """`names` are logs of the file; the other arguments as in `iter_episodes`."""
        self.file, self.names = file, names
        self._instruction, self._action_scale = instruction, action_scale
        self._env_args = env_args_of(file)
        self._ends = ends_by_name(file, log_end)
        self._signals = success_signals(file, names) if success_reward else {}
        self._keys = _known_keys(file, names[0], keys)
        # What most logs look like; where each looks different, nobody asks any more.
        self._alike: AlikeLogs | None = None
        self._looks = _MOST_LOOKS
        # Key -> the first log that was read, and the size that it has there.
        self._sizes: dict[str, tuple[str, tuple[int | str, ...]]] = {}

    def read(self, name: str) -> tuple[h5py.Group, Episode]:
        """One log, as the file has it and as an episode."""
        data = data_of(self.file)
        demo: h5py.Group | None = None
        if self._alike is not None and isinstance(data, KeptGroup):
            demo = self._alike.open(data, name)
        differs = demo is None
        if demo is None:
            demo = demo_group(self.file, name)
            check_demo(demo)
        sizes = dict(self._sizes)
        try:
            episode = self._episode(demo, name)
        except ValueError:
            self._sizes = sizes  # what is refused says nothing of the others
            raise
        if differs and self._looks:
            self._looks -= 1
            self._alike = AlikeLogs.of(demo, ("actions", "rewards", *MARKS), self._keys)
        return demo, episode

    def _episode(self, demo: h5py.Group, name: str) -> Episode:
        lang = self._instruction
        lang = language_of(demo, self._env_args) if lang is None else lang
        episode = _read_demo(demo, self._keys, lang, self._ends.get(name), self._signals.get(name))
        check_actions(f"{place(demo)}/actions", episode.actions, self._action_scale)
        for key, x in episode.observations.items():
            self.compare(f"obs/{key}", _row_size(x), name)
        self.compare("actions", _row_size(episode.actions), name)
        return episode

    def compare(self, key: str, here: tuple[int | str, ...], name: str) -> None:
        """ValueError where an array of a log has rows of another size than in the logs before."""
        first, size = self._sizes.setdefault(key, (name, here))
        if here != size:
            raise ValueError(
                f"{self.file.filename}: {key} differs in size: {size} in {first}, {here} in "
                f"{name}. One policy needs one size; convert the file or select by mask."
            )


def _row_size(rows: np.ndarray) -> tuple[int | str, ...]:
    return ("text",) if is_text(rows) else rows.shape[1:]


def _known_keys(file: h5py.File, name: str, keys: Sequence[str] | None) -> list[str]:
    demo = demo_group(file, name)
    check_demo(demo)
    obs = arrays(demo, "obs")
    if keys is None:
        # Depth maps and segmentation have no place in an Observation.
        for reason in unread_in(obs).values():
            warnings.warn(f"left out: {reason}", stacklevel=4)
        return [key for key, x in obs.items() if is_camera(x) or is_state_or_text(x)]
    for key in keys:
        if key not in obs:
            raise ValueError(f"{file.filename}: {no_such('observation key', key, obs)}")
    return list(keys)


def unread_in(obs: Mapping[str, h5py.Dataset]) -> dict[str, str]:
    return {
        key: f"{place(x)}: {_no_place(x)}"
        for key, x in obs.items()
        if not is_camera(x) and not is_state_or_text(x)
    }


def _no_place(dataset: h5py.Dataset) -> str:
    return why_no_images(dataset) or (
        f"{kind_of(dataset)} {dataset.shape} is neither an image, uint8 [t, h, w, 3], nor state, "
        "numbers [t, s], nor text, strings [t]; leave this key out."
    )


def is_state_or_text(dataset: h5py.Dataset) -> bool:
    kind = kind_of(dataset)
    numbers = kind == "number" and dataset.ndim in (1, 2) and 0 not in dataset.shape[1:]
    plain = numbers or (kind == "text" and dataset.ndim == 1)
    return plain and not is_camera(dataset) and not why_no_images(dataset)


def _read_demo(
    demo: h5py.Group, keys: Sequence[str], lang: str, end: LogEnd | None, signal: str | None
) -> Episode:
    where = place(demo)
    if isinstance(demo, KeptGroup) and "actions" in demo.rows:
        actions = demo.rows["actions"]
    else:
        obs = arrays(demo, "obs")
        wanted = [demo["actions"], *(obs[key] for key in keys if key in obs)]
        room_for(where, sum(map(_bytes_read, wanted)))
        actions = read_rows(demo["actions"])
    if not is_text(actions):
        actions = _as_float32(actions)
        check_finite(f"{where}/actions", actions)
    rewards = _as_float32(read_steps(demo, "rewards").copy())  # what is kept stays as it is
    check_finite(f"{where}/rewards", rewards)
    steps = len(actions)
    marks_of(demo)
    success = bool(attribute(demo, "success", (rewards > 0).any()))
    if signal is not None:
        at = first_success(demo, signal)
        success = at is not None
        steps = steps if at is None else at + 1
        actions, rewards = actions[:steps], np.zeros(steps, np.float32)
        rewards[-1] = float(success)
    terminated = ends_terminal(demo, success, end)
    rows = {key: _rows_of(demo, key, steps, not terminated) for key in keys}
    return Episode(
        name=demo.name.rsplit("/", 1)[-1],
        observations={key: x for key, x in rows.items() if not is_text(x)},
        texts={key: x for key, x in rows.items() if is_text(x)},
        actions=actions,
        rewards=rewards,
        terminated=terminated,
        truncated=not terminated,
        success=success,
        instruction=lang,
        attributes=_attributes(demo),
    )


def _bytes_read(dataset: h5py.Dataset) -> int:
    images = images_in(dataset)
    return 4 * dataset.size if images is None else math.prod(images.shape)


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 can't hold becomes Inf, which is refused
        return array.astype(np.float32, copy=False)


def _rows_of(demo: h5py.Group, key: str, steps: int, bootstraps: bool) -> np.ndarray:
    """Rows 0 to `steps` of one observation key, [steps + 1, ...]; the last comes from next_obs."""
    kept = _kept_rows(demo, key, steps, bootstraps)
    rows = _read_rows(demo, key, steps, bootstraps) if kept is None else kept
    check_finite(f"{place(demo)}/obs/{key}", rows)
    return rows if rows.ndim > 1 or is_text(rows) else rows[:, None]


def _kept_rows(demo: h5py.Group, key: str, steps: int, bootstraps: bool) -> np.ndarray | None:
    """The rows of a log whose arrays were read with it; None where `_read_rows` has to look."""
    here = demo.rows.get(f"obs/{key}") if isinstance(demo, KeptGroup) else None
    after = demo.rows.get(f"next_obs/{key}") if isinstance(demo, KeptGroup) else None
    if here is None:
        return None
    rows = np.empty((steps + 1, *here.shape[1:]), object if is_text(here) else np.float32)
    inside = min(steps + 1, len(here))
    with np.errstate(over="ignore"):
        rows[:inside] = here[:inside]
        if inside == steps and after is not None:
            if after.shape != here.shape or after.dtype.kind != here.dtype.kind:
                return None
            rows[-1] = after[-1]
        elif inside == steps and bootstraps:
            return None
        elif inside == steps:
            rows[-1] = rows[-2]
    return rows


def _read_rows(demo: h5py.Group, key: str, steps: int, bootstraps: bool) -> np.ndarray:
    where = f"{place(demo)}/obs/{key}"
    obs, next_obs = arrays(demo, "obs"), arrays(demo, "next_obs")
    if key not in obs:
        raise ValueError(f"{where}: {no_such('observation key', key, obs)}")
    dataset, after = obs[key], next_obs.get(key)
    images, text = images_in(dataset), is_text_dataset(dataset)
    if images is None and not is_state_or_text(dataset):
        raise ValueError(f"{where}: {_no_place(dataset)}")
    inside = min(steps + 1, len(dataset))
    if images is not None:
        rows = np.empty((steps + 1, *images.size, 3), np.uint8)
        images.read(0, inside, rows[:inside])
    else:
        rows = np.empty((steps + 1, *dataset.shape[1:]), object if text else np.float32)
        read_rows(dataset, np.s_[:inside], rows[:inside])
    if inside == steps:
        if after is not None and images is not None:
            later = next_images(images, after)
            later.read(len(later) - 1, len(later), rows[-1:])
        elif after is not None:
            if after.shape != dataset.shape or kind_of(after) != kind_of(dataset):
                raise ValueError(
                    f"{where}: {kind_of(dataset)} {dataset.shape}, but next_obs/{key} has "
                    f"{kind_of(after)} {after.shape}."
                )
            read_rows(after, np.s_[-1:], rows[-1:])
        elif bootstraps:
            raise ValueError(
                f"{where}: the log is truncated, and without next_obs/{key} nothing tells what was "
                "seen after its last action. Write next_obs, or call its end terminal "
                "(--data.log-end)."
            )
        else:
            rows[-1] = rows[-2]
    return rows


def _attributes(demo: h5py.Group) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for key in attribute_names(demo) - _NOT_CARRIED:
        value = attribute(demo, key)
        if isinstance(value, str):
            with suppress(ValueError):  # text that only begins with a bracket
                value = parse_json(value, "") if value[:1] in ("{", "[") else value
        elif isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if is_json(value):
            attributes[key] = value
    return attributes


def is_json(value: Any) -> bool:
    """Whether JSON has a place for a value: what HDF5 knows beyond it describes other programs'
    matters (references, opaque bytes)."""
    if isinstance(value, list | dict):
        return all(map(is_json, value.values() if isinstance(value, dict) else value))
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool | int)
