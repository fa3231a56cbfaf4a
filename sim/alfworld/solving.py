"""One ALFWorld game made inside the engine's process: drawn, played by the expert, written."""

from __future__ import annotations

import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.alfworld.adviser import Adviser
from sim.alfworld.folders import GAME_FILE, PROBLEM, TRAJ_DATA
from sim.alfworld.layouts import package_folder
from sim.alfworld.problem import SPLITS, TASK_TYPES, draw_problem, trial_name

_NO_TASK = "UNKNOWN GOAL"
_ATTEMPTS = 40


@lru_cache(maxsize=1)
def _rules() -> tuple[str, str]:
    """ALFRED's PDDL domain and the grammar of what the engine says, as the package ships them."""
    data = package_folder() / "data"
    return (data / "alfred.pddl").read_text(), (data / "alfred.twl2").read_text()


def make_game(
    env: Any, folder: Path, split: str, task_type: str, seed: int, index: int, step_limit: int
) -> dict[str, Any]:
    """Draw games until the engine's expert solves one in `step_limit` steps, and write it.

    Returns {"id", "attempts", "steps"}. RuntimeError when no draw can be solved.
    """
    domain, grammar = _rules()
    name = f"{SPLITS.index(split)}_{TASK_TYPES.index(task_type)}_{trial_name(seed, index)}"
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for attempt in range(_ATTEMPTS):
            problem = draw_problem(task_type, split, seed, index, attempt, name)
            game: dict[str, Any] = {
                "pddl_domain": domain,
                "grammar": grammar.replace(_NO_TASK, problem.instruction),
                "pddl_problem": problem.pddl,
                "solvable": None,
                "walkthrough": None,
            }
            (temporary / GAME_FILE).write_text(json.dumps(game))
            env.load(str(temporary / GAME_FILE))
            walkthrough = _solve(env, Adviser(problem.traj_data, {}, seed + index), step_limit)
            if walkthrough is None:
                continue
            game |= {"solvable": True, "walkthrough": walkthrough}
            (temporary / GAME_FILE).write_text(json.dumps(game))
            (temporary / PROBLEM).write_text(problem.pddl)
            (temporary / TRAJ_DATA).write_text(json.dumps(problem.traj_data, indent=2))
            place = folder / split / problem.task.folder / trial_name(seed, index)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)  # what is left of a game that lost a file
            os.replace(temporary, place)
            return {
                "id": f"{place.parent.name}/{place.name}",
                "attempts": attempt + 1,
                "steps": len(walkthrough),
            }
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    raise RuntimeError(
        f"none of {_ATTEMPTS} draws of a {task_type} in {split} (seed {seed}, number {index}) was "
        f"solved by the engine's expert in {step_limit} steps"
    )


def _solve(env: Any, adviser: Adviser, step_limit: int) -> list[str] | None:
    """The commands with which the expert reaches the goal, None when it does not."""
    state = env.reset()
    if state["won"]:
        return None
    commands: list[str] = []
    command = adviser.advise(env, "look")
    while command is not None and len(commands) < step_limit:
        state, _, _ = env.step(command)
        commands.append(command)
        if state["won"]:
            return commands
        command = adviser.advise(env, command)
    return None
