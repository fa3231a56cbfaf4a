"""HDF5 in the robomimic schema to `Episode`s: any observation key, any filter key, no fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from qsft_robot.logs.checks import (
    ActionScale,
    check_demo,
    demo_group,
    env_args_of,
    masks_of,
    open_demonstrations,
    select_demos,
)
from qsft_robot.logs.ends import (
    LogEnd,
)
from qsft_robot.logs.hdf5_members import (
    arrays,
)
from qsft_robot.logs.images import images_in
from qsft_robot.logs.log_reader import LogReader, unread_in
from qsft_robot.names import no_such
from qsft_robot.types import Episode


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
        return unread_in(arrays(demo_group(file, select_demos(file, filter_key)[0]), "obs"))


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
        reader = LogReader(
            file,
            _select(file, filter_key, names),
            keys=keys,
            instruction=instruction,
            log_end=log_end,
            success_reward=success_reward,
            action_scale=action_scale,
        )
        for name in reader.names:
            yield reader.read(name)[1]


def _select(file: h5py.File, filter_key: str | None, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return select_demos(file, filter_key)
    there = None if filter_key is None else dict.fromkeys(select_demos(file, filter_key))
    for name in names:
        demo_group(file, name)  # ValueError where there is none
        if there is not None and name not in there:
            raise ValueError(f"{file.filename}: {no_such('demonstration', name, there)}")
    return list(names)
