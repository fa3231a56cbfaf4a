"""Verbs of the command line for flat files of steps: import-npz, and the recording of play data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from qsft_robot.presets.recipe import Recipe
from qsft_robot.printed_text import say
from qsft_robot.rollouts.machines import Machines
from qsft_robot.verbs.flag_words import env_changes, imports_of, named_env

if TYPE_CHECKING:
    from qsft_robot.flat_files.importing import FlatImportReport


def import_npz(
    files: Positional[tuple[Path, ...]],
    out: Path,
    env: str | None = None,
    env_kwargs: tuple[str, ...] = (),
    rewards: Literal["auto", "simulator", "file"] = "auto",
    success_reward: float | None = None,
    end: Literal["terminal", "truncated"] | None = None,
    max_length: int | None = None,
    keep: tuple[str, ...] = (),
    instruction: str = "",
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> None:
    """Make an HDF5 file of logs out of flat files of steps: OGBench's .npz, D4RL's .hdf5.

    Trajectories are cut into logs at each success and at a length.

    Args:
        files: Files with observations, actions and terminals (dones), perhaps timeouts, rewards and
            next_observations: .npz or HDF5.
        out: HDF5 file to write (robomimic's schema); it appears whole or not at all.
        env: Environment that the logs are of: a recipe (ogbench/cube-single-task3), whose
            simulator judges the states, or gymnasium:<module>:<id>.
        env_kwargs: Changes of its arguments, e.g. max_steps=400.
        rewards: What tells success: the simulator, from the states in the file, or the file's own
            rewards; auto: the simulator where --env names one that can.
        success_reward: The least reward that marks success; the higher one where there are two.
        end: How trajectories end that are no success, where the file has no timeouts: terminal (the
            failure is the outcome) or truncated (it was cut), which is the default.
        max_length: Most actions of a log; the environment's own limit when not given.
        keep: Further columns of the files to keep as observations, e.g. qpos.
        instruction: The instruction of every log.
        valid_fraction: Share of the trajectories that mask/valid holds out.
        seed: Seed of that draw.
    """
    from qsft_robot.flat_files.importing import import_flat
    from qsft_robot.progress import StepProgress

    env_args: dict[str, Any] | None = None
    more: dict[str, Any] = {}
    if env is not None:
        env_args = named_env(env)
        env_args["env_kwargs"] |= env_changes(env_kwargs)
        env_args, more = _seen_in(env_args, imports_of(env), judged=rewards != "file")
    elif env_kwargs:
        raise ValueError("--env-kwargs changes the arguments of an --env, and none is named.")
    if max_length is not None:
        more["max_length"] = max_length
    with StepProgress("import", "trajectories") as tell:
        report = import_flat(
            files,
            out,
            env_args=env_args,
            rewards=rewards,
            success_reward=success_reward,
            end=end,
            keep=keep,
            instruction=instruction,
            valid_fraction=valid_fraction,
            seed=seed,
            tell=tell,
            **more,
        )
    say(report)


def collect_play(
    chosen: Recipe,
    out: Path,
    episodes: int,
    see: Mapping[str, Any],
    *,
    noise: float | None,
    seed: int,
    workers: int,
    machines: Machines | None = None,
) -> FlatImportReport | str:
    """Record a recipe's play data, and write them to `out` as they are (.npz) or cut into logs."""
    from qsft_robot.files import atomic_file
    from qsft_robot.flat_files.columns import join_npz
    from qsft_robot.flat_files.importing import import_flat
    from qsft_robot.parts.simulators import build_labels
    from qsft_robot.progress import StepProgress
    from qsft_robot.rollouts.record_play import record_play

    changes = {key: value for key, value in see.items() if value is not None}
    kwargs = {**chosen.env_kwargs, **changes}
    env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs}
    recorded = {
        key: list(value) if key == "cameras" else value
        for key, value in kwargs.items()
        if key in ("task", "cameras", "image_size")
    }
    if noise is not None:
        recorded["noise"] = noise
    as_logs = out.suffix != ".npz"
    if as_logs:
        build_labels(env_args)  # an unknown task is told before hours of recording
    with StepProgress("record", "episodes") as tell:
        made = record_play(
            chosen.env_name,
            recorded,
            out,
            episodes,
            seed=seed,
            workers=workers,
            machines=machines,
            tell=tell,
        )
    if not as_logs:
        with atomic_file(out) as temporary, temporary.open("wb") as file:
            join_npz(made.episodes, file)
        made.remove()
        return f"{out}: {episodes} episodes of play data; logs of a task: qsft-robot import-npz"
    described, more = _seen_in(env_args, [], judged=True)
    with StepProgress("cut", "episodes") as tell:
        report = import_flat(made.episodes, out, env_args=described, seed=seed, tell=tell, **more)
    made.remove()
    return report


def _seen_in(
    env_args: Mapping[str, Any], imports: list[str], judged: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """env_args as the environment describes itself, and what an import takes from it: its judge of
    states, its step limit and the key of its image."""
    from qsft_robot.parts.simulators import build_env, build_labels
    from qsft_robot.rollouts.worker import env_description

    env = build_env(env_args, imports=imports)
    try:
        described = env_description(env, env_args)
        limit = getattr(env, "max_steps", None) or getattr(env.spec, "max_episode_steps", None)
        spaces = getattr(env.observation_space, "spaces", {})
        images = [key for key, x in spaces.items() if x.dtype == "uint8" and len(x.shape) == 3]
    finally:
        env.close()
    more: dict[str, Any] = {"max_length": limit}
    if judged:
        more["judge"] = build_labels(env_args)
    if len(images) == 1:
        more["image_key"] = images[0]
    return described, more
