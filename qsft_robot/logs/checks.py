"""What a demonstration file must hold, checked group by group and array by array (h5py, numpy)."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.types import is_text

REQUIRED = ("actions", "rewards", "dones")
# Actions come as float32; 1 + 1e-6 is 1 after a change of units, 1.001 is a mistake.
ACTION_TOLERANCE = 1e-6

# (low, high) of each action dimension, or one number for all, in the environment's action units
ActionScale = tuple[float | Sequence[float], float | Sequence[float]]
# The scale where actions are read and not judged.
ANY_SCALE: ActionScale = (-np.inf, np.inf)


def unknown(what: str, name: str, there: Iterable[str]) -> str:
    """One sentence for a name that is not there: the nearest names, then all."""
    there = sorted(there)
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    near = near or [x for x in there if name in x or x in name]
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"no {what} '{name}'.{guess} There are: {', '.join(there) or 'none'}."


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
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path}: HDF5 can't open it ({error}): truncated, damaged or still being written. "
            "Copy it again or collect it again."
        ) from error
    with file:
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            raise ValueError(
                f"{path}: no group 'data'; it holds: {', '.join(file) or 'nothing'}. "
                "Demonstrations live at data/demo_0/actions and so on (robomimic schema)."
            )
        if not len(data):
            raise ValueError(f"{path}: the group 'data' holds no demonstrations.")
        yield file


def natural_order(names: Iterable[str]) -> list[str]:
    """demo_2 before demo_10."""
    return sorted(
        names, key=lambda x: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", x)]
    )


def masks_of(file: h5py.File) -> dict[str, list[str]]:
    """Filter key -> names of its demonstrations, in natural order."""
    group = file.get("mask")
    if not isinstance(group, h5py.Group):
        return {}
    return {
        key: natural_order(x.decode() if isinstance(x, bytes) else str(x) for x in group[key][()])
        for key in group
    }


def select_demos(file: h5py.File, filter_key: str | None) -> list[str]:
    """Names of all demonstrations, or of those under mask/<filter_key>.

    ValueError when there is no such filter key, it is empty, or it names an absent demonstration.
    """
    data = file["data"]
    if filter_key is None:
        return natural_order(data)
    masks = masks_of(file)
    if filter_key not in masks:
        raise ValueError(f"{file.filename}: {unknown('filter key', filter_key, masks)}")
    names = masks[filter_key]
    if not names:
        raise ValueError(
            f"{file.filename}: mask/{filter_key} is empty, so no demonstration is left. "
            f"Masks: { {key: len(value) for key, value in masks.items()} }."
        )
    for name in names:
        if name not in data:
            raise ValueError(
                f"{file.filename}: mask/{filter_key} names '{name}', but data has no such group."
            )
    return names


def is_text_dataset(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds strings."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def check_demo(demo: h5py.Group) -> int:
    """Return the length t of one demonstration; ValueError when its structure is not the schema's.

    It must have actions [t, d] (text commands: strings [t]), rewards, dones and obs, all of one
    length t >= 1 (next_obs, success, terminated and truncated too, where they are there).
    """
    where = f"{demo.file.filename}: {demo.name[1:]}"
    for key in REQUIRED:
        if not isinstance(demo.get(key), h5py.Dataset):
            raise ValueError(
                f"{where}: no '{key}'; it holds: {', '.join(demo) or 'nothing'}. Missing {key} are "
                "not filled with zeros; write them to the file (see datasets/schema.md)."
            )
    if not isinstance(demo.get("obs"), h5py.Group) or not len(demo["obs"]):
        raise ValueError(
            f"{where}: no observations in 'obs'; it holds: {', '.join(demo)}. A file of raw "
            "simulator states needs its observations extracted first."
        )
    actions = demo["actions"]
    axes = 1 if is_text_dataset(actions) else 2
    if actions.ndim != axes or not len(actions):
        raise ValueError(
            f"{where}/actions: {actions.dtype} of shape {actions.shape}; expected [t, d] (text "
            "commands: strings [t]) with at least one step."
        )
    lengths = {
        key: demo[key].shape[0]
        for key in (*REQUIRED, "success", "terminated", "truncated")
        if key in demo
    }
    for group in ("obs", "next_obs"):
        for key, x in demo.get(group, {}).items():
            if not isinstance(x, h5py.Dataset):
                raise ValueError(
                    f"{where}/{group}/{key}: a group ({', '.join(x) or 'empty'}) where an array of "
                    f"one observation is expected: write its arrays straight into {group}, e.g. as "
                    f"{key}_{next(iter(x), 'image')}."
                )
            lengths[f"{group}/{key}"] = x.shape[0]
    if "num_samples" in demo.attrs:
        lengths["attribute num_samples"] = int(demo.attrs["num_samples"])
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise ValueError(f"{where}: unequal lengths: {listed}.")
    return len(actions)


def check_finite(where: str, array: np.ndarray) -> None:
    """ValueError, naming the first step, when an array [t, ...] holds NaN or Inf."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ValueError(
            f"{where}: NaN or Inf at step {step}. Drop this demonstration (a mask of your own and "
            "--data.filter-key) or mend the file."
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


def attribute_text(value: Any) -> str:
    """An HDF5 string attribute, whether stored as bytes or text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def env_args_of(file: h5py.File) -> dict[str, Any]:
    """The env_args JSON of the `data` group; an empty dictionary when there is none."""
    text = file["data"].attrs.get("env_args")
    if text is None:
        return {}
    try:
        value = json.loads(attribute_text(text))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file.filename}: the attribute env_args of 'data' is not JSON ({error})."
        ) from error
    return value if isinstance(value, dict) else {}


def language_of(demo: h5py.Group, env_args: Mapping[str, Any]) -> str:
    """The instruction of one log: its `lang`, else ep_meta's, else the environment's, else ""."""
    if "lang" in demo.attrs:
        return attribute_text(demo.attrs["lang"])
    if "ep_meta" in demo.attrs:
        try:
            meta = json.loads(attribute_text(demo.attrs["ep_meta"]))
        except json.JSONDecodeError:
            meta = {}
        if isinstance(meta, dict) and meta.get("lang"):
            return str(meta["lang"])
    inside = env_args.get("env_kwargs") or {}
    return str(env_args.get("language") or inside.get("language") or "")
