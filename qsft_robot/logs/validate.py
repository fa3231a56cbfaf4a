"""Refuses a demonstration file that no policy should be trained on, before any training starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qsft_robot.logs.checks import ActionScale
from qsft_robot.logs.ends import LogEnd
from qsft_robot.logs.reader import image_shapes, iter_episodes, no_reward, unread_keys
from qsft_robot.names import no_such
from qsft_robot.returns import ReturnRange
from qsft_robot.types import Episode


def check_returns(path: str | Path, episodes: Iterable[Episode], return_range: ReturnRange) -> None:
    """ValueError, naming the demonstration, when a discounted return leaves the declared range."""
    for episode in episodes:
        return_range.check(episode.rewards, episode.terminated, f"{path}: data/{episode.name}")


def check_cameras(path: str | Path, cameras: Sequence[str]) -> tuple[int, int]:
    """The one (height, width) of these cameras; ValueError on an unknown one or differing sizes."""
    there = image_shapes(path)
    for camera in cameras:
        if camera not in there:
            if why := unread_keys(path).get(camera):
                raise ValueError(why)
            raise ValueError(f"{path}: {no_such('camera', camera, there)}")
    sizes = {camera: there[camera] for camera in cameras}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{camera} {h}x{w}" for camera, (h, w) in sizes.items())
        raise ValueError(
            f"{path}: image sizes differ: {listed or 'no camera given'}. One image encoder serves "
            "all cameras of a policy: choose cameras of one size, or convert the file."
        )
    return next(iter(sizes.values()))


def validate(
    path: str | Path,
    *,
    keys: Sequence[str] | None = None,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
    action_scale: ActionScale | None = None,
    return_range: ReturnRange | None = None,
) -> None:
    """Read the whole file, one demonstration at a time, and raise the first ValueError found.

    Beyond what `read_episodes` checks (structure, lengths, NaN, action range, sizes): every return
    within `return_range`, some reward that is not zero, and cameras of one size.
    """
    rewarded = False
    cameras: list[str] = []
    for episode in iter_episodes(
        path,
        keys=keys,
        filter_key=filter_key,
        log_end=log_end,
        success_reward=success_reward,
        action_scale=action_scale,
    ):
        rewarded |= bool(episode.rewards.any())
        cameras = [key for key, rows in episode.observations.items() if rows.ndim == 4]
        if return_range is not None:
            check_returns(path, [episode], return_range)
    if not rewarded:
        raise ValueError(no_reward(path, success_reward))
    if cameras:
        check_cameras(path, cameras)
