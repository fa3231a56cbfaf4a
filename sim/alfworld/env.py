"""ALFWorld's household tasks as a gymnasium.Env: text and images in, commands out."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.alfworld.folders import Game, find_games, games_folder
from sim.alfworld.layouts import package_folder, read_layout
from sim.alfworld.problem import TASK_TYPES
from sim.alfworld.process import EngineProcess
from sim.alfworld.state import RoomState, state_from_facts
from sim.argument_kinds import checked_arguments

ENV_NAME = "alfworld"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
CAMERAS = ("view",)
MAX_STEPS = 50
_LOAD_S = 120.0  # reading and translating a game takes about a second on an idle core
_VIDEO_SIZE = (256, 256)
_CHARACTERS = frozenset(string.printable)
_COMMAND_LENGTH, _TEXT_LENGTH = 200, 20_000


class AlfworldEnv(gymnasium.Env[dict[str, Any], str]):
    """One game an episode, played in ALFWorld's own text engine, drawn from the engine's state.

    Action, str: a command, e.g. "take mug 1 from shelf 2". Observation:
    `view_image`, uint8 [h, w, 3]: what the agent sees from where it stands (not with cameras=());
    `feedback`, str: what the engine said to the last command, at reset what is in the room;
    `admissible_commands`, str: what can be done now, sorted, one command a line.
    Reward 1 at the first success, else 0; at most `max_steps` steps. A command that is not
    admissible changes nothing, takes a step and is told by info["invalid_command"]. info also holds
    `instruction`, `success`, `task_type`, `game` (its id) and `split`.
    The seed of a reset alone determines the game and the episode; seeds that follow each other play
    different games, types taking turns. Reset options (JSON types): `game` (index or id),
    `task_type`, `max_steps`.
    The engine runs in a process of its own: one that hangs past `command_time_s` seconds or dies
    raises EngineError (a RuntimeError), and the next reset starts a fresh one.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own)
    control_hz = 2.0  # how fast videos play; the engine knows no time
    # A fresh engine after so many games: TextWorld keeps every fact that it ever saw, which grew an
    # engine by .9 MB a game, from 85 MB to 151 in 70 games.
    games_of_an_engine = 200
    # What makes its facts and its pixels.
    packages = ("alfworld", "textworld", "mujoco")

    def __init__(
        self,
        split: str = "train",
        *,
        task_types: Sequence[str] = TASK_TYPES,
        data: str | None = None,
        cameras: Sequence[str] = CAMERAS,
        image_size: int | Sequence[int] = 128,
        max_steps: int = MAX_STEPS,
        terminate_on_success: bool = True,
        command_time_s: float = 30.0,
        render_mode: str | None = None,
    ) -> None:
        package_folder()  # ImportError with the install line
        unknown = [camera for camera in cameras if camera not in CAMERAS]
        if unknown:
            raise ValueError(
                f"Unknown ALFWorld cameras {unknown}; there are: {', '.join(CAMERAS)}."
            )
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 8:
            raise ValueError(
                f"image_size {image_size!r}: give a side or [height, width], 8 or more."
            )
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        self.split, self.cameras = split, tuple(cameras)
        self.image_size: tuple[int, int] = (int(size[0]), int(size[1]))
        self.games = find_games(split, task_types, data)
        self.terminate_on_success, self.render_mode = terminate_on_success, render_mode
        self._default_max_steps = self.max_steps = int(max_steps)
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "env_version": version("alfworld"),
            "type": ENV_TYPE,
            "env_kwargs": {
                "split": split,
                "task_types": list(task_types),
                "data": None if data is None else str(data),
                "cameras": list(self.cameras),
                "image_size": list(self.image_size),
                "max_steps": self._default_max_steps,
            },
            # What the logs were collected in; not needed to build the environment.
            "games": {"kind": games_folder(data).name, "number": len(self.games)},
        }
        self.engine = EngineProcess(command_time_s)
        self.game: Game | None = None
        self.instruction, self.feedback = "", ""
        self.commands: tuple[str, ...] = ()
        self.facts: list[list[str]] = []
        self.advice: str | None = None  # the expert's next command, once it was asked
        self._steps, self._succeeded, self._playing = 0, False, False
        self._won = False  # as things are now; `_succeeded` stays
        self._games_left = self.games_of_an_engine
        self.action_space = spaces.Text(_COMMAND_LENGTH, charset=_CHARACTERS)
        images = {
            f"{camera}_image": spaces.Box(0, 255, (*self.image_size, 3), np.uint8)
            for camera in self.cameras
        }
        texts = {
            key: spaces.Text(_TEXT_LENGTH, min_length=0, charset=_CHARACTERS)
            for key in ("feedback", "admissible_commands")
        }
        self.observation_space = spaces.Dict({**images, **texts})

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the game that the seed or the options name. ValueError on an unknown option or a
        corrupt game, EngineError when the engine fails."""
        super().reset(seed=seed)
        options = dict(options or {})
        unknown = sorted(set(options) - {"game", "task_type", "max_steps"})
        if unknown:
            raise ValueError(
                f"Unknown reset options {unknown} of alfworld; there are: game, task_type, "
                "max_steps."
            )
        options = checked_arguments("reset options of alfworld", {"max_steps": int}, options)
        self.max_steps = options.get("max_steps", self._default_max_steps)
        turn = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self.game = self._choose(turn, options)
        self._playing = False
        if self._games_left == 0:
            self.engine.close()
        self._games_left = (self._games_left or self.games_of_an_engine) - 1
        told = self.engine.request({"game": str(self.game.file)}, _LOAD_S)
        self._playing, self._steps, self._succeeded, self._won = True, 0, False, False
        self.instruction, self.advice = told["instruction"], None
        self._take_in(told)
        return self._observation(), self._info(False)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Play one command."""
        if not self._playing:
            raise RuntimeError("No ALFWorld game is running; call reset first.")
        invalid = action not in self.commands
        try:
            told = self.engine.request({"command": str(action)})
        except Exception:
            self._playing = False
            raise
        self._take_in(told)
        self._steps += 1
        reward = float(told["won"] and not self._succeeded)
        self._won = bool(told["won"])
        self._succeeded |= self._won
        terminated = self._succeeded and self.terminate_on_success
        truncated = not terminated and self._steps >= self.max_steps
        return self._observation(), reward, terminated, truncated, self._info(invalid)

    def ask_expert(self, task: Mapping[str, str], seed: int) -> None:
        """Let the engine's handcoded expert follow the episode from here: `advice` is then its next
        command after every step, None where it knows no more. `task` replaces entries of the
        game's own task: task_type, object_target, parent_target, toggle_target."""
        self.advice = self.engine.request({"task": dict(task), "seed": int(seed)})["advice"]

    @property
    def state(self) -> RoomState:
        """The room as it is now; RuntimeError before the first reset."""
        if self.game is None:
            raise RuntimeError("No ALFWorld game is running; call reset first.")
        return state_from_facts(self.facts, read_layout(self.game.floor_plan))

    def render(self) -> np.ndarray:
        """The whole room, uint8 [256, 256, 3]."""
        from sim.alfworld.drawing.view import draw_room

        return draw_room(self.state, _VIDEO_SIZE)

    def close(self) -> None:
        """End the engine's process."""
        self.engine.close()
        self._playing = False

    def _choose(self, turn: int, options: Mapping[str, Any]) -> Game:
        """The game that a turn or the reset options name."""
        games, kind, wanted = self.games, options.get("task_type"), options.get("game")
        if kind is not None:
            games = tuple(game for game in games if game.task_type == kind)
            if not games:
                types = sorted({game.task_type for game in self.games})
                raise ValueError(
                    f"No game of task type {kind!r} in split {self.split}; there are: "
                    f"{', '.join(types)}."
                )
        if wanted is None:
            return games[turn % len(games)]
        if isinstance(wanted, int) and 0 <= wanted < len(games):
            return games[wanted]
        named = [game for game in games if game.id == wanted]
        if not named:
            raise ValueError(
                f"No game {wanted!r} in split {self.split}; give an index below {len(games)} or an "
                f"id such as {games[0].id!r}."
            )
        return named[0]

    def _take_in(self, told: Mapping[str, Any]) -> None:
        self.feedback, self.facts = told["feedback"], told["facts"]
        self.commands = tuple(sorted(told["admissible_commands"]))
        self.advice = told.get("advice")

    def _observation(self) -> dict[str, Any]:
        observation: dict[str, Any] = {}
        if self.cameras:
            observation["view_image"] = self.view()
        observation["feedback"] = self.feedback
        observation["admissible_commands"] = "\n".join(self.commands)
        return observation

    def view(self) -> np.ndarray:
        """The agent's view, uint8 [height, width, 3], at the size of the observations."""
        from sim.alfworld.drawing.view import draw_view

        return draw_view(self.state, self.image_size)

    def _info(self, invalid: bool) -> dict[str, Any]:
        assert self.game is not None
        return {
            "instruction": self.instruction,
            "success": self._won,
            "task_type": self.game.task_type,
            "game": self.game.id,
            "split": self.split,
            "invalid_command": invalid,
        }


ENVIRONMENT = AlfworldEnv
