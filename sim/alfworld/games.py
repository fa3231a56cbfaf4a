"""Generates ALFWorld games in its own form on disk, each solved by the engine's own expert."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sim.alfworld.folders import GENERATED, OFFICIAL, data_root, is_whole
from sim.alfworld.layouts import package_folder
from sim.alfworld.problem import SPLITS, TASK_TYPES, trial_name
from sim.alfworld.process import EngineProcess

GAMES = {"train": 1200, "valid_seen": 120, "valid_unseen": 120}
# The environment's own limit: a game that its expert needs longer for teaches nothing.
STEP_LIMIT = 50
ABOUT = "generated.json"
_GAME_TIME_S = 600.0
# A fresh engine after so many draws, because it grows with each (see AlfworldEnv).
_DRAWS_OF_AN_ENGINE = 200


@dataclass(frozen=True)
class GenerationReport:
    """Report of one run of making games."""

    folder: Path
    made: int
    found: int  # games of an earlier run that were kept
    draws: int  # problems drawn for the games made; the rest could not be solved in time

    def __str__(self) -> str:
        kept = f", {self.found} were there" if self.found else ""
        return f"{self.folder}: {self.made} games made from {self.draws} draws{kept}"


def generate_games(
    folder: str | Path | None = None,
    games: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    workers: int = 2,
    on_game: Callable[[int, int], None] | None = None,
) -> GenerationReport:
    """Make games of all six types, as many of each: games[split] rounded up to a multiple of six.

    A game depends on seed, split, type and number alone, so that neither `workers` nor an earlier
    run changes it; games that are there stay, more are added, what is there in part is made again.
    Each appears whole or not at all.
    `folder` is $ALFWORLD_DATA/generated when not given; `on_game(done, total)` tells progress.
    Raises ValueError on bad arguments and on a folder that holds other games, ImportError without
    the alfworld package.
    """
    package_folder()
    place = data_root() / GENERATED if folder is None else Path(folder)
    wanted = dict(GAMES if games is None else games)
    _check(place, wanted, seed, workers)
    place.mkdir(parents=True, exist_ok=True)
    orders = [
        (split, task_type, index)
        for split in SPLITS
        for index in range(-(-wanted.get(split, 0) // len(TASK_TYPES)))
        for task_type in TASK_TYPES
    ]
    there = {
        (trial.parts[-3], trial.parts[-2].split("-")[0], trial.name)
        for trial in place.glob("*/*/trial_*")
        if is_whole(trial)
    }
    left = [o for o in orders if (o[0], o[1], trial_name(seed, o[2])) not in there]
    done = found = len(orders) - len(left)
    draws = 0
    local = threading.local()
    engines: list[EngineProcess] = []

    def make(order: tuple[str, str, int]) -> int:
        if not hasattr(local, "engine"):
            local.engine = EngineProcess(_GAME_TIME_S)
            engines.append(local.engine)
            local.draws = 0
        split, task_type, index = order
        message = {"split": split, "task_type": task_type, "index": index, "seed": seed}
        make_it = {**message, "folder": str(place), "step_limit": STEP_LIMIT}
        attempts = int(local.engine.request({"make": make_it})["attempts"])
        local.draws += attempts
        if local.draws >= _DRAWS_OF_AN_ENGINE:
            local.engine.close()
            local.draws = 0
        return attempts

    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in as_completed([pool.submit(make, order) for order in left]):
                draws += job.result()
                done += 1
                if on_game is not None:
                    on_game(done, len(orders))
        finally:
            # After an error or Ctrl-C what is under way is dropped, what is finished stays.
            pool.shutdown(wait=False, cancel_futures=True)
            for engine in engines:
                engine.close()
    return GenerationReport(place, len(left), found, draws)


def _check(place: Path, games: Mapping[str, int], seed: int, workers: int) -> None:
    unknown = [split for split in games if split not in SPLITS]
    if unknown:
        raise ValueError(f"Unknown splits {unknown}; there are: {', '.join(SPLITS)}.")
    if any(n < 0 for n in games.values()) or not any(games.values()):
        raise ValueError(f"{dict(games)} asks for no game; give a number for a split.")
    if seed < 0 or workers < 1:
        raise ValueError(f"seed {seed} has to be 0 or more, workers {workers} 1 or more.")
    if place.name == OFFICIAL:
        raise ValueError(
            f"{place} is where the official data belongs; give generated games another folder."
        )
    about = {"generated_by": "qsft-robot", "seed": seed, "alfworld": version("alfworld")}
    file = place / ABOUT
    if file.is_file():
        earlier = json.loads(file.read_text())
        if earlier != about:
            raise ValueError(
                f"{place} holds games made with {earlier}, these would be made with {about}: "
                "games of two kinds don't mix. Give another folder, or the same seed."
            )
        return
    if place.is_dir() and any(place.iterdir()):
        raise ValueError(f"{place} holds something else than generated games; give another folder.")
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / f".{ABOUT}.tmp"
    temporary.write_text(json.dumps(about, indent=2) + "\n")
    os.replace(temporary, file)
