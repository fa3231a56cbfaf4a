"""ALFWorld in AI2-THOR's own pictures: the same gymnasium.Env over the package's AlfredThorEnv."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from sim.alfworld.env import AlfworldEnv
from sim.alfworld.process import EngineProcess
from sim.alfworld.state import RoomState

ENV_NAME = "alfworld_thor"
CONTROLLERS = ("oracle", "oracle_astar")
_NEEDED = {"ai2thor": "ai2thor", "cv2": "opencv-python", "torchvision": "torchvision"}


class AlfworldThorEnv(AlfworldEnv):
    """The env of `alfworld_env`, its commands played and its images drawn by AI2-THOR.

    The same actions, observations, infos and reset options; `view_image` is RGB as everywhere here,
    scaled from a screen of `screen_size` pixels a side. `controller` is one of alfworld's own that
    need no detector: "oracle" (teleports) or "oracle_astar" (walks).
    AI2-THOR runs in a process of its own. One that does not start within `start_time_s` seconds, or
    takes longer than `command_time_s` for a command, is ended and raises EngineError (a
    RuntimeError); the next reset starts a fresh one. It needs `pip install 'alfworld[vis]'`, an X
    server, and the official games: generated ones have no scene.
    """

    games_of_an_engine = 10**9  # Unity takes a minute to start
    packages = ("alfworld", "textworld", "ai2thor")

    def __init__(
        self,
        split: str = "train",
        *,
        controller: str = "oracle",
        screen_size: int = 300,
        start_time_s: float = 900.0,
        command_time_s: float = 120.0,
        **kwargs: Any,
    ) -> None:
        missing = [pip for module, pip in _NEEDED.items() if find_spec(module) is None]
        if missing:
            raise ImportError(
                f"AI2-THOR needs the packages {', '.join(missing)}, which are missing; install "
                "them with: pip install 'alfworld[vis]'. The env alfworld draws its own images "
                "and needs none of them."
            )
        if controller not in CONTROLLERS:
            raise ValueError(
                f"Unknown AI2-THOR controller {controller!r}; there are: {', '.join(CONTROLLERS)}."
            )
        super().__init__(split, command_time_s=command_time_s, **kwargs)
        self.start_time_s = start_time_s
        self._settings = {"screen_size": int(screen_size), "controller": controller}
        self.engine = EngineProcess(command_time_s, module="sim.alfworld.thor_engine")
        self.env_args["env_name"] = ENV_NAME
        self.env_args["env_kwargs"] |= {"controller": controller, "screen_size": screen_size}
        self._frame = np.zeros((screen_size, screen_size, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start AI2-THOR where it isn't running, and the game that the seed or the options name."""
        if self.engine.pid is None:
            self.engine.request({"thor": self._settings}, self.start_time_s)
        return super().reset(seed=seed, options=options)

    @property
    def state(self) -> RoomState:
        """AI2-THOR keeps its state to itself: RuntimeError."""
        raise RuntimeError("AI2-THOR tells no facts of its rooms; use the env alfworld for them.")

    def render(self) -> np.ndarray:
        """The agent's whole screen, uint8 [screen_size, screen_size, 3], RGB."""
        return self._frame.copy()

    def _take_in(self, told: Mapping[str, Any]) -> None:
        super()._take_in(told)
        frame = np.frombuffer(base64.b64decode(told["frame"]), np.uint8)
        self._frame = frame.reshape(told["shape"])

    def view(self) -> np.ndarray:
        """The agent's view, uint8 [height, width, 3], at the size of the observations."""
        return scaled(self._frame, self.image_size)


def scaled(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """An image [h, w, 3] at another size (height, width), each pixel the mean of what it covers."""
    from PIL import Image

    height, width = size
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture).copy()


ENVIRONMENT = AlfworldThorEnv
