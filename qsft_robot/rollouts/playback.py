"""Replays a stored demonstration by its actions and compares what comes back with the log."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.logs.checks import (
    ANY_SCALE,
    attribute_text,
    check_demo,
    check_finite,
    demo_group,
    env_args_of,
    open_demonstrations,
)
from qsft_robot.logs.hdf5_members import Member, attribute, member, place
from qsft_robot.logs.hdf5_rows import kind_of, read_rows
from qsft_robot.logs.reader import iter_episodes, read_env_args
from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import GYMNASIUM_PREFIX, build_env
from qsft_robot.parts.told_success import either, told_success
from qsft_robot.rollouts.action_range import action_range, beyond
from qsft_robot.rollouts.video import VideoFile, check_video, draw_overlay
from qsft_robot.types import Episode, is_image, is_text, stack_rows
from qsft_robot.versions import compare_with_installed, recorded_versions


@dataclass(frozen=True)
class PlaybackReport:
    """How a replay compares with its log; `reasons` is empty where it is accepted."""

    demo: str
    steps_logged: int
    steps_replayed: int
    success_logged: bool
    success_replayed: bool | None  # None where the environment tells no success
    # largest absolute difference of rewards
    reward_difference: float
    # state key -> largest absolute difference over all rows and entries, in the key's units
    state_differences: dict[str, float]
    # image key -> mean absolute difference in gray levels of 255; told, but no ground to refuse
    image_differences: dict[str, float]
    # text key -> number of rows that differ; one is ground to refuse
    text_differences: dict[str, int]
    # where the log's actions leave the environment's action space, in words
    clipped: str | None
    reasons: tuple[str, ...]
    video: Path | None

    @property
    def accepted(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        states = ", ".join(f"{key} {x:.2g}" for key, x in self.state_differences.items())
        images = ", ".join(f"{key} {x:.2f}" for key, x in self.image_differences.items())
        texts = ", ".join(f"{key} {x}" for key, x in self.text_differences.items())
        verdict = "accepted" if self.accepted else "NOT accepted: " + "; ".join(self.reasons)
        return (
            f"{self.demo}: {verdict}. {self.steps_replayed} of {self.steps_logged} steps; "
            f"largest difference of states: {states or 'none compared'}; mean difference of "
            f"images (of 255): {images or 'none compared'}"
            + (f"; rows of text that differ: {texts}" if texts else "")
            + (f"; actions are clipped: {self.clipped}" if self.accepted and self.clipped else "")
            + ("; the environment tells no success" if self.success_replayed is None else "")
        )


def playback(
    path: str | Path,
    demo: str | int = 0,
    *,
    video: str | Path | None = None,
    tolerance: float = 1e-4,
    env_overrides: Mapping[str, Any] | None = None,
    strict_versions: bool = False,
) -> PlaybackReport:
    """Rebuild the environment from the file, replay one demonstration's actions, and compare.

    It is reset with the stored `seed` and `reset_options`, else (robomimic's own files) put into
    the first of `states` with `model_file`. Accepted means: as many steps, the same success, and
    every state key within `tolerance`. `video`: an mp4 to write. Where the simulator's versions are
    not those of the log, a warning says so, or ValueError (`strict_versions`).
    Raises ValueError when the file says too little to make the episode again.
    """
    name = demo if isinstance(demo, str) else f"demo_{demo}"
    log, seed, options = _read(path, name)
    overrides = dict(env_overrides or {})
    if video is not None:
        check_video()
        overrides["render_mode"] = "rgb_array"
    env_args = read_env_args(path)
    compare_with_installed(recorded_versions(env_args), f"the logs of {path}", strict_versions)
    if not str(env_args.get("env_name", "")).startswith(GYMNASIUM_PREFIX):
        # Logs may go on after success, as people's recordings do.
        overrides.setdefault("terminate_on_success", False)
    env = build_env(env_args, **overrides)
    film = None
    try:
        if video is not None:
            fps = float(getattr(env.unwrapped, "control_hz", 20.0))
            film = VideoFile(Path(video).parent, fps)
        with film if film is not None else nullcontext():
            played = _replay(env, log, seed, options, film)
            clipped = _clipped(log, env)
            if film is not None:
                film.keep(Path(video).name)  # type: ignore[arg-type]
    finally:
        env.close()
    written = None if video is None else Path(video)
    return _compare(log, *played, clipped=clipped, tolerance=tolerance, video=written)


def _read(path: str | Path, name: str) -> tuple[Episode, int, dict[str, Any] | None]:
    """One log, and the seed and options that begin its episode again."""
    with open_demonstrations(path) as file:
        group = demo_group(file, name)
        check_demo(group)
        options: dict[str, Any] | None = None
        if attribute(group, "seed") is None:
            states = member(group, "states")
            if states is None:
                raise ValueError(
                    f"{path}: {name} has neither an attribute 'seed' nor 'states', so its episode "
                    f"can't begin again (environment {env_args_of(file).get('env_name')!r})."
                )
            options = {"states": _first_state(states)}
            if (model := attribute_text(group, "model_file")) is not None:
                options["model_file"] = model
        where = place(group)
    (log,) = iter_episodes(path, names=[name], action_scale=ANY_SCALE)
    if options is None:
        options = log.attributes.get("reset_options") or None
    if not isinstance(options, dict | None):
        raise ValueError(f"{where}: attribute reset_options is {options!r}, no object of JSON.")
    seed = log.attributes.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"{where}: attribute seed is {seed!r}, no number from 0 on.")
    return log, seed, options


def _first_state(states: Member) -> list[float]:
    """The simulator's state at the start, of states [t, s]."""
    if not isinstance(states, h5py.Dataset) or kind_of(states) != "number":
        raise ValueError(f"{place(states)}: no numbers [t, s], so the episode can't begin again.")
    if states.ndim != 2 or not states.size:
        raise ValueError(f"{place(states)}: shape {states.shape}; expected [t, s].")
    first = read_rows(states, 0)
    check_finite(f"{place(states)}", first[None])
    return first.tolist()


def _replay(
    env: Any, log: Episode, seed: int, options: dict[str, Any] | None, film: VideoFile | None
) -> tuple[dict[str, np.ndarray], np.ndarray, bool | None]:
    """Observations [t' + 1, ...], rewards [t'] and success of the replay (None where the
    environment tells none); t' <= t."""
    observation, info = env.reset(seed=seed, options=options)
    rows = {key: [value] for key, value in as_mapping(observation).items()}
    rewards: list[float] = []
    success: bool | None = None

    def show(outcome: bool | None, command: str | None) -> None:
        if film is not None:
            frame = np.asarray(env.render())
            film.append(draw_overlay(frame, log.instruction, [], outcome, command))

    show(None, "" if log.has_commands else None)
    for i, action in enumerate(log.actions):
        observation, reward, terminated, truncated, info = env.step(action)
        for key, value in as_mapping(observation).items():
            rows[key].append(value)
        rewards.append(float(reward))
        success = either(success, told_success(info))
        over = terminated or truncated or i == len(log) - 1
        show(success or (False if over else None), action if log.has_commands else None)
        if over:
            break
    return {k: stack_rows(v) for k, v in rows.items()}, np.array(rewards, np.float32), success


def _clipped(log: Episode, env: Any) -> str | None:
    if log.has_commands:
        return None
    low, high = log.actions.min(axis=0), log.actions.max(axis=0)
    return beyond(low, high, action_range(env.action_space))


def _compare(
    log: Episode,
    seen: Mapping[str, np.ndarray],
    rewards: np.ndarray,
    success: bool | None,
    *,
    clipped: str | None,
    tolerance: float,
    video: Path | None,
) -> PlaybackReport:
    steps = len(rewards)
    states: dict[str, float] = {}
    images: dict[str, float] = {}
    texts: dict[str, int] = {}
    reasons: list[str] = []
    there = {**log.observations, **log.texts}
    for key in sorted(there.keys() & seen.keys()):
        logged, replayed = there[key][: steps + 1], seen[key]
        if is_text(logged) or is_text(replayed):
            texts[key] = int((logged != replayed).sum())
            continue
        if logged.shape != replayed.shape:
            reasons.append(
                f"{key} has shape {list(logged.shape[1:])} in the log and "
                f"{list(replayed.shape[1:])} in the environment"
            )
            continue
        difference = np.abs(logged.astype(np.float64) - replayed.astype(np.float64))
        if is_image(logged[0]):
            images[key] = float(difference.mean())
        else:
            states[key] = float(difference.max())
    if steps != len(log):
        reasons.append(f"the replay ended after {steps} of {len(log)} steps")
    if success is not None and success != log.success:
        reasons.append(f"success is {success}, in the log {log.success}")
    reasons += [
        f"{key} differs by {x:.3g} (tolerance {tolerance:g})"
        for key, x in states.items()
        if not x <= tolerance
    ]
    reasons += [f"{key} differs in {x} of {steps + 1} rows" for key, x in texts.items() if x]
    if reasons and clipped is not None:
        reasons.append(f"the environment clips actions of the log: {clipped}")
    if not states and not images and not texts:
        reasons.append(
            f"no observation key in common: the log has {sorted(there)}, the "
            f"environment {sorted(seen)}"
        )
    return PlaybackReport(
        demo=log.name,
        steps_logged=len(log),
        steps_replayed=steps,
        success_logged=log.success,
        success_replayed=success,
        reward_difference=float(np.abs(log.rewards[:steps] - rewards).max()),
        state_differences=states,
        image_differences=images,
        text_differences=texts,
        clipped=clipped,
        reasons=tuple(reasons),
        video=video,
    )
