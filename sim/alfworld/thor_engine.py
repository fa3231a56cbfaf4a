"""The child process that runs ALFWorld's AI2-THOR environment, AlfredThorEnv, on request."""

from __future__ import annotations

import base64
import json
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from alfworld.agents.environment.alfred_thor_env import AlfredThorEnv

from sim.alfworld.process import answer_requests

_TASK = re.compile(r"Your task is to: (.*?)\.?\s*$", re.DOTALL)
_SCENE = ("scene_num", "object_poses", "dirty_and_empty", "object_toggles", "init_action")
_MOVE = re.compile(r"^move (.+) to (\S+ \d+)$")


def thor_config(screen_size: int, controller: str) -> dict[str, Any]:
    """The configuration that AlfredThorEnv reads; the step limit is left to the caller."""
    return {
        "env": {
            "goal_desc_human_anns_prob": 0.0,
            "thor": {
                "screen_height": screen_size,
                "screen_width": screen_size,
                "smooth_nav": False,
                "save_frames_to_disk": False,
                "save_frames_path": "",
            },
        },
        "controller": {"type": controller, "load_receps": False, "debug": False},
        "general": {"training_method": "dagger"},
        "dagger": {"training": {"max_nb_steps_per_episode": 10**9}},
    }


def to_thor(command: str) -> str:
    """A command as the controller understands it. alfworld 0.4.2 lists "move mug 1 to shelf 2"
    among its admissible commands, while its controllers listen for "put mug 1 in/on shelf 2"."""
    moved = _MOVE.match(command)
    return f"put {moved[1]} in/on {moved[2]}" if moved else command


class _Session:
    """AlfredThorEnv's player without its thread: called here, it can neither die unseen nor be
    waited for in vain."""

    def __init__(self) -> None:
        self.thor: Any = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if "thor" in request:
            # Told not to train, it leaves out its expert, who prints and would take half the time.
            self.thor = AlfredThorEnv.Thor(None, train_eval="eval")
            self.thor.init_env(thor_config(**request["thor"]))
            return {}
        if self.thor is None:
            raise RuntimeError("AI2-THOR was not started")
        if "game" in request:
            task_file = Path(request["game"]).parent / "traj_data.json"
            _check_scene(task_file)
            random.seed(0)  # the words of the task are drawn from Python's own generator
            self.thor.reset(str(task_file))
        elif "command" in request:
            self.thor.step(to_thor(request["command"]))
        else:
            raise ValueError(
                "The expert plays in the text engine; AI2-THOR only shows: collect with "
                "env_name alfworld."
            )
        feedback, _, commands, won, _, _ = self.thor.get_results()
        # Its frame is turned to OpenCV's order of colors, blue first.
        frame = np.ascontiguousarray(self.thor.get_last_frame()[:, :, ::-1], np.uint8)
        told = {
            "feedback": feedback,
            "admissible_commands": sorted(set(commands)),
            "won": bool(won),
            "facts": [],
            "frame": base64.b64encode(frame.tobytes()).decode(),
            "shape": frame.shape,
        }
        if "game" in request:
            found = _TASK.search(feedback)
            told["instruction"] = found[1].strip() if found else ""
        return told


def _check_scene(task_file: Path) -> None:
    scene = json.loads(task_file.read_text()).get("scene", {})
    missing = [key for key in _SCENE if key not in scene]
    if missing:
        raise ValueError(
            f"{task_file}: no {', '.join(missing)} of a scene, so AI2-THOR can't set it up. It "
            "plays the official games alone (alfworld-download fetches them)."
        )


def serve(connection: int) -> None:
    """Answer JSON requests over an inherited file descriptor until it is closed.

    {"thor": {"screen_size", "controller"}} starts AI2-THOR, {"game": path of game.tw-pddl} starts
    a game, {"command": words} plays a step. A mistake comes back as {"error", "kind"}.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # both packages print
    session = _Session()
    answer_requests(connection, session.answer)
