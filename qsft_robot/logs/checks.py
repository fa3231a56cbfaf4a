"""Checks of a demonstration file, group by group and array by array (h5py, numpy)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.files import parse_json
from qsft_robot.json_kinds import is_number
from qsft_robot.logs.hdf5_members import (
    KeptGroup,
    Member,
    arrays,
    attribute,
    damage_named,
    has,
    member,
    members,
    place,
)
from qsft_robot.logs.hdf5_rows import kind_of, read_rows
from qsft_robot.names import no_such
from qsft_robot.types import is_text

REQUIRED = ("actions", "rewards", "dones")
_OPTIONAL = ("success", "terminated", "truncated")
# Actions come as float32; 1 + 1e-6 is 1 after a change of units, 1.001 is a mistake.
ACTION_TOLERANCE = 1e-6

# (low, high) of each action dimension, or one number for all, in the environment's action units
ActionScale = tuple[float | Sequence[float], float | Sequence[float]]
# The scale where actions are read and not judged.
ANY_SCALE: ActionScale = (-np.inf, np.inf)

# What files of steps without logs hold (D4RL, OGBench), and what to do with them or with others.
_FLAT_KEYS = {"observations", "actions"}
_FLAT = "It holds steps without logs, as D4RL's files do: qsft-robot import-npz makes logs of them."
_OTHER = (
    "Demonstrations live at data/demo_0/actions and so on (robomimic schema); files of another "
    "form have to be rewritten in this one (see datasets/schema.md)."
)


class DemonstrationFile(h5py.File):
    """A file of logs that is open for reading."""

    @cached_property
    def data(self) -> Member | None:
        """The group of the logs, whose attributes are read once."""
        found = member(self, "data")
        return KeptGroup(found, keeps_members=False) if isinstance(found, h5py.Group) else found


def data_of(file: h5py.File) -> Member | None:
    """What stands at `data`."""
    return file.data if isinstance(file, DemonstrationFile) else member(file, "data")


@contextmanager
def open_demonstrations(path: str | Path) -> Iterator[h5py.File]:
    """Open a robomimic-schema file for reading.

    FileNotFoundError when there is none; ValueError when it is no HDF5 file, is cut short, or has
    no `data` group with demonstrations in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file."
            if not path.is_dir()
            else f"{path}: a folder, where an HDF5 file of demonstrations is expected."
        )
    if not h5py.is_hdf5(path):
        raise ValueError(
            f"{path}: not an HDF5 file ({path.stat().st_size} bytes, without the HDF5 signature); "
            "expected demonstrations in the robomimic schema."
        )
    try:
        file = DemonstrationFile(path, "r")
    except Exception as error:  # OSError most often, RuntimeError and others on damage
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: HDF5 can't open it ({reason}): truncated, damaged or still being written. "
            "Copy it again or collect it again."
        ) from error
    with file, damage_named(path):
        data = data_of(file)
        if not isinstance(data, h5py.Group):
            raise ValueError(
                f"{path}: no group 'data'; it holds: {', '.join(file) or 'nothing'}. "
                f"{_FLAT if set(file) >= _FLAT_KEYS else _OTHER}"
            )
        if not any(_is_log(member(data, name)) for name in data):
            there = ", ".join(data) or "nothing"
            raise ValueError(f"{path}: the group 'data' holds no demonstrations, but {there}.")
        yield file


def demo_names(file: h5py.File) -> list[str]:
    """Names of the logs under data, in natural order. What stands beside them and is none (a
    dataset, a group without anything of a log in it) is left out, with one warning.

    ValueError on a link that leads nowhere.
    """
    there = members(data_of(file))  # type: ignore[arg-type]
    logs = [name for name, item in there.items() if _is_log(item)]
    if others := sorted(there.keys() - set(logs)):
        warnings.warn(
            f"{file.filename}: left out, as it is no log: "
            f"{', '.join(f'data/{name}' for name in others)}.",
            stacklevel=2,
        )
    return natural_order(logs)


def _is_log(item: Member | None) -> bool:
    """Whether anything of a log stands in it: a log that lacks a part is refused, not left out."""
    parts = (*REQUIRED, "obs", "next_obs", "states")
    return isinstance(item, h5py.Group) and any(has(item, part) for part in parts)


def demo_group(file: h5py.File, name: str) -> h5py.Group:
    """One log; ValueError, with the nearest names, where there is none of this name."""
    data = data_of(file)
    found = member(data, name) if isinstance(data, h5py.Group) and "/" not in name else None
    if not isinstance(found, h5py.Group) or not _is_log(found):
        raise ValueError(f"{file.filename}: {no_such('demonstration', name, demo_names(file))}")
    return found


def natural_order(names: Iterable[str]) -> list[str]:
    """demo_2 before demo_10."""

    def parts(name: str) -> list[tuple[int, str]]:
        # Digits stand at every second place; longer ones are larger, whatever Python can count.
        pieces = re.split(r"([0-9]+)", name)
        return [
            (len(digits), digits) if i % 2 else (0, piece)
            for i, piece in enumerate(pieces)
            for digits in [piece.lstrip("0")]
        ]

    return sorted(names, key=lambda name: (parts(name), name))


def masks_of(file: h5py.File) -> dict[str, list[str]]:
    """Filter key -> names of its demonstrations, in natural order."""
    group = member(file, "mask")
    if not isinstance(group, h5py.Group):
        return {}
    return {key: _names_in(item) for key, item in arrays(file, "mask").items()}


def _names_in(mask: h5py.Dataset) -> list[str]:
    if kind_of(mask) != "text" and (kind_of(mask) != "number" or mask.size):
        raise ValueError(
            f"{place(mask)}: {kind_of(mask)} {mask.shape}; a mask lists the names of its logs, as "
            "strings."
        )
    return natural_order(map(str, np.ravel(read_rows(mask))))


def select_demos(file: h5py.File, filter_key: str | None) -> list[str]:
    """Names of all demonstrations, or of those under mask/<filter_key>.

    ValueError when there is no such filter key, it is empty, or it names an absent demonstration.
    """
    if filter_key is None:
        return demo_names(file)
    masks = masks_of(file)
    if filter_key not in masks:
        raise ValueError(f"{file.filename}: {no_such('filter key', filter_key, masks)}")
    names = masks[filter_key]
    if not names:
        raise ValueError(
            f"{file.filename}: mask/{filter_key} is empty, so no demonstration is left. "
            f"Masks: { {key: len(value) for key, value in masks.items()} }."
        )
    data = data_of(file)
    assert isinstance(data, h5py.Group)
    for name in names:
        if "/" in name or not _is_log(member(data, name)):
            raise ValueError(
                f"{file.filename}: mask/{filter_key} names '{name}', but data has no such log."
            )
    return names


def is_text_dataset(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds strings."""
    return kind_of(dataset) == "text"


def check_demo(demo: h5py.Group) -> int:
    """Return the length t of one demonstration; ValueError when its structure is not the schema's.

    It must have actions [t, d] (text commands: strings [t]), rewards, dones and obs, all of one
    length t >= 1 (next_obs, success, terminated and truncated too, where they are there).
    """
    if isinstance(demo, KeptGroup) and demo.length is not None:
        return demo.length
    where = place(demo)
    if not isinstance(demo, h5py.Group):
        raise ValueError(f"{where}: a dataset, where a log (actions, rewards, dones, obs) stands.")
    observations = arrays(demo, "obs")
    if not observations and has(demo, "states"):
        raise ValueError(
            f"{where}: states of a simulator and no observations: a raw recording, as robosuite's "
            "own. robomimic makes logs out of it: robomimic/scripts/conversion/convert_robosuite.py"
            " --dataset FILE, then robomimic/scripts/dataset_states_to_obs.py --dataset FILE "
            "--output_name logs.hdf5 --done_mode 2, which adds obs, rewards and dones."
        )
    lengths = {key: _steps_of(demo, key) for key in REQUIRED}
    if not observations:
        raise ValueError(
            f"{where}: no observations in 'obs'; it holds: {', '.join(demo)}. Write what was seen "
            "before each action to obs/<key> (see datasets/schema.md)."
        )
    actions = demo["actions"]
    axes = 1 if is_text_dataset(actions) else 2
    if actions.ndim != axes or not len(actions) or not actions.size:
        raise ValueError(
            f"{where}/actions: {actions.dtype} of shape {actions.shape}; expected [t, d] (text "
            "commands: strings [t]) with at least one step."
        )
    lengths |= {key: _steps_of(demo, key) for key in _OPTIONAL if has(demo, key)}
    for group, found in (("obs", observations), ("next_obs", arrays(demo, "next_obs"))):
        for key, x in found.items():
            if x.shape is None or not x.ndim:
                raise ValueError(
                    f"{where}/{group}/{key}: {'nothing' if x.shape is None else 'one value'}, "
                    "where an array with one row a step is expected."
                )
            lengths[f"{group}/{key}"] = x.shape[0]
    told = attribute(demo, "num_samples")
    if told is not None:
        lengths["attribute num_samples"] = _count(f"{where}: attribute num_samples", told)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise ValueError(f"{where}: unequal lengths: {listed}.")
    if isinstance(demo, KeptGroup):
        demo.length = len(actions)
    return len(actions)


def _steps_of(demo: h5py.Group, key: str) -> int:
    """Rows of a per-step array that must be there."""
    item = member(demo, key)
    if item is None:
        raise ValueError(
            f"{place(demo)}: no '{key}'; it holds: {', '.join(demo) or 'nothing'}. Missing {key} "
            "are not filled with zeros; write them to the file (see datasets/schema.md)."
        )
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{place(item)}: a group, where an array with one row a step is expected.")
    kind = kind_of(item)
    if kind != "number" and not (key == "actions" and kind == "text"):
        raise ValueError(f"{place(item)}: {kind}, where numbers are expected, one row a step.")
    if not item.ndim:
        raise ValueError(f"{place(item)}: one value, where one row a step is expected.")
    return item.shape[0]


def _count(where: str, value: Any) -> int:
    if not isinstance(value, int | float | np.number) or not 0 <= value < 1e18 or float(value) % 1:
        raise ValueError(f"{where}: {value!r}, where a number of steps is expected.")
    return int(value)


def truth(where: str, value: Any) -> bool:
    """A mark that is true or false, or 1 or 0; ValueError on anything else, e.g. the word "no"."""
    if isinstance(value, bool | np.bool_ | int | float | np.number) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{where} is {value!r}, where true or false (1 or 0) is expected.")


def check_finite(where: str, array: np.ndarray) -> None:
    """ValueError, naming the first step, when an array [t, ...] holds NaN or Inf."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ValueError(
            f"{where}: NaN or Inf at step {step}. Drop this demonstration (a mask of your own and "
            "--data.filter-key) or fix the file."
        )


def check_actions(where: str, actions: np.ndarray, scale: ActionScale | None) -> None:
    """ValueError when actions [t, d] leave [-1, 1], or the declared scale where there is one, and
    when a scale is declared for text commands."""
    if is_text(actions):
        if scale is not None and np.isfinite(np.asarray(scale, np.float64)).any():
            raise ValueError(
                f"{where}: the actions are text commands, which have no scale: leave "
                "--data.action-low and --data.action-high out."
            )
        return
    declared = scale if scale is not None else (-1.0, 1.0)
    low, high = (np.asarray(bound, np.float64) for bound in declared)
    for bound in (low, high):
        if bound.size not in (1, actions.shape[1]):
            raise ValueError(
                f"{where}: actions have {actions.shape[1]} dimensions, the declared action scale "
                f"has {bound.size}."
            )
    slack = ACTION_TOLERANCE * np.maximum(1.0, high - low)
    outside = (actions < low - slack) | (actions > high + slack)
    if outside.any():
        step, dimension = np.argwhere(outside)[0].tolist()
        span = f"[{actions[:, dimension].min():.4g}, {actions[:, dimension].max():.4g}]"
        bounds = "[-1, 1]" if scale is None else "the declared action scale"
        raise ValueError(
            f"{where}: outside {bounds} at step {step}: dimension {dimension} spans {span}. "
            "Declare the scale of the actions (--data.action-low, --data.action-high, in "
            "the file's units) so that it covers them."
        )


def attribute_text(item: Member, name: str) -> str | None:
    """A string attribute; None where there is none. ValueError where it is no text."""
    value = attribute(item, name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place(item)}: attribute {name} is {value!r}, where text is expected.")
    return value


def env_args_of(file: h5py.File) -> dict[str, Any]:
    """The env_args JSON of the `data` group; an empty dictionary when there is none."""
    text = attribute_text(data_of(file), "env_args")  # type: ignore[arg-type]
    if text is None:
        return {}
    where = f"{file.filename}: the attribute env_args of 'data'"
    return checked_env_args(parse_json(text, where), where)


def checked_env_args(value: Any, where: str) -> dict[str, Any]:
    """env_args with the entries that are read of the kind that they must be; {} for null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {type(value).__name__}, where an object is expected.")
    for key, kind in (("env_name", str), ("env_kwargs", dict), ("language", str)):
        if not isinstance(value.get(key), kind | None):
            raise ValueError(f"{where}: {key} is {value[key]!r}, not of type {kind.__name__}.")
    if value.get("env_kwargs") is None:
        value = {key: x for key, x in value.items() if key != "env_kwargs"}
    for key in ("language", "lang"):
        words = value.get("env_kwargs", {}).get(key)
        if not isinstance(words, str | None):
            raise ValueError(f"{where}: {key} of env_kwargs is {words!r}, where text is expected.")
    for key, inner in (("control_hz", value), ("control_freq", value.get("env_kwargs", {}))):
        hz = inner.get(key)
        if hz is not None and not (is_number(hz) and 0 < hz < 1e6):
            raise ValueError(f"{where}: {key} is {hz!r}, not a rate in actions a second.")
    return value
