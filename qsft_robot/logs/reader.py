"""HDF5 in the robomimic schema to `Episode`s: any observation key, any filter key, no fills."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.files import parse_json
from qsft_robot.logs.checks import (
    ActionScale,
    check_actions,
    check_demo,
    check_finite,
    demo_group,
    env_args_of,
    is_text_dataset,
    language_of,
    masks_of,
    open_demonstrations,
    select_demos,
)
from qsft_robot.logs.ends import (
    LogEnd,
    ends_by_name,
    ends_terminal,
    first_success,
    marks_of,
    read_steps,
    success_signals,
)
from qsft_robot.logs.hdf5_members import (
    arrays,
    attribute,
    kind_of,
    place,
    read_rows,
    room_for,
)
from qsft_robot.logs.images import images_in, is_camera, next_images, why_no_images
from qsft_robot.names import no_such
from qsft_robot.types import Episode, is_text

# Attributes with a meaning of their own, or (model_file) too large to carry along
_NOT_CARRIED = {"num_samples", "model_file", "lang", "success", "ep_meta"}


def read_env_args(path: str | Path) -> dict[str, Any]:
    """The env_args that rebuild the environment; ValueError when the file has none."""
    with open_demonstrations(path) as file:
        env_args = env_args_of(file)
    if not env_args:
        raise ValueError(
            f"{path}: 'data' has no attribute env_args, so the environment can't be rebuilt from "
            "this file; name the environment yourself."
        )
    return env_args


def read_masks(path: str | Path) -> dict[str, list[str]]:
    """Filter key -> names of its demonstrations."""
    with open_demonstrations(path) as file:
        return masks_of(file)


def image_shapes(path: str | Path) -> dict[str, tuple[int, int]]:
    """Camera key -> (height, width), as the first demonstration has them."""
    with open_demonstrations(path) as file:
        demo = demo_group(file, select_demos(file, None)[0])
        check_demo(demo)
        found = {key: images_in(x) for key, x in arrays(demo, "obs").items()}
        return {key: x.size for key, x in found.items() if x is not None}


def unread_keys(path: str | Path, filter_key: str | None = None) -> dict[str, str]:
    """Observation key of the first demonstration that is neither images, state nor text -> where
    it stands, why it is not read and what to do."""
    with open_demonstrations(path) as file:
        return _unread(arrays(demo_group(file, select_demos(file, filter_key)[0]), "obs"))


def _unread(obs: Mapping[str, h5py.Dataset]) -> dict[str, str]:
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


def read_episodes(
    path: str | Path,
    *,
    keys: Sequence[str] | None = None,
    filter_key: str | None = None,
    instruction: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
    action_scale: ActionScale | None = None,
    names: Sequence[str] | None = None,
    require_reward: bool = True,
) -> list[Episode]:
    """Read every demonstration, or those of one filter key; arguments as in `iter_episodes`.

    With `require_reward`, ValueError when all rewards are zero: nothing could be learnt from them.
    """
    episodes = list(
        iter_episodes(
            path,
            keys=keys,
            filter_key=filter_key,
            instruction=instruction,
            log_end=log_end,
            success_reward=success_reward,
            action_scale=action_scale,
            names=names,
        )
    )
    if require_reward and not any(episode.rewards.any() for episode in episodes):
        raise ValueError(no_reward(path, success_reward))
    return episodes


def no_reward(path: str | Path, success_reward: bool) -> str:
    """The message for logs whose rewards are all zero."""
    fix = (
        "no success was found in the file either."
        if success_reward
        else "if the file marks success elsewhere (success, dones), pass --data.success-reward."
    )
    return f"{path}: all rewards are zero, so there is nothing to tell good from bad; {fix}"


def iter_episodes(
    path: str | Path,
    *,
    keys: Sequence[str] | None = None,
    filter_key: str | None = None,
    instruction: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
    action_scale: ActionScale | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[Episode]:
    """Read demonstrations one by one, each checked as it is read.

    `keys` are observation keys, images and state alike (None: all). `instruction` goes before the
    file's own language. `log_end` says what the end of an unsuccessful log means, for all or by
    filter key; without it the file's `terminated` and `truncated` decide, and where it has only
    `dones` such an end is terminal. `success_reward` puts reward 1 at the first success, 0
    elsewhere, and ends the log there. `action_scale` is checked, not applied. `names` picks
    some of the demonstrations. ValueError names file, demonstration and key.
    """
    with open_demonstrations(path) as file:
        names = _select(file, filter_key, names)
        env_args = env_args_of(file)
        ends = ends_by_name(file, log_end)
        signals = success_signals(file, names) if success_reward else {}
        keys = _known_keys(file, names[0], keys)
        shapes: dict[str, tuple[str, tuple[int | str, ...]]] = {}
        for name in names:
            demo = demo_group(file, name)
            check_demo(demo)
            lang = instruction if instruction is not None else language_of(demo, env_args)
            episode = _read_demo(demo, keys, lang, ends.get(name), signals.get(name))
            check_actions(f"{path}: data/{name}/actions", episode.actions, action_scale)
            arrays = {f"obs/{key}": x for key, x in episode.observations.items()}
            for key, x in {**arrays, "actions": episode.actions}.items():
                here = ("text",) if is_text(x) else x.shape[1:]
                first, shape = shapes.setdefault(key, (name, here))
                if here != shape:
                    raise ValueError(
                        f"{path}: {key} differs in size: {shape} in {first}, {here} in "
                        f"{name}. One policy needs one size; convert the file or select by mask."
                    )
            yield episode


def _select(file: h5py.File, filter_key: str | None, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return select_demos(file, filter_key)
    there = None if filter_key is None else select_demos(file, filter_key)
    for name in names:
        demo_group(file, name)  # ValueError where there is none
        if there is not None and name not in there:
            raise ValueError(f"{file.filename}: {no_such('demonstration', name, there)}")
    return list(names)


def _known_keys(file: h5py.File, name: str, keys: Sequence[str] | None) -> list[str]:
    demo = demo_group(file, name)
    check_demo(demo)
    obs = arrays(demo, "obs")
    if keys is None:
        # Depth maps and segmentation have no place in an Observation.
        for reason in _unread(obs).values():
            warnings.warn(f"left out: {reason}", stacklevel=3)
        return [key for key, x in obs.items() if is_camera(x) or is_state_or_text(x)]
    for key in keys:
        if key not in obs:
            raise ValueError(f"{file.filename}: {no_such('observation key', key, obs)}")
    return list(keys)


def is_state_or_text(dataset: h5py.Dataset) -> bool:
    kind = kind_of(dataset)
    plain = (kind == "number" and dataset.ndim <= 2) or (kind == "text" and dataset.ndim == 1)
    return plain and not is_camera(dataset) and not why_no_images(dataset)


def _read_demo(
    demo: h5py.Group, keys: Sequence[str], lang: str, end: LogEnd | None, signal: str | None
) -> Episode:
    where, obs, after = place(demo), arrays(demo, "obs"), arrays(demo, "next_obs")
    wanted = [demo["actions"], *(obs[key] for key in keys if key in obs)]
    room_for(where, sum(map(_bytes_read, wanted)))
    actions = read_rows(demo["actions"])
    if not is_text(actions):
        actions = _as_float32(actions)
        check_finite(f"{where}/actions", actions)
    rewards = _as_float32(read_steps(demo, "rewards"))
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
    rows = {key: _read_rows(demo, obs, after, key, steps, not terminated) for key in keys}
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


def _read_rows(
    demo: h5py.Group,
    obs: Mapping[str, h5py.Dataset],
    next_obs: Mapping[str, h5py.Dataset],
    key: str,
    steps: int,
    bootstraps: bool,
) -> np.ndarray:
    """Rows 0 to `steps` of one observation key, [steps + 1, ...]; the last comes from next_obs."""
    where = f"{place(demo)}/obs/{key}"
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
        text = False
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
    check_finite(where, rows)
    return rows if rows.ndim > 1 or text else rows[:, None]


def _attributes(demo: h5py.Group) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for key in demo.attrs.keys() - _NOT_CARRIED:
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
