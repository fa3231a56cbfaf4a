"""Finds ALFWorld games on disk: the official data where there is some, else generated games."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from sim.alfworld.problem import SPLITS, TASK_TYPES

OFFICIAL = "json_2.1.1"
GENERATED = "generated"
GAME_FILE = "game.tw-pddl"
TRAJ_DATA = "traj_data.json"
PROBLEM = "initial_state.pddl"
_GENERATE = "qsft-robot generate alfworld"
_DOWNLOAD = "alfworld-download (a command of the alfworld package)"


@dataclass(frozen=True)
class Game:
    """One game on disk."""

    id: str  # <task folder>/<trial folder>
    folder: Path
    task_type: str
    floor_plan: int

    @property
    def file(self) -> Path:
        """The file that the engine loads."""
        return self.folder / GAME_FILE


def data_root() -> Path:
    """$ALFWORLD_DATA, or where the alfworld package puts its data without it."""
    return Path(os.environ.get("ALFWORLD_DATA") or Path.home() / ".cache" / "alfworld")


def games_folder(data: str | Path | None = None) -> Path:
    """The folder that holds the split folders: `data` where it is given, else the official data,
    else the generated games. FileNotFoundError says how to get either."""
    if data is not None:
        folder = Path(data)
        if folder.is_dir():
            return folder
        raise FileNotFoundError(f"{folder}: no such folder of ALFWorld games.")
    root = data_root()
    for name in (OFFICIAL, GENERATED):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f"There are no ALFWorld games in {root} (the environment variable ALFWORLD_DATA names "
        f"another folder): neither {OFFICIAL}, the official data, which {_DOWNLOAD} fetches, nor "
        f"{GENERATED}, which `{_GENERATE}` makes."
    )


def check_names(split: str, task_types: Sequence[str]) -> None:
    """ValueError, with the nearest name, unless these are a split and types of tasks."""
    if isinstance(task_types, str):
        raise ValueError(
            f"task_types is the text {task_types!r}; give a list of names, on the command line "
            f"task_types='[\"{task_types}\"]'."
        )
    for what, names, known in (("split", [split], SPLITS), ("task type", task_types, TASK_TYPES)):
        for name in names:
            if name not in known:
                near = get_close_matches(str(name), known, n=1)
                guess = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"Unknown ALFWorld {what} {name!r}.{guess} There are: {', '.join(known)}."
                )
    if not task_types:
        raise ValueError(f"No ALFWorld task types; there are: {', '.join(TASK_TYPES)}.")


def find_games(
    split: str, task_types: Sequence[str] = TASK_TYPES, data: str | Path | None = None
) -> tuple[Game, ...]:
    """The solvable games of a split, types taking turns, the same order on every machine.

    Raises ValueError on unknown names and on data that is incomplete, FileNotFoundError where
    there is none.
    """
    check_names(split, task_types)
    folder = games_folder(data)
    if not (folder / split).is_dir():
        there = sorted(x.name for x in folder.iterdir() if x.is_dir() and x.name[0] != ".")
        raise ValueError(
            f"{folder}: no split {split!r} in it; it holds: {', '.join(there) or 'nothing'}. "
            f"{_mend(folder)}"
        )
    by_type: dict[str, list[Game]] = {name: [] for name in task_types}
    without_game = unsolvable = 0
    for trial in sorted((folder / split).glob("*/trial_*")):
        kind, *_, room = trial.parent.name.split("-")
        # As ALFWorld does: tasks with a movable receptacle or a sliced object are not played.
        if "movable" in trial.parent.name or "Sliced" in trial.parent.name or kind not in by_type:
            continue
        if not (trial / GAME_FILE).is_file():
            without_game += 1  # so it is for every second task of the official data
        elif not (trial / TRAJ_DATA).is_file():
            raise ValueError(
                f"{trial}: it has a {GAME_FILE} but no {TRAJ_DATA}, so the data is incomplete. "
                f"{_mend(folder)}"
            )
        elif not room.isdecimal():
            raise ValueError(
                f"{trial.parent}: the name of a task's folder ends with the number of its floor "
                f"plan, not with {room!r}."
            )
        elif _is_solvable(trial / GAME_FILE):
            game = Game(f"{trial.parent.name}/{trial.name}", trial, kind, int(room))
            by_type[kind].append(game)
        else:
            unsolvable += 1
    empty = [name for name, games in by_type.items() if not games]
    if empty:
        raise ValueError(
            f"{folder / split}: no playable game of {', '.join(empty)} ({without_game} folders "
            f"have no {GAME_FILE}, {unsolvable} games are cut off or not marked as solvable). "
            f"{_mend(folder)}"
        )
    return _in_turns(by_type)


def _mend(folder: Path) -> str:
    if folder.name == OFFICIAL:
        return (
            f"Complete the official data with {_DOWNLOAD}, or move it away to use generated games."
        )
    return f"Make what is missing with `{_GENERATE} --out {folder}`; finished games stay."


def is_whole(trial: Path) -> bool:
    """Whether a game's folder holds all its files and the game can be solved."""
    files = (GAME_FILE, TRAJ_DATA, PROBLEM)
    return all((trial / name).is_file() for name in files) and _is_solvable(trial / GAME_FILE)


def _is_solvable(file: Path) -> bool:
    # The official files are large and many: their text is searched instead of parsed. Inside the
    # strings of a game the quotes are escaped, so only the key itself can match.
    text = file.read_bytes()
    return b'"solvable": true' in text or b'"solvable":true' in text


def _in_turns(by_type: dict[str, list[Game]]) -> tuple[Game, ...]:
    """One game of each type after the other, each type in an order of chance that never changes."""
    ranked = []
    for kind, games in by_type.items():
        order = np.random.default_rng(0).permutation(len(games))
        turns = [(turn / len(games), list(by_type).index(kind)) for turn in range(len(games))]
        ranked += [(place, games[i]) for place, i in zip(turns, order, strict=True)]
    return tuple(game for _, game in sorted(ranked, key=lambda pair: pair[0]))
