"""A simulator of qsft-robot as lerobot-eval wants it: pixels, agent_pos, is_success, a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import build_env, showing
from qsft_robot.parts.told_success import either, told_success

# Where neither the simulator nor its registration tells a limit.
_STEPS = 1000


class LeRobotEnv(gymnasium.Env):
    """The same episodes as `qsft-robot evaluate` has for the same seeds."""

    # lerobot-eval's workers ask for it, and end where it is missing.
    task = ""

    def __init__(
        self,
        env_args: Mapping[str, Any],
        cameras: Sequence[str],
        state_keys: Sequence[str],
        changes: Mapping[str, Any],
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode or "rgb_array"
        seen = showing(env_args, state_keys)
        self.inner = build_env(seen, **{"render_mode": self.render_mode, **changes})
        self._cameras = list(cameras)
        inner = self.inner.observation_space
        known = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {"observation": inner}
        self._keys = list(state_keys) or [
            key for key, space in known.items() if len(space.shape or ()) == 1
        ]
        if missing := [key for key in (*self._cameras, *self._keys) if key not in known]:
            raise ValueError(
                f"{env_args['env_name']} shows no {', '.join(missing)}; it shows: "
                f"{', '.join(known)}."
            )
        shown: dict[str, Any] = {}
        if self._keys:
            size = sum(known[key].shape[0] for key in self._keys)
            shown["agent_pos"] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        if self._cameras:
            pictures = {key.removesuffix("_image"): known[key] for key in self._cameras}
            shown["pixels"] = spaces.Dict(pictures)
        self.observation_space = spaces.Dict(shown)
        self.action_space = self.inner.action_space
        hz = getattr(self.inner.unwrapped, "control_hz", None) or env_args.get("control_hz") or 10.0
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": float(hz)}
        limit = getattr(self.inner.unwrapped, "max_steps", None)
        spec = self.inner.spec
        self._max_episode_steps = limit or (spec and spec.max_episode_steps) or _STEPS
        self._instruction = ""
        self._succeeded: bool | None = None

    @property
    def task_description(self) -> str:
        """The instruction of the episode."""
        return self._instruction

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        # LeRobot's own options are nothing to the simulator.
        observation, info = self.inner.reset(seed=seed)
        self._succeeded = None
        self._instruction = str(info.get("instruction", ""))
        return self._shown(observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.inner.step(action)
        self._succeeded = either(self._succeeded, told_success(info))
        self._instruction = str(info.get("instruction", self._instruction))
        told = {"is_success": bool(self._succeeded)}
        return self._shown(observation), float(reward), bool(terminated), bool(truncated), told

    def render(self) -> Any:
        return self.inner.render()

    def close(self) -> None:
        self.inner.close()

    def _shown(self, observation: Any) -> dict[str, Any]:
        seen = as_mapping(observation)
        shown: dict[str, Any] = {}
        if self._keys:
            parts = [np.asarray(seen[key], np.float32) for key in self._keys]
            shown["agent_pos"] = np.concatenate(parts)
        if self._cameras:
            shown["pixels"] = {key.removesuffix("_image"): seen[key] for key in self._cameras}
        return shown
