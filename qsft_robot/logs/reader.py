"""HDF5 in the robomimic schema to `Episode`s: any observation key, any filter key, no fills."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.logs.checks import (
    ActionScale,
    attribute_text,
    check_actions,
    check_demo,
    check_finite,
    env_args_of,
    is_text_dataset,
    language_of,
    masks_of,
    open_demonstrations,
    select_demos,
    unknown,
)
from qsft_robot.logs.ends import (
    LogEnd,
    ends_by_name,
    ends_terminal,
    first_success,
    read_steps,
    success_signals,
)
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
        name = select_demos(file, None)[0]
        check_demo(file["data"][name])
        obs = file["data"][name]["obs"]
        return {key: x.shape[1:3] for key, x in obs.items() if _is_camera(x)}


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
    """What to say when all rewards are zero."""
    mend = (
        "no success was found in the file either."
        if success_reward
        else "if the file marks success elsewhere (success, dones), pass --data.success-reward."
    )
    return f"{path}: all rewards are zero, so there is nothing to tell good from bad; {mend}"


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
            demo = file["data"][name]
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
    there = select_demos(file, filter_key)
    for name in names or ():
        if name not in there:
            raise ValueError(f"{file.filename}: {unknown('demonstration', name, there)}")
    return there if names is None else list(names)


def _is_camera(dataset: h5py.Dataset) -> bool:
    return dataset.dtype == np.uint8 and dataset.ndim == 4 and dataset.shape[-1] == 3


def _known_keys(file: h5py.File, name: str, keys: Sequence[str] | None) -> list[str]:
    obs = file["data"][name].get("obs")
    if not isinstance(obs, h5py.Group):
        check_demo(file["data"][name])
    if keys is None:
        # Depth maps and segmentation have no place in an Observation; they are read by no one.
        return [key for key, x in obs.items() if _is_camera(x) or x.ndim <= 2]
    for key in keys:
        if key not in obs:
            raise ValueError(f"{file.filename}: {unknown('observation key', key, obs)}")
    return list(keys)


def _read_demo(
    demo: h5py.Group, keys: Sequence[str], lang: str, end: LogEnd | None, signal: str | None
) -> Episode:
    where = f"{demo.file.filename}: {demo.name[1:]}"
    if is_text_dataset(demo["actions"]):
        actions = demo["actions"].asstr()[()]
    else:
        actions = demo["actions"][()].astype(np.float32, copy=False)
        check_finite(f"{where}/actions", actions)
    rewards = read_steps(demo, "rewards").astype(np.float32)
    steps = len(actions)
    success = bool(demo.attrs["success"] if "success" in demo.attrs else (rewards > 0).any())
    if signal is not None:
        at = first_success(demo, signal)
        success = at is not None
        steps = steps if at is None else at + 1
        actions, rewards = actions[:steps], np.zeros(steps, np.float32)
        rewards[-1] = float(success)
    terminated = ends_terminal(demo, success, end)
    rows = {key: _read_rows(demo, key, steps, not terminated) for key in keys}
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


def _read_rows(demo: h5py.Group, key: str, steps: int, bootstraps: bool) -> np.ndarray:
    """Rows 0 to `steps` of one observation key, [steps + 1, ...]; the last comes from next_obs."""
    where = f"{demo.file.filename}: {demo.name[1:]}/obs/{key}"
    if key not in demo["obs"]:
        raise ValueError(f"{where}: {unknown('observation key', key, demo['obs'])}")
    dataset = demo["obs"][key]
    camera, text = _is_camera(dataset), is_text_dataset(dataset)
    if (not camera and dataset.ndim > 2) or (text and dataset.ndim != 1):
        raise ValueError(
            f"{where}: {dataset.dtype} {dataset.shape} is neither an image, uint8 [t, h, w, 3], "
            "nor state, [t, s], nor text, strings [t]; leave this key out."
        )
    kind: Any = np.uint8 if camera else object if text else np.float32
    rows = np.empty((steps + 1, *dataset.shape[1:]), kind)
    inside = min(steps + 1, len(dataset))
    if text:
        rows[:inside] = dataset.asstr()[:inside]
    else:
        dataset.read_direct(rows, np.s_[:inside], np.s_[:inside])
    if inside == steps:
        after = demo.get(f"next_obs/{key}")
        if after is not None:
            if after.shape != dataset.shape:
                raise ValueError(
                    f"{where}: shape {dataset.shape}, but next_obs/{key} has {after.shape}."
                )
            if text:
                rows[-1] = after.asstr()[-1]
            else:
                after.read_direct(rows, np.s_[-1:], np.s_[-1:])
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
        value = demo.attrs[key]
        if isinstance(value, bytes | str):
            text = attribute_text(value)
            try:
                value = json.loads(text) if text[:1] in ("{", "[") else text
            except json.JSONDecodeError:
                value = text
        elif isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        attributes[key] = value
    return attributes
