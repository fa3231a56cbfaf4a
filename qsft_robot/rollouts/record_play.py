"""Records play data, which no task guides, in worker processes; goes on where it was broken off."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.files import atomic_file, read_json, write_json
from qsft_robot.rollouts.collect import env_seed
from qsft_robot.rollouts.machines import Machines, ThisMachine
from qsft_robot.rollouts.pool import NODE, Joined, Lost, Pool

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Recording:
    """Episodes of play data on disk, one .npz each, in a folder beside what is made of them."""

    folder: Path
    episodes: tuple[Path, ...]

    def remove(self) -> None:
        """Remove the folder, once something was made of it."""
        shutil.rmtree(self.folder)


def record_play(
    env_name: str,
    kwargs: Mapping[str, Any],
    out: Path,
    episodes: int,
    *,
    seed: int = 0,
    workers: int = 2,
    episode_timeout_s: float = 3600.0,
    machines: Machines | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Recording:
    """Record `episodes` into the folder <out>.parts; those that are there already stay.

    Episode i depends on `kwargs`, `seed` and i alone. `machines`: where processes run (None: here).
    ValueError where the folder holds episodes of
    other settings; RuntimeError where an episode fails, those before it being kept.
    """
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes={episodes} and workers={workers}: at least 1 of each is needed")
    if seed < 0:
        raise ValueError(f"seed is {seed}, it has to be 0 or more")
    folder = out.with_name(f"{out.name}.parts")
    settings = {"env_name": env_name, "kwargs": dict(kwargs), "seed": seed}
    _check_folder(folder, settings)
    paths = [folder / f"episode_{index:06d}.npz" for index in range(episodes)]
    missing = [index for index in range(episodes) if not paths[index].exists()]
    if missing:
        service = "qsft_robot.rollouts.play_worker:serve_play"
        machines = ThisMachine() if machines is None else machines
        with machines.pool(service, settings, min(workers, len(missing))) as pool:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / _SETTINGS, settings)
            try:
                _record(pool, paths, missing, seed, episode_timeout_s, tell)
            except KeyboardInterrupt:
                there = sum(path.exists() for path in paths)
                raise KeyboardInterrupt(
                    f"{out}: interrupted after {there} of {episodes} episodes, which lie in "
                    f"{folder}; the same command goes on from there."
                ) from None
    return Recording(folder, tuple(paths))


def _check_folder(folder: Path, settings: dict[str, Any]) -> None:
    if not folder.exists():
        return
    found = read_json(folder / _SETTINGS) if (folder / _SETTINGS).exists() else None
    if found != settings:
        raise ValueError(
            f"{folder}: holds episodes of other settings ({found}): remove it, or choose another "
            "--out."
        )


def _record(
    pool: Pool,
    paths: list[Path],
    missing: list[int],
    seed: int,
    timeout_s: float,
    tell: Callable[[int, int], None] | None,
) -> None:
    waiting = list(reversed(missing))
    under_way: dict[int, int] = {}  # worker -> index

    def order(worker: int) -> None:
        if waiting and worker not in under_way and pool.present(worker):
            index = under_way[worker] = waiting.pop()
            message = {"index": index, "seed": env_seed(seed, index), "timeout_s": timeout_s}
            pool.send(worker, message)

    for worker in range(len(pool)):
        order(worker)
    done = len(paths) - len(missing)
    while done < len(paths):
        for event in pool.wait(0.5):
            if isinstance(event, Lost) and event.reason != NODE:
                raise RuntimeError(f"episode {event.task} {event.reason}: {event.detail}")
            index = under_way.pop(event.worker, None)
            if isinstance(event, Lost | Joined):
                waiting += [] if index is None else [index]
                for worker in range(len(pool)):
                    order(worker)
                continue
            order(event.worker)
            path = paths[event.content["index"]]
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **event.content["episode"])
            done += 1
            if tell is not None:
                tell(done, len(paths))
